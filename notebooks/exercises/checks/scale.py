"""Checks of the exercises of notebook 06."""

import math

import numpy as np
import torch

from .judge import call, described, exercise, near, need, number


@exercise
def rate(answer) -> str:
    """rate(step, steps, warmup, lr, batch_size): warm-up, then half a cosine; lr is for 256."""
    curve = np.array([number(answer, s, 100, 10, 0.1, 256) for s in range(100)])
    need(
        near(number(answer, 30, 100, 10, 0.1, 1024), 4 * curve[30]),
        "with batches four times as large the learning rate should be four times as high: "
        "lr * batch_size / 256 (Goyal et al., 2017).",
    )
    need(curve.max() < 0.1001, f"it rises to {curve.max():.3f}, above lr = 0.1.")
    need(
        curve[0] < 0.5 * curve.max(),
        "it begins at full height. During warm-up it rises in a straight line from near 0.",
    )
    need(
        np.all(np.diff(curve[:10]) > 0) and near(curve[2] - curve[1], curve[8] - curve[7]),
        "it does not rise in a straight line during the warm-up.",
    )
    need(
        curve[10] > 0.098,
        f"after the warm-up it is {curve[10]:.3f} and not lr: the cosine has to begin where the "
        "warm-up ends, not at step 0.",
    )
    need(np.all(np.diff(curve[10:]) <= 1e-9), "after the warm-up it should only fall.")
    need(curve[-1] < 0.005, f"at the end it is {curve[-1]:.3f}: half a cosine ends near 0.")
    half = number(answer, 55, 100, 10, 0.1, 256)
    need(near(half, 0.05, 0.003), f"half-way down it is {half:.3f}: a cosine is at lr / 2 there.")
    need(
        all(math.isfinite(number(answer, s, 100, 0, 0.1, 256)) for s in (0, 50)),
        "without warm-up it fails.",
    )
    return "Scaled with the batch, up in a line, down in a cosine."


@exercise
def share(answer) -> str:
    """share(order [N], rank, world) -> the piece of an epoch's order that one process trains on."""
    order = torch.randperm(103, generator=torch.Generator().manual_seed(0))
    shares = [call(answer, order, rank, 4) for rank in range(4)]
    for piece in shares:
        is_vector = isinstance(piece, torch.Tensor) and piece.ndim == 1
        need(
            is_vector and piece.dtype == torch.int64,
            f"a piece of `order` was expected, whole numbers, not {described(piece)}.",
        )
    drawn = torch.cat(shares)
    need(
        not all(torch.equal(shares[0], piece) for piece in shares),
        "every process gets the same images: four GPUs would do the same work four times.",
    )
    counts = drawn.bincount(minlength=103)
    need(counts.max() == 1, "some image goes to two processes.")
    need(
        counts.min() == 1,
        f"{int((counts == 0).sum())} of 103 images go to nobody. With test images this makes the "
        "accuracy depend on the number of GPUs.",
    )
    sizes = [len(piece) for piece in shares]
    need(max(sizes) - min(sizes) <= 1, f"the shares are {sizes}: the others wait for the largest.")
    again = torch.cat([call(answer, order.flip(0), rank, 4) for rank in range(4)])
    need(
        not torch.equal(again, drawn),
        "it does not follow `order`: each epoch would see the images in the same order.",
    )
    return "Every image once, nearly equal shares, whatever the order."
