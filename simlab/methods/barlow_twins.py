"""Barlow Twins (Zbontar et al., arXiv 2103.03230): make the cross-correlation the identity.

    encoder, projector    x -> z [N, d], of each view standardised over the batch: a, b
    C = a^T b / N  [d, d]                                                        (equation 2)
    L = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2                          (equation 1)

The first term makes both views agree, dimension by dimension; the second keeps the dimensions from
saying the same thing twice. Standardising uses the biased variance and BatchNorm's epsilon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from simlab._checks import AtLeast, documented
from simlab.compute import full_precision
from simlab.compute.distributed import gather
from simlab.models import build_mlp

from .base import Method, MethodModule, at_least_float32

EPSILON = 1e-5  # BatchNorm's, added to the variance


def barlow_twins_loss(z1: Tensor, z2: Tensor, weight: float = 0.0051) -> Tensor:
    """Compute equation 1 of two views of the same images.

    Across processes, gather every process' z1 and z2, with gradients, before the call.

    Args:
        z1: Projections [N, d] of the first view.
        z2: Projections [N, d] of the second view.
        weight: lambda, of the terms off the diagonal.

    Returns:
        A scalar, at least 0; d when each view is constant.
    """
    agreement, redundancy = barlow_twins_terms(z1, z2)
    return agreement + weight * redundancy


def barlow_twins_terms(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums of equation 1: over the diagonal, and off it."""
    with full_precision(z1.device):
        a = _standardise(at_least_float32(z1))  # [N, d]
        b = _standardise(at_least_float32(z2))
        correlation = a.T @ b / len(a)  # equation 2, [d, d]
        diagonal = correlation.diagonal()
        agreement = (1 - diagonal).square().sum()
        redundancy = correlation.square().sum() - diagonal.square().sum()
        return agreement, redundancy


def _standardise(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    return centred * (z.var(0, correction=0) + EPSILON).rsqrt()


@documented
@dataclass(frozen=True, kw_only=True)
class BarlowTwins(Method):
    """Barlow Twins (arXiv 2103.03230). The defaults suit small images and two CPU cores."""

    loss_label: ClassVar[str] = "distance of the cross-correlation from the identity"

    weight: Annotated[float, AtLeast(0)] = 0.0051
    """lambda of the terms off the diagonal (section 2.2); 0: the dimensions become copies."""

    hidden_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the projector's two hidden layers; 8192 in the paper (section 2.2)."""

    proj_dim: Annotated[int, AtLeast(1)] = 128
    """Width d of the projections; 8192 in the paper, 2048 for CIFAR in solo-learn."""

    def build(self, encoder: nn.Module, feature_dim: int) -> "BarlowTwinsModule":
        """Build the encoder with its projector."""
        return BarlowTwinsModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """No dimension has any variance: all of C is 0."""
        return float(self.proj_dim)

    def lowest_loss(self, images: int) -> float:
        """C is the identity."""
        return 0.0


class BarlowTwinsModule(MethodModule):
    """An encoder with a projector; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: BarlowTwins) -> None:
        super().__init__(encoder)
        self.weight = options.weight
        hidden = options.hidden_dim
        self.projector = build_mlp(feature_dim, hidden, hidden, options.proj_dim)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute both terms for two views [N, C, S, S] of all processes' images."""
        x1, x2 = views
        z1 = gather(self.embed(x1))  # [N, d]
        z2 = gather(self.embed(x2))
        agreement, redundancy = barlow_twins_terms(z1, z2)
        return {"agreement": agreement, "redundancy": self.weight * redundancy}

    def embed(self, x: Tensor) -> Tensor:
        """The projection z [N, d] of x [N, C, H, W]."""
        z: Tensor = self.projector(self.encoder(x))
        return z
