"""A sketch of BYOL (2006.07733) on the interface: a teacher that follows by `after_step`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from simlab._checks import AtLeast, LessThan
from simlab.methods.base import Method, MethodModule, frozen_copy, update_teacher
from simlab.methods.simsiam import simsiam_loss
from simlab.models.heads import build_predictor, build_projector


@dataclass(frozen=True, kw_only=True)
class BYOL(Method):
    momentum: Annotated[float, AtLeast(0), LessThan(1)] = 0.9
    """Of the teacher at the start; it rises to 1."""

    dim: Annotated[int, AtLeast(1)] = 16
    """Width of the projections."""

    def build(self, encoder: nn.Module, feature_dim: int) -> "BYOLModule":
        return BYOLModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        return -1.0


class BYOLModule(MethodModule):
    def __init__(self, encoder: nn.Module, feature_dim: int, options: BYOL) -> None:
        super().__init__(encoder)
        self.options = options
        self.projector = build_projector(feature_dim, 2, options.dim)
        self.predictor = build_predictor(options.dim, options.dim // 2)
        self.teacher_encoder = frozen_copy(encoder)
        self.teacher_projector = frozen_copy(self.projector)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        p1, p2 = (self.predictor(self.embed(x)) for x in views)  # [N, d]
        with torch.no_grad():
            z1, z2 = (self.teacher_projector(self.teacher_encoder(x)) for x in views)
        return {"loss": simsiam_loss(p1, p2, z1, z2)}

    def after_step(self, progress: float) -> None:
        m = 1 - (1 - self.options.momentum) * (math.cos(math.pi * progress) + 1) / 2
        update_teacher(self.teacher_encoder, self.encoder, m)
        update_teacher(self.teacher_projector, self.projector, m)

    def embed(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))
