"""BYOL (Grill et al., arXiv 2006.07733): predict what a slowly following copy of oneself says.

    student      x -> encoder -> projector -> z [N, d] -> predictor -> p [N, d]
    teacher      x -> the same encoder and projector with weights of their own -> z' [N, d]
    L = 2 - 2 <p1 / ||p1||, z2' / ||z2'||>, and with the views exchanged         (equation 2)
    teacher's weights   w' <- m w' + (1 - m) w                                   (equation 1)

The two directions are averaged here; the paper adds them, which is a factor of two. The momentum m
rises to 1 along a half cosine. With m = 0 the teacher is the student, and BYOL is SimSiam; with
m = 1 the teacher stays the random network that it began as.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from simlab._checks import AtLeast, AtMost, documented
from simlab.models import build_mlp

from .base import Method, MethodModule, cosine_momentum, frozen_copy, mean_cosine, update_teacher


def byol_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Compute equation 2 of both directions, and their mean.

    Args:
        p1: The student's predictions [N, d] of the first view.
        p2: The student's predictions [N, d] of the second view.
        z1: The teacher's projections [N, d] of the first view; constants.
        z2: The teacher's projections [N, d] of the second view; constants.

    Returns:
        A scalar between 0 and 4; 0 when both views agree.
    """
    first = 2 - 2 * mean_cosine(p1, z2.detach())  # equation 2
    second = 2 - 2 * mean_cosine(p2, z1.detach())
    return (first + second) / 2


@documented
@dataclass(frozen=True, kw_only=True)
class BYOL(Method):
    """BYOL (Grill et al., arXiv 2006.07733). The defaults suit small images and two CPU cores."""

    loss_label: ClassVar[str] = "2 - 2 cosine similarity"

    momentum: Annotated[float, AtLeast(0), AtMost(1)] = 0.98
    """Momentum m of the teacher at the start; 0.996 for 1,000 epochs, 0.99 for 300 (table 5)."""

    hidden_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the heads' hidden layers; 4096 in the paper (section 3.3)."""

    proj_dim: Annotated[int, AtLeast(1)] = 128
    """Width d of the projections; 256 in the paper (section 3.3)."""

    predictor: Literal["mlp", "none"] = "mlp"
    """none: p = z, which collapses where the teacher follows at once (momentum=0)."""

    def build(self, encoder: nn.Module, feature_dim: int) -> "BYOLModule":
        """Build the student's encoder and heads, and the teacher."""
        return BYOLModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """All cosines are 1."""
        return 0.0

    def lowest_loss(self, images: int) -> float:
        """All cosines are 1: views that agree and a collapse have the same loss."""
        return 0.0


class BYOLModule(MethodModule):
    """A student and its teacher; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: BYOL) -> None:
        super().__init__(encoder)
        self.momentum = options.momentum
        hidden = options.hidden_dim
        self.projector = build_mlp(feature_dim, hidden, options.proj_dim)
        self.predictor: nn.Module = nn.Identity()
        if options.predictor == "mlp":
            self.predictor = build_mlp(options.proj_dim, hidden, options.proj_dim)
        self.teacher_encoder = frozen_copy(encoder)
        self.teacher_projector = frozen_copy(self.projector)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute equation 2 of two views [N, C, S, S]."""
        x1, x2 = views
        p1 = self.predictor(self.embed(x1))  # [N, d]
        p2 = self.predictor(self.embed(x2))
        with torch.no_grad():
            z1 = self.teacher_projector(self.teacher_encoder(x1))  # [N, d]
            z2 = self.teacher_projector(self.teacher_encoder(x2))
        return {"loss": byol_loss(p1, p2, z1, z2)}

    def after_step(self, progress: float) -> None:
        """Let the teacher follow (equation 1)."""
        momentum = cosine_momentum(self.momentum, progress)
        update_teacher(self.teacher_encoder, self.encoder, momentum)
        update_teacher(self.teacher_projector, self.projector, momentum)

    def embed(self, x: Tensor) -> Tensor:
        """The projection z [N, d] of x [N, C, H, W]."""
        z: Tensor = self.projector(self.encoder(x))
        return z
