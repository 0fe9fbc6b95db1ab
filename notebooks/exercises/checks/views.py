"""Checks of the exercises of notebook 07b: those that train here, and the other two beside it."""

import math
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from simlab.methods import nt_xent

from . import drawings
from .confusions import confusions
from .judge import call, described, draws, exercise, near, need, number, tensor
from .retrieval import recall, recall_of

__all__ = ["batches", "confusions", "contrast_things", "recall"]

TEMPERATURE = 0.2  # of the trainings


# ----------------------------------------------------------------------------------- the batches

SIZE, BATCHES = 4, 600  # things in a batch, and how many batches are looked at


@exercise
def batches(answer) -> str:
    """draw_batch(things, designers [N], size, generator) -> indices first, second [size] each."""
    things, designers = drawings.shelf()
    first, second = _batch(answer, things, designers, SIZE, draws())
    _judge_pairs(things, designers, first, second)
    again = _batch(answer, things, designers, SIZE, draws())
    need(
        torch.equal(first, again[0]) and torch.equal(second, again[1]),
        "the same seed gives another batch: hand `generator` to every random draw.",
    )
    generator = draws(1)
    many = [_batch(answer, things, designers, SIZE, generator) for _ in range(BATCHES)]
    need(
        not all(torch.equal(first, other) for other, _ in many),
        "every call gives the same batch. The generator is handed over so that the next call draws "
        "other things: do not seed a new one.",
    )
    for pair in many:
        _judge_pairs(things, designers, *pair)
    _judge_chances(things, designers, many)
    _report_training(lambda encoder, generator: _pair_loss(answer, encoder, generator))
    return "Different things in a batch, each by two designers, and every pair has its turn."


def _batch(answer, things: Tensor, designers: Tensor, size: int, generator) -> tuple:
    """What the answer draws, if it is two vectors of indices."""
    result = call(answer, things.clone(), designers.clone(), size, generator)
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    need(is_pair, f"a pair (first, second) was expected, and yours is {described(result)}.")
    for indices in result:
        is_whole = isinstance(indices, Tensor) and indices.dtype == torch.int64
        need(
            is_whole and indices.shape == (size,),
            f"{size} indices were expected in each, int64 of shape [{size}], and not "
            f"{described(indices)}.",
        )
        need(
            indices.min() >= 0 and indices.max() < len(things),
            "indices of drawings were expected, from 0 to N - 1. Are these the numbers of things?",
        )
    return tuple(result)


def _judge_pairs(things: Tensor, designers: Tensor, first: Tensor, second: Tensor):
    need(
        (first != second).all(),
        "a drawing is paired with itself: both views are the same, and nothing is to be learned.",
    )
    need(
        (things[first] == things[second]).all(),
        "a pair shows two different things: `things` of both must be the same.",
    )
    need(
        (designers[first] != designers[second]).all(),
        "a pair is by one designer. What these two have in common is the style as well as the "
        "thing; leave out what one designer alone has drawn.",
    )
    need(
        len(things[first].unique()) == len(first),
        "a thing is in the batch twice. NT-Xent then pushes drawings of one thing apart (false "
        "negatives): draw things, and then two drawings of each.",
    )


def _judge_chances(things: Tensor, designers: Tensor, many: list[tuple[Tensor, Tensor]]):
    """Need all pairs, in both orders, and things as often as one another."""
    same_thing = things[:, None] == things[None, :]
    allowed = same_thing & (designers[:, None] != designers[None, :])  # [N, N]
    drawn = torch.zeros_like(allowed)
    for first, second in many:
        drawn[first, second] = True
    in_both_orders = drawn & drawn.T
    need(
        in_both_orders.any(),
        "the pairs have one order only: the same designer's drawing is always the first. Draw the "
        "first at random among all of a thing's.",
    )
    need(
        torch.equal(drawn, allowed),
        f"{int((allowed & ~drawn).sum())} of {int(allowed.sum())} pairs never occur in {BATCHES} "
        "batches: draw at random among all drawings of a thing, and not the first that fits.",
    )
    counts = torch.cat([things[first] for first, _ in many]).unique(return_counts=True)[1]
    need(
        counts.max() < 1.3 * counts.float().mean() and counts.min() > 0.7 * counts.float().mean(),
        f"things have different chances: the rarest was drawn {int(counts.min())} times and the "
        f"most frequent {int(counts.max())} times. Draw among the *things* that have a pair: "
        "among the drawings, a thing with more of them is drawn more often.",
    )


def _pair_loss(answer, encoder: nn.Module, generator: torch.Generator) -> Tensor:
    train = drawings.emoji()[0]
    pairs = _batch(answer, train.things, train.designers, 64, generator)
    z1, z2 = (encoder(drawings.standardised(train.images[indices])) for indices in pairs)
    return nt_xent(z1, z2, TEMPERATURE)


def _report_training(loss: Callable[[nn.Module, torch.Generator], Tensor]):
    """Train a small network, and print what it finds before and after."""
    test = drawings.emoji()[1]
    encoder = drawings.new_encoder()
    recalls = []
    for trained in (False, True):
        if trained:
            drawings.train(encoder, lambda generator: loss(encoder, generator))
        features = drawings.features_of(encoder, test.images)
        recalls.append(recall_of(features, test.things, test.designers, 1))
    pixels = drawings.standardised(test.images).flatten(1)
    of_pixels = recall_of(pixels, test.things, test.designers, 1)
    print(
        f"held-out things found at the first try: raw pixels {of_pixels:.2f}, untrained "
        f"{recalls[0]:.2f}, after {drawings.STEPS} steps of yours {recalls[1]:.2f}"
    )


# -------------------------------------------------------------------------------- many positives


@exercise
def contrast_things(answer) -> str:
    """contrast_things(z [N, d], things [N], temperature) -> one number."""
    things = torch.tensor([5, 2, 5, 7, 2, 5, 9, 7, 7, 1, 7, 9])  # 1 alone
    z = torch.randn(200, 6, generator=draws())[things] + torch.randn(12, 6, generator=draws(1))
    z = z * (0.5 + torch.rand(12, 1, generator=draws(2)))
    result = call(answer, z.clone(), things, 0.5)
    need(
        not isinstance(result, Tensor) or result.numel() == 0 or not result.isnan().any(),
        "it is NaN. One of these drawings is alone: the mean over its positives is 0 / 0; leave it "
        "out. And zero times an infinity is NaN: choose entries (torch.where, masked_fill) rather "
        "than multiply by a mask.",
    )
    value = float(tensor(answer, z.clone(), things, 0.5, shape=()))
    right = float(_contrast(z, things, 0.5))
    for why, slip in _WRONG_CONTRASTS.items():
        wrong = float(_contrast(z, things, 0.5, **slip))
        need(not near(value, wrong, 1e-5), f"the loss is {value:.4f}: {why}")
    need(not near(value, -right, 1e-5), f"the loss is {value:.4f}: it has the wrong sign.")
    need(near(value, right, 1e-4), f"the loss is {value:.4f}, expected {right:.4f}.")
    other = number(answer, z.clone(), things, 0.1)
    need(near(other, _contrast(z, things, 0.1), 1e-4), "with another temperature it is wrong.")
    _judge_closed_forms(answer)
    needs_gradient = z.clone().requires_grad_()
    loss = tensor(answer, needs_gradient, things, 0.5, shape=())
    need(loss.requires_grad, "no gradient flows: nothing can be trained with it.")
    _report_training(lambda encoder, generator: _thing_loss(answer, encoder, generator))
    return "All drawings of a thing attract one another, and NT-Xent is the case of two."


_WRONG_CONTRASTS: dict[str, dict] = {
    "the mean over the positives is inside the logarithm. That is a loss as well (L_in), and the "
    "paper finds it worse; the mean of the logarithms was asked.": {"inside": True},
    "the positives of a drawing are added and not averaged: things with more drawings count "
    "more.": {"added": True},
    "it is the mean over all pairs, so that things with more drawings count more. First the mean "
    "over the positives of each drawing, then over the drawings.": {"over_pairs": True},
    "only one positive of each drawing is used: all other drawings of the thing are.": {
        "first_only": True
    },
    "each drawing is in its own denominator, and nothing is more similar. Leave the diagonal "
    "out.": {"with_itself": True},
    "the other positives are left out of the denominator, as in exercise 3.2. Here the sum runs "
    "over *all* other drawings.": {"negatives_only": True},
    "a drawing without positives counts as a loss of 0. Leave it out of the mean; as a negative "
    "of the others it stays.": {"alone": True},
    "a drawing without positives is left out altogether. It has no loss, but the others are still "
    "to be told from it: it stays in their denominators.": {"alone_gone": True},
    "the rows were not divided by their lengths: these are inner products, and no cosines.": {
        "normalised": False
    },
    "each channel was divided by its length over the batch (dim=0): batch and feature axes are "
    "swapped. Divide each drawing's z by its own length: dim=1.": {"dim": 0},
    "it was multiplied by the temperature. Divide: a low one makes differences larger.": {
        "multiplied": True
    },
    "it is the sum over the drawings: take their mean.": {"reduction": torch.sum},
}


def _contrast(z: Tensor, things: Tensor, temperature: float, **slip) -> Tensor:
    """Equation 2 of Khosla et al. as a mean over drawings that have a positive, or a slip in it."""
    if "alone_gone" in slip:
        is_left = (things[:, None] == things[None, :]).sum(1) > 1
        z, things = z[is_left], things[is_left]
    u = F.normalize(z, dim=slip.get("dim", 1)) if slip.get("normalised", True) else z
    s = u @ u.T * temperature if "multiplied" in slip else u @ u.T / temperature  # [N, N]
    is_itself = torch.eye(len(z), dtype=torch.bool)
    positive = (things[:, None] == things[None, :]) & ~is_itself
    denominator = s if "with_itself" in slip else s.masked_fill(is_itself, -math.inf)
    total = denominator.logsumexp(1, keepdim=True)  # [N, 1]
    if "negatives_only" in slip:
        negatives = s.masked_fill(positive | is_itself, -math.inf).logsumexp(1, keepdim=True)
        total = torch.logaddexp(s, negatives)
    log_share = s - total  # [N, N]
    if "first_only" in slip:
        positive = positive & (positive.cumsum(1) == 1)
    if "over_pairs" in slip:
        return -log_share[positive].mean()
    has_positive = positive.any(1)
    count = positive.sum(1).clamp(min=1)
    of_drawing = -log_share.masked_fill(~positive, 0).sum(1)  # [N]
    if "added" not in slip:
        of_drawing = of_drawing / count
    if "inside" in slip:
        of_drawing = count.log() - log_share.masked_fill(~positive, -math.inf).logsumexp(1)
    if "alone" not in slip:
        of_drawing = of_drawing[has_positive]
    return slip.get("reduction", torch.mean)(of_drawing)


def _judge_closed_forms(answer):
    z1, z2 = torch.randn(2, 8, 6, generator=draws(3))
    twice = torch.arange(8).repeat(2)
    need(
        near(number(answer, torch.cat([z1, z2]), twice, 0.3), nt_xent(z1, z2, 0.3), 1e-4),
        "with two drawings of every thing it should be SimCLR's NT-Xent.",
    )
    same = torch.ones(12, 6)
    three_each = torch.arange(4).repeat_interleave(3)
    need(
        near(number(answer, same, three_each, 0.3), math.log(11), 1e-4),
        "with 12 drawings that are all alike it should be log 11.",
    )
    apart = torch.eye(6)[three_each]
    lowest = math.log(2 + 9 * math.exp(-1 / 0.3))
    value = number(answer, apart, three_each, 0.3)
    need(near(value, lowest, 1e-4), f"four orthogonal things: {value:.4f}, expected {lowest:.4f}.")
    print(f"three drawings of each of four things, perfectly told apart: {value:.2f}, and not 0")


def _thing_loss(answer, encoder: nn.Module, generator: torch.Generator) -> Tensor:
    train = drawings.emoji()[0]
    every_thing = train.things.unique()
    chosen = every_thing[torch.randperm(len(every_thing), generator=generator)[:36]]
    indices = torch.isin(train.things, chosen).nonzero()[:, 0]  # two to four of each
    z = encoder(drawings.standardised(train.images[indices]))
    return tensor(answer, z, train.things[indices], TEMPERATURE, shape=())
