"""Rotation prediction (RotNet; Gidaris et al., arXiv 1803.07728): which way up is it?

    x -> the image turned by 0, 90, 180 and 270 degrees [4N, C, S, S]
    encoder, classifier    -> h [4N, D] -> logits [4N, 4]                        (equation 1)
    L = cross-entropy of the logits and the number of quarter turns              (equations 2, 3)

A pretext task: to tell the rotation a network must know what things look like. It cannot be learned
where images have no upright position, as in the default dataset: there the loss stays at log 4,
that of chance. All four rotations are in one batch, else BatchNorm's statistics give them away,
and the turns are exact, else the marks of interpolation do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import documented

from .base import Crops, Method, MethodModule

TURNS = 4


def quarter_turns(x: Tensor) -> Tensor:
    """Turn images x [N, C, S, S] by 0, 1, 2 and 3 quarters, counter-clockwise: [4N, C, S, S]."""
    turned = torch.cat([torch.rot90(x, turns, (2, 3)) for turns in range(TURNS)])
    return turned.contiguous(memory_format=torch.channels_last)  # which rot90 loses


def rotation_loss(logits: Tensor) -> Tensor:
    """Compute equation 3 of the logits [4N, 4] of `quarter_turns`.

    Returns:
        A scalar; log 4 at chance.
    """
    turns = torch.arange(TURNS, device=logits.device)
    return F.cross_entropy(logits, turns.repeat_interleave(len(logits) // TURNS))


@documented
@dataclass(frozen=True, kw_only=True)
class Rotation(Method):
    """Rotation prediction (Gidaris et al., arXiv 1803.07728)."""

    loss_label: ClassVar[str] = "cross-entropy of the rotation"

    @property
    def crops(self) -> tuple[Crops, ...]:
        """One view, which the augmentation does not rotate."""
        return (Crops(1, "rotate=0"),)

    def build(self, encoder: nn.Module, feature_dim: int) -> "RotationModule":
        """Build the encoder with a linear classifier."""
        return RotationModule(encoder, feature_dim)

    def loss_at_collapse(self, images: int) -> float:
        """All four are as likely."""
        return math.log(TURNS)

    def lowest_loss(self, images: int) -> float:
        """Every rotation is told with certainty."""
        return 0.0


class RotationModule(MethodModule):
    """An encoder with a classifier of four rotations; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.classifier = nn.Linear(feature_dim, TURNS)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute equation 3 of one view [N, C, S, S]."""
        (x,) = views
        logits = self.classifier(self.encoder(quarter_turns(x)))  # [4N, 4]
        return {"loss": rotation_loss(logits.float())}
