"""DINO (Caron et al., arXiv 2104.14294): self-distillation with centring and sharpening.

    student      x -> encoder -> head -> logits s [N, K], of every view
    teacher      x -> a copy that follows slowly -> logits t [N, K], of the full views
    P_t = softmax((t - c) / T_t), P_s = softmax(s / T_s)                         (equation 1)
    L = mean over a full view i and another view j of - sum_k P_t(i) log P_s(j)  (equations 2, 3)
    centre                c <- m c + (1 - m) mean of t over the batch            (equation 4)
    teacher's weights     w' <- m w' + (1 - m) w, m rising to 1 along a half cosine

Two collapses cancel: subtracting the centre alone makes all outputs uniform (L = log K), a teacher
sharper than the student alone puts all images on one of the K outputs (L = 0); see section 5.3.
The teacher starts as a copy of the student, head included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import AtLeast, AtMost, MoreThan, documented
from simlab.compute import full_precision
from simlab.models import build_mlp

from .base import (
    Crops,
    Method,
    MethodModule,
    at_least_float32,
    cosine_momentum,
    frozen_copy,
    full_and_small_crops,
    gather_targets,
    update_teacher,
)

FULL_VIEWS = 2
SMALL_CROPS = "crop_min=0.05 crop_max=0.4"  # of the area, as in the authors' code


def dino_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Compute equation 3: every full view of the teacher is matched by all other views.

    Args:
        student: Logits [N, K] of each view, the full views first.
        teacher: Logits [N, K] of each full view; constants.
        center: c [K], before this batch has moved it.
        student_temperature: T_s.
        teacher_temperature: T_t.

    Returns:
        A scalar; log K when both are uniform.
    """
    with full_precision(student[0].device):
        log_p = [F.log_softmax(at_least_float32(s) / student_temperature, dim=1) for s in student]
        losses = []
        for i, logits in enumerate(teacher):
            target = at_least_float32(logits.detach()) - center
            target = (target / teacher_temperature).softmax(1)  # equation 1, [N, K]
            for j, prediction in enumerate(log_p):
                if j != i:
                    losses.append(-(target * prediction).sum(1).mean())  # equation 2
        return torch.stack(losses).mean()


def new_center(center: Tensor, teacher: Sequence[Tensor], momentum: float = 0.9) -> Tensor:
    """Compute equation 4.

    Args:
        center: c [K].
        teacher: Logits [N, K] of each full view of all images, of all processes.
        momentum: m.

    Returns:
        The centre [K] for the next step.
    """
    mean = torch.cat(list(teacher)).mean(0)
    return momentum * center + (1 - momentum) * mean


@documented
@dataclass(frozen=True, kw_only=True)
class DINO(Method):
    """DINO (Caron et al., arXiv 2104.14294). The defaults suit small images and two CPU cores."""

    loss_label: ClassVar[str] = "cross-entropy of student and teacher"

    outputs: Annotated[int, AtLeast(2)] = 512
    """Number K of outputs; 65536 in the paper (appendix C), 4096 for CIFAR in solo-learn."""

    student_temperature: Annotated[float, MoreThan(0)] = 0.1
    """T_s (section 3.2)."""

    teacher_temperature: Annotated[float, MoreThan(0)] = 0.04
    """T_t; from 0.04 to 0.07 in the paper. Large values don't sharpen: outputs become uniform."""

    centring: bool = True
    """Subtract the centre; without it all images get one output."""

    center_momentum: Annotated[float, AtLeast(0), AtMost(1)] = 0.9
    """m of the centre (authors' code)."""

    momentum: Annotated[float, AtLeast(0), AtMost(1)] = 0.99
    """m of the teacher at the start; 0.996 in the paper (section 3.1), for batches of 1024."""

    local_views: Annotated[int, AtLeast(0)] = 0
    """Small crops of half the side, for the student alone; 8 in the authors' code."""

    freeze: Annotated[float, AtLeast(0), AtMost(1)] = 0.01
    """Part of the training in which the last layer stays; an epoch in the authors' code."""

    hidden_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the head's two hidden layers; 2048 in the paper (section 3.1)."""

    bottleneck_dim: Annotated[int, AtLeast(1)] = 128
    """Width d before the last layer; 256 in the paper (appendix C)."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        """Two full views, and the small crops."""
        return full_and_small_crops(self.local_views, SMALL_CROPS)

    def build(self, encoder: nn.Module, feature_dim: int) -> "DINOModule":
        """Build the student and its teacher."""
        return DINOModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """Uniform outputs; without centring one output takes all."""
        return math.log(self.outputs) if self.centring else 0.0

    def lowest_loss(self, images: int) -> float:
        """Outputs that are certain, and agree."""
        return 0.0


class DINOHead(nn.Module):
    """[N, D] -> [N, d], of length 1 -> cosines with K directions [N, K]."""

    def __init__(self, feature_dim: int, options: DINO) -> None:
        super().__init__()
        hidden = options.hidden_dim
        self.mlp = build_mlp(feature_dim, hidden, hidden, options.bottleneck_dim)
        directions = torch.randn(options.outputs, options.bottleneck_dim)
        self.directions = nn.Parameter(directions)  # [K, d]; their lengths don't count

    def forward(self, h: Tensor, freeze: bool = False) -> Tensor:
        """Map features h [N, D] to logits [N, K]."""
        z = self.mlp(h)  # [N, d]
        directions = self.directions.detach() if freeze else self.directions
        with full_precision(z.device):
            return F.normalize(z.float(), dim=1) @ F.normalize(directions, dim=1).T


class DINOModule(MethodModule):
    """A student and its teacher; arguments as `SimSiamModule`."""

    center: Tensor

    def __init__(self, encoder: nn.Module, feature_dim: int, options: DINO) -> None:
        super().__init__(encoder)
        self.options = options
        self.head = DINOHead(feature_dim, options)
        self.teacher_encoder = frozen_copy(encoder)
        self.teacher_head = frozen_copy(self.head)
        self.register_buffer("center", torch.zeros(options.outputs))
        self.new_logits: list[Tensor] = []  # of this step, of all processes

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute equation 3 of two full views [N, C, S, S] and small crops."""
        options = self.options
        freeze = progress < options.freeze
        student = [self.head(self.encoder(x), freeze) for x in views]  # [N, K] each
        with torch.no_grad():
            teacher = [self.teacher_head(self.teacher_encoder(x)) for x in views[:FULL_VIEWS]]
        self.new_logits += [gather_targets(logits) for logits in teacher]
        temperatures = (options.student_temperature, options.teacher_temperature)
        return {"loss": dino_loss(student, teacher, self.center, *temperatures)}

    def after_step(self, progress: float) -> None:
        """Move the centre (equation 4), and let the teacher follow."""
        options = self.options
        if options.centring:
            self.center.copy_(new_center(self.center, self.new_logits, options.center_momentum))
        self.new_logits.clear()
        momentum = cosine_momentum(options.momentum, progress)
        update_teacher(self.teacher_encoder, self.encoder, momentum)
        update_teacher(self.teacher_head, self.head, momentum)

    def embed(self, x: Tensor) -> Tensor:
        """The head's bottleneck z [N, d] of x [N, C, H, W], before it is normalised."""
        z: Tensor = self.head.mlp(self.encoder(x))
        return z
