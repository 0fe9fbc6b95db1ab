"""Whether SIM's projector has collapsed: then its loss is next to nothing, and so is its effect.

A projector that maps every token onto one direction makes prediction and target agree whatever the
block does. It shows in two numbers together: the loss is a small fraction of what it was at first,
and the projections of different tokens point the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

COLLAPSED_LOSS = 1e-3  # of the first loss
COLLAPSED_COSINE = 0.99  # mean over pairs of different tokens
MAX_SAMPLES = 16  # so many samples of a batch are looked at,
MAX_TOKENS = 4  # and so many tokens of each


class CollapseWatch:
    """What is remembered of a block's forward passes, to notice a collapse; without graphs.

    Attributes:
        first: The distance of the first pass, without beta; None before it.
        latest: That of the latest pass.
        tokens: Some projected tokens of the latest pass, [M, proj_dim].
    """

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.latest: Tensor | None = None
        self.tokens: Tensor | None = None

    def see(self, distance: Tensor, target: Tensor) -> None:
        """Remember a pass: its distance, a scalar, and its projected tokens [B, n, proj_dim]."""
        self.latest = distance.detach()
        if self.first is None:
            self.first = self.latest
        sample = target.detach()[:MAX_SAMPLES, :MAX_TOKENS]
        self.tokens = sample.flatten(0, 1).clone()  # a view would keep all tokens alive

    def cosine_if_collapsed(self) -> float | None:
        """The mean cosine of different tokens where the projector has collapsed, else None.

        Waits for the device.
        """
        if self.first is None or self.latest is None or self.tokens is None:
            return None
        first = float(self.first)
        if not (first > 0 and float(self.latest) <= COLLAPSED_LOSS * first):
            return None
        cosine = mean_cosine(self.tokens)
        return cosine if cosine > COLLAPSED_COSINE else None


def mean_cosine(tokens: Tensor) -> float:
    """Mean cosine over all pairs of different rows of [M, d]; NaN for a single row."""
    unit = functional.normalize(tokens.float(), dim=1)
    count = len(unit)
    total = float(unit.sum(0).square().sum())  # all pairs, each row with itself as well
    with_itself = float(unit.square().sum())
    if count < 2:
        return float("nan")
    return (total - with_itself) / (count * (count - 1))


def worded(collapsed: dict[str, float]) -> str:
    """Say which blocks' projectors have collapsed, given the mean cosine of each."""
    parts = [f"{name!r} (cosine {cosine:.3f})" for name, cosine in collapsed.items()]
    return (
        f"SIM's projector has collapsed on {', '.join(parts)}: its loss is less than "
        f"{COLLAPSED_LOSS:g} of the first one, and different tokens are projected onto one "
        "direction. SIM does nothing there any more: try another loss_type (norm_mse cannot "
        "collapse so), a smaller beta or another block"
    )


def remember_first(watch: CollapseWatch, first: float, device: torch.device | None) -> None:
    """Set the first distance, as it was before a run was stopped."""
    watch.first = torch.tensor(first, device=device)
