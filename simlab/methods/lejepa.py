"""LeJEPA (Balestriero & LeCun, arXiv 2511.08544): agree, and be distributed as a Gaussian.

    encoder, projector    x -> z_v [N, d] of each view;  zbar = mean of the full views' z_v
    SIGReg(z) = mean over random directions a of T(z a), the Epps-Pulley statistic
    T(y) = N * integral of |mean_n exp(i t y_n) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt
    L = (1 - lambda) mean_v mean (z_v - zbar)^2 + lambda mean_v SIGReg(z_v)

No teacher, no stop-gradient, no negatives: the second term compares the characteristic function of
the embedding, along random directions, with that of a standard Gaussian, which no collapsed
embedding has. The integral goes over [-3, 3], by the trapezoid rule, as in the authors' code (the
paper recommends [-5, 5], section 6.1). For a true Gaussian T is 1.06 whatever N is, and not 0;
collapsed onto the origin it is about 0.40 N, where its gradient is exactly 0: a saddle, from which
a projector that spreads its outputs starts away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import AtLeast, AtMost, documented
from simlab.compute import full_precision
from simlab.compute.distributed import gather
from simlab.models import build_mlp

from .base import Crops, Method, MethodModule, at_least_float32, full_and_small_crops

SMALL_CROPS = "crop_min=0.05 crop_max=0.3"  # of the area, as in the authors' code
LARGEST_T = 3.0
KNOTS = 17  # on [0, LARGEST_T]; the integrand is even


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """Compute SIGReg: how far z is from a standard Gaussian along some directions.

    Across processes, gather every process' z, with gradients, before the call, and use the same
    directions in all of them.

    Args:
        z: Embeddings [N, d].
        directions: [d, M]; only their directions count.

    Returns:
        A scalar, at least 0.
    """
    with full_precision(z.device):
        z = at_least_float32(z)
        y = z @ F.normalize(directions.to(z), dim=0)  # [N, M]
        t = torch.linspace(0, LARGEST_T, KNOTS, dtype=z.dtype, device=z.device)  # [T]
        gaussian = (-t.square() / 2).exp()[:, None]  # [T, 1], its characteristic function
        angles = t[:, None, None] * y  # [T, N, M]
        real = angles.cos().mean(1)  # [T, M]
        imaginary = angles.sin().mean(1)
        distance = (real - gaussian).square() + imaginary.square()
        half = torch.trapezoid(distance * gaussian, t, dim=0)  # [M], from 0 to 3
        return len(z) * (2 * half).mean()


def lejepa_loss(
    views: Sequence[Tensor], directions: Tensor, weight: float = 0.05, full_views: int = 2
) -> Tensor:
    """Compute the loss of all views of the same images.

    Args:
        views: Embeddings [N, d] of each view, the full views first.
        directions: [d, M], as in `sigreg`.
        weight: lambda.
        full_views: How many of the views are full ones.

    Returns:
        A scalar, at least 0.
    """
    gaussianity = torch.stack([sigreg(z, directions) for z in views]).mean()
    return (1 - weight) * invariance(views, full_views) + weight * gaussianity


def invariance(views: Sequence[Tensor], full_views: int) -> Tensor:
    """The mean squared distance of each view [N, d] from the mean of the full ones."""
    with full_precision(views[0].device):
        z = torch.stack([at_least_float32(view) for view in views])  # [V, N, d]
        return (z - z[:full_views].mean(0)).square().mean()


@documented
@dataclass(frozen=True, kw_only=True)
class LeJEPA(Method):
    """LeJEPA (arXiv 2511.08544). The defaults suit small images and two CPU cores."""

    loss_label: ClassVar[str] = "invariance + SIGReg"
    embedding_std: ClassVar[float] = 1.0  # of a standard Gaussian

    weight: Annotated[float, AtLeast(0), AtMost(1)] = 0.05
    """lambda (section 6.1). Its meaning depends on the batch, since T grows with N.
    0: everything collapses to a point."""

    directions: Annotated[int, AtLeast(1)] = 256
    """Number M of random directions, drawn anew at every step; 1024 in the paper."""

    local_views: Annotated[int, AtLeast(0)] = 0
    """Small crops of half the side beside the two views; 8 in the paper, 6 in the authors' code."""

    hidden_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the projector's two hidden layers; 2048 in the authors' code."""

    proj_dim: Annotated[int, AtLeast(1)] = 32
    """Width d of the projections; 16 to 128 in the authors' code."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        """Two full views, and the small crops."""
        return full_and_small_crops(self.local_views, SMALL_CROPS)

    def build(self, encoder: nn.Module, feature_dim: int) -> "LeJEPAModule":
        """Build the encoder with its projector."""
        return LeJEPAModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """All embeddings at the origin: with the integral over all t, lambda times .409 N."""
        at_origin = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
        return self.weight * images * at_origin

    def lowest_loss(self, images: int) -> float:
        """The views agree, and the sample is more regular than a random one of a Gaussian."""
        return 0.0


class LeJEPAModule(MethodModule):
    """An encoder with a projector; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: LeJEPA) -> None:
        super().__init__(encoder)
        self.options = options
        hidden = options.hidden_dim
        self.projector = build_mlp(feature_dim, hidden, hidden, options.proj_dim)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute both terms for all views [N, C, S, S] of all processes' images."""
        weight = self.options.weight
        embeddings = [gather(self.embed(x)) for x in views]  # [N, d] each
        shape = (self.options.proj_dim, self.options.directions)
        directions = torch.randn(shape, generator=generator, device=generator.device)
        gaussianity = torch.stack([sigreg(z, directions) for z in embeddings]).mean()
        return {
            "invariance": (1 - weight) * invariance(embeddings, full_views=2),
            "sigreg": weight * gaussianity,
        }

    def embed(self, x: Tensor) -> Tensor:
        """The projection z [N, d] of x [N, C, H, W]."""
        z: Tensor = self.projector(self.encoder(x))
        return z
