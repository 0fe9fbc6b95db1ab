"""Checks of the exercises of notebook 04."""

import math

import numpy as np
import torch

from .judge import call, draws, exercise, near, need, number, tensor


def _marked(batch: int = 6, tokens: int = 40, channels: int = 3):
    """x, y [B, N, C] in which every token carries its place: x its number, y its number + 1000."""
    place = torch.arange(tokens).float()[None, :, None].expand(batch, tokens, channels)
    return place.clone(), place + 1000


def _places(answer, seed: int, n: int = 8):
    """The places [B, n] that were chosen, after all that both ways of sampling have in common."""
    x, y = _marked()
    torch.manual_seed(seed)
    pair = call(answer, x, y, n)
    need(
        isinstance(pair, tuple | list) and len(pair) == 2, "the tokens of x and of y: two tensors."
    )
    chosen = tensor(lambda: pair[0], shape=(6, n, 3))
    partner = tensor(lambda: pair[1], shape=(6, n, 3))
    need(
        (partner - 1000 == chosen).all(),
        "the tokens of y stand at other places than those of x. SIM rebuilds the input of a place "
        "from the output of the *same* place: use the same indices twice.",
    )
    places = chosen[:, :, 0].long()
    need(
        all(len(row.unique()) == n for row in places),
        "a token was drawn twice. Draw without putting back: randperm or argsort(rand), not "
        "randint.",
    )
    return places


@exercise
def sample(answer) -> str:
    """sample_tokens(x, y, n): the same n places of both, one choice for the whole batch (v0)."""
    places = _places(answer, 0)
    need(
        (places == places[:1]).all(),
        "every image of the batch has its own choice. That is v1, the next exercise; v0 is one "
        "choice for all of them, which is one cheap index_select.",
    )
    seen = torch.cat([_places(answer, seed)[0] for seed in range(60)]).unique()
    need(
        len(seen) > 8,
        "every call draws the same tokens, so the others would never be rebuilt: draw them at "
        "random.",
    )
    need(
        len(seen) == 40,
        f"in 60 draws only {len(seen)} of 40 places ever came up: every one needs the same chance.",
    )
    return "One draw, without repetition, the same places of x and y."


@exercise
def sample_each(answer) -> str:
    """sample_each(x, y, n): the same n places of both, another choice for each image (v1)."""
    places = _places(answer, 0)
    need(
        not (places == places[:1]).all(),
        "all images of the batch share one choice: that is v0. Draw [B, N] random numbers and "
        "sort each row.",
    )
    places = torch.cat([_places(answer, seed) for seed in range(60)])
    counts = places.flatten().bincount(minlength=40)
    need(counts.min() > 0, "some places never come up: every one needs the same chance.")
    need(counts.max() < 3 * counts.min(), "some places come up far more often than others.")
    return "A draw for each image, paired between x and y."


@exercise
def distance(answer) -> str:
    """norm_mse(zy, zx) of [B, n, C]: standardised over the tokens, mean norm of the difference."""
    zy, zx = torch.randn(2, 4, 32, 5, generator=draws())
    value = tensor(answer, zy, zx, shape=())
    need(near(tensor(answer, zx, zx, shape=()), 0, 1e-4), "of equal projections it should be 0.")
    scale = torch.tensor([1.0, 2.0, 5.0, 10.0, 20.0])
    shift = torch.tensor([0.0, 3.0, -3.0, 9.0, 1])
    need(
        near(tensor(answer, zy * scale + shift, zx, shape=()), value, 0.01),
        "it changes when a channel is stretched and shifted. Standardise each channel over the "
        "*tokens* (dim 1); otherwise the predictor could win by making everything small.",
    )
    a = (zy - zy.mean(1, keepdim=True)) / (zy.std(1, keepdim=True) + 1e-6)
    b = (zx - zx.mean(1, keepdim=True)) / (zx.std(1, keepdim=True) + 1e-6)
    squared = float((a - b).pow(2).sum(-1).mean())
    need(
        not near(value, squared, 1e-3),
        "that is the mean of the squared norms. SIM takes the norm itself, despite its name: far "
        "tokens then pull no harder than near ones.",
    )
    need(
        not near(value, squared / 5, 1e-3),
        "that is the plain mean squared error after standardising. SIM takes the length of the "
        "difference over the channels, then the mean over tokens.",
    )
    right = (a - b).norm(dim=-1).mean()
    need(near(value, right, 1e-3), f"it is {float(value):.3f} and should be {float(right):.3f}.")
    zy, zx = zy.clone().requires_grad_(), zx.clone().requires_grad_()
    value = tensor(answer, zy, zx, shape=())
    if value.requires_grad:
        value.backward()
    need(zy.grad is not None, "no gradient reaches zy: the block would learn nothing.")
    need(
        zx.grad is None or not zx.grad.any(),
        "a gradient flows into zx. It is the target: detach it, as in SimSiam's loss.",
    )
    return "Blind to each channel's scale and shift, a norm, and the target gets no gradient."


@exercise
def difference(answer) -> str:
    """difference(a [n], b [n]) -> (low, high): 95 % interval of the mean of a - b, seeds paired."""
    a = np.array([0.61, 0.55, 0.66, 0.58, 0.63])
    b = np.array([0.60, 0.53, 0.64, 0.57, 0.61])
    interval = call(answer, a, b)
    need(isinstance(interval, tuple | list) and len(interval) == 2, "two numbers: (low, high).")
    low = number(lambda: interval[0])
    high = number(lambda: interval[1])
    d = a - b
    need(near((low + high) / 2, d.mean(), 1e-4), "its middle is not the mean of a - b.")
    half = (high - low) / 2
    error = d.std(ddof=1) / 5**0.5
    unpaired_error = math.sqrt(a.var(ddof=1) / 5 + b.var(ddof=1) / 5)
    need(
        half < 1.9 * unpaired_error,
        "it holds 0 although a is better with every single seed. a and b share their seeds: take "
        "the differences first. The seeds' own ups and downs then cancel.",
    )
    need(
        not near(half, 2.776 * d.std(ddof=1), 1e-4) and not near(half, 1.96 * d.std(ddof=1), 1e-4),
        "that is the spread of single seeds. The mean of n is surer by sqrt(n): divide by it.",
    )
    need(
        not near(half, 1.96 * error, 2e-4),
        "1.96 is for very many seeds. With five, Student's t with four degrees of freedom gives "
        "2.776: few seeds know their own spread badly.",
    )
    need(
        not near(half, 2.776 * d.std() / 5**0.5, 1e-4),
        "NumPy's std divides by n: with five seeds that is 11 % too small. Use ddof=1.",
    )
    need(
        near(half, 2.776 * error, 1e-4),
        f"its half width is {half:.4f} and should be {2.776 * error:.4f}.",
    )
    return "Paired by seed, with Student's t: an interval that few seeds can honestly give."
