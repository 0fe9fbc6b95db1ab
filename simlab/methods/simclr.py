"""SimCLR (Chen et al., arXiv 2002.05709): no predictor, no stop-gradient, but negatives.

    encoder f    image x [N, C, H, W] -> features h [N, D]
    projector    h -> z [N, d]
    u_1 .. u_2N = z / ||z|| of both views;   s_ij = <u_i, u_j> / T
    L = mean over i of - log( exp(s_i,other(i)) / sum over k != i of exp(s_ik) )     (equation 1)

Each view must find the other view of its image among all views of the batch. Of more than two views
every two are compared, and the losses are averaged.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import AtLeast, MoreThan, documented, near_names
from simlab.compute import full_precision
from simlab.compute.distributed import gather
from simlab.models import SMALL_IMAGE, HeadNorm, build_projector

from .base import Crops, Method, MethodModule, TrainingData, at_least_float32, mean_cosine


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """Compute NT-Xent (equation 1) of two views of the same N >= 2 images.

    Each of the 2N vectors must find its other view among the 2N - 1 others, by cosine similarity
    over the temperature. Computed in float32 (float64 stays), also under autocast, since
    normalising in half precision overflows. Across processes, gather every process' z1 and z2, with
    their gradients, before the call: the negatives are then all 2N * processes - 2 others.

    Args:
        z1: Projections [N, d] of the first view.
        z2: Projections [N, d] of the second view.
        temperature: T.

    Returns:
        A scalar: log(2N - 1) when all are alike; at least log(1 + (2N - 2) exp(-2/T)).

    Raises:
        ValueError: The shapes differ, there are fewer than two images, or the temperature is not
            positive and finite.
    """
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(
            "nt_xent takes two views [N, D] of one shape, got "
            f"{list(z1.shape)} and {list(z2.shape)}"
        )
    n = len(z1)
    if n < 2:
        raise ValueError(f"nt_xent needs at least 2 images, got {n}: one has no negatives")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    with full_precision(z1.device):
        z = torch.cat([z1, z2])  # [2N, d]
        u = F.normalize(at_least_float32(z), dim=1)
        s = u @ u.T / temperature  # [2N, 2N]
        s.fill_diagonal_(-torch.inf)  # k != i in the sum of equation 1
        other_view = torch.arange(2 * n, device=z.device).roll(n)  # i + N, modulo 2N
        return F.cross_entropy(s, other_view)  # equation 1, the mean over all 2N


def mean_over_pairs(
    loss: Callable[[Tensor, Tensor], Tensor], projections: Sequence[Tensor]
) -> Tensor:
    """Average a loss of two views over every two of several; projections [N, d] of each view."""
    losses = [loss(z1, z2) for z1, z2 in itertools.combinations(projections, 2)]
    return torch.stack(losses).mean()


@documented
@near_names
@dataclass(frozen=True, kw_only=True)
class SimCLR(Method):
    """SimCLR (Chen et al., arXiv 2002.05709). The defaults suit small images and two CPU cores."""

    loss_label: ClassVar[str] = "NT-Xent"

    temperature: Annotated[float, MoreThan(0)] = 0.5
    """Temperature T of the loss; 0.5 for CIFAR-10 (paper, B.9), 0.1 for ImageNet."""

    proj_layers: Annotated[int, AtLeast(0)] = 0
    """Layers of the projector; 2 in the paper. 0: 2 up to 64 pixels, else 3 (as SimCLR v2)."""

    proj_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the projector; 2048, and 128 at its end, in the paper (section 2.3)."""

    head_bn: HeadNorm = "all"
    """Which layers of the projector have BatchNorm."""

    negatives: bool = True
    """Off for the collapse lab: the loss is then - s of the two views, with no other images."""

    views: Annotated[int, AtLeast(2)] = 2
    """Number of views of an image; 2 in the paper."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        """So many views, drawn alike."""
        return (Crops(self.views),)

    def resolve(self, data: TrainingData) -> Self:
        """Choose the number of the projector's layers by the image's size."""
        if self.proj_layers:
            return self
        return dataclasses.replace(self, proj_layers=2 if data.image_size <= SMALL_IMAGE else 3)

    def build(self, encoder: nn.Module, feature_dim: int) -> "SimCLRModule":
        """Build the encoder with its projector."""
        return SimCLRModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """The other view is one of 2N - 1 that are all alike."""
        return math.log(2 * images - 1) if self.negatives else -1 / self.temperature

    def lowest_loss(self, images: int) -> float:
        """Both views agree, and all others are opposite to them."""
        if not self.negatives:
            return -1 / self.temperature
        return math.log1p((2 * images - 2) * math.exp(-2 / self.temperature))


class SimCLRModule(MethodModule):
    """An encoder with SimCLR's projector; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: SimCLR) -> None:
        super().__init__(encoder)
        self.options = options
        self.projector = build_projector(
            feature_dim, options.proj_layers, options.proj_dim, options.head_bn
        )

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute equation 1 of every two views [N, C, S, S] and average.

        The negatives are all processes' images.
        """
        z = [self.embed(x) for x in views]  # [N, d] each
        if self.options.negatives:
            z = [gather(each) for each in z]
        return {"loss": mean_over_pairs(self.loss_of_two, z)}

    def loss_of_two(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Equation 1 of projections [N, d] of two views; without negatives only how they agree."""
        temperature = self.options.temperature
        if not self.options.negatives:
            return -mean_cosine(z1, z2) / temperature
        return nt_xent(z1, z2, temperature)

    def embed(self, x: Tensor) -> Tensor:
        """The projection z [N, d] of x [N, C, H, W]."""
        z: Tensor = self.projector(self.encoder(x))
        return z
