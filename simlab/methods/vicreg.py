"""VICReg (Bardes et al., arXiv 2105.04906): variance, invariance and covariance, each a term.

    encoder, projector    x -> z [N, d] of each view
    v(z) = mean over dimensions of max(0, 1 - sqrt(Var + 1e-4))                  (equations 1, 2)
    c(z) = sum over i != j of Cov_ij^2, over d                                   (equations 3, 4)
    s(z1, z2) = mean of (z1 - z2)^2                                              (equation 5)
    L = 25 s + 25 (v(z1) + v(z2)) / 2 + 1 (c(z1) + c(z2))                        (equation 6)

This is what the authors' code computes: the paper sums s over the dimensions and adds the two
variances without halving them, solo-learn does the latter, so that the weights of one do not fit
another. Variance and covariance are divided by N - 1. The projector ends without BatchNorm, behind
which the variance term would always be 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import AtLeast, MoreThan, documented
from simlab.compute import full_precision
from simlab.compute.distributed import gather
from simlab.models import build_mlp

from .base import Method, MethodModule, ParameterGroup, at_least_float32

EPSILON = 1e-4  # added to the variance (equation 2)
SMALLEST_STD = math.sqrt(EPSILON)


def vicreg_loss(
    z1: Tensor,
    z2: Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Tensor:
    """Compute equation 6 of two views of the same images.

    Across processes, gather every process' z1 and z2, with gradients, before the call.

    Args:
        z1: Projections [N, d] of the first view, N at least 2.
        z2: Projections [N, d] of the second view.
        invariance: Weight of s.
        variance: Weight of v.
        covariance: Weight of c.

    Returns:
        A scalar, at least 0; 0.99 times the weight of v when each view is constant.
    """
    s, v, c = vicreg_terms(z1, z2)
    return invariance * s + variance * v + covariance * c


def vicreg_terms(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of equation 6 without their weights: s, the mean of v, and the sum of c."""
    with full_precision(z1.device):
        z1 = at_least_float32(z1)
        z2 = at_least_float32(z2)
        s = (z1 - z2).square().mean()  # equation 5
        v = (_missing_std(z1) + _missing_std(z2)) / 2
        c = _covariance(z1) + _covariance(z2)
        return s, v, c


def _missing_std(z: Tensor) -> Tensor:
    """v(z), equations 1 and 2: how much of a standard deviation of 1 is missing."""
    std = (z.var(0) + EPSILON).sqrt()  # [d]
    return F.relu(1 - std).mean()


def _covariance(z: Tensor) -> Tensor:
    """c(z), equations 3 and 4."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)  # [d, d]
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return off_diagonal / z.shape[1]


@documented
@dataclass(frozen=True, kw_only=True)
class VICReg(Method):
    """VICReg (arXiv 2105.04906). The defaults suit small images and two CPU cores."""

    loss_label: ClassVar[str] = "invariance + variance + covariance"
    embedding_std: ClassVar[float] = 1.0  # equation 1

    invariance: Annotated[float, AtLeast(0)] = 25.0
    """Weight of s (section 4.2)."""

    variance: Annotated[float, AtLeast(0)] = 25.0
    """Weight of v (section 4.2); 0: everything collapses to a point."""

    covariance: Annotated[float, AtLeast(0)] = 1.0
    """Weight of c (section 4.2); 0: the dimensions become copies of each other."""

    hidden_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the projector's two hidden layers; 8192 in the paper (section 4.2)."""

    proj_dim: Annotated[int, AtLeast(1)] = 128
    """Width d of the projections; 8192 in the paper, 2048 for CIFAR in solo-learn."""

    lr_factor: Annotated[float, MoreThan(0)] = 0.1
    """Learning rate as a multiple of the run's. Weights of 25 make gradients as large: SGD diverges
    with 1, where optimizers that scale gradients (lars, adam, muon) are right with it."""

    def build(self, encoder: nn.Module, feature_dim: int) -> "VICRegModule":
        """Build the encoder with its projector."""
        return VICRegModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """The views agree, and all of the standard deviation but sqrt(1e-4) is missing."""
        return self.variance * (1 - SMALLEST_STD)

    def lowest_loss(self, images: int) -> float:
        """Views agree, and their dimensions are uncorrelated with a standard deviation of 1."""
        return 0.0


class VICRegModule(MethodModule):
    """An encoder with a projector; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: VICReg) -> None:
        super().__init__(encoder)
        self.options = options
        hidden = options.hidden_dim
        self.projector = build_mlp(feature_dim, hidden, hidden, options.proj_dim, bias=False)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute the three terms for two views [N, C, S, S] of all processes' images."""
        x1, x2 = views
        z1 = gather(self.embed(x1))  # [N, d]
        z2 = gather(self.embed(x2))
        s, v, c = vicreg_terms(z1, z2)
        return {
            "invariance": self.options.invariance * s,
            "variance": self.options.variance * v,
            "covariance": self.options.covariance * c,
        }

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters, at the learning rate that fits the size of the loss."""
        (group,) = super().parameter_groups()
        group.lr_factor = self.options.lr_factor
        return [group]

    def embed(self, x: Tensor) -> Tensor:
        """The projection z [N, d] of x [N, C, H, W]."""
        z: Tensor = self.projector(self.encoder(x))
        return z
