"""EMP-SSL (Tong et al., arXiv 2304.03977): many small crops, and few passes over the images.

    encoder, projector    V crops x_v -> z_v [N, d], of length 1;  zbar = mean over v
    R(Z) = 1/2 log det(I + d / (N eps) Z^T Z), the coding rate: how spread out Z is
    L = - weight * mean_v <z_v, zbar> / ||z_v|| ||zbar||  -  mean_v R(Z_v)

Every crop must agree with the mean of all, while the embeddings of each crop fill the space. The
paper writes eps^2 where the authors' code has eps, as here. Crops are squares of a quarter of the
image's area. An epoch of V crops costs V / 2 epochs of a method with two views.
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

from .base import Crops, Method, MethodModule, ParameterGroup, at_least_float32

CROPS = "crop_min=0.25 crop_max=0.25 ratio=1"  # authors' code


def emp_ssl_loss(views: Sequence[Tensor], weight: float = 200.0, epsilon: float = 0.2) -> Tensor:
    """Compute the loss of many views of the same images.

    Across processes, gather every process' views, with gradients, before the call.

    Args:
        views: Projections [N, d] of each view, of any length.
        weight: Of the agreement.
        epsilon: eps of the coding rate.

    Returns:
        A scalar.
    """
    agreement, rate = emp_ssl_terms(views, epsilon)
    return -weight * agreement - rate


def emp_ssl_terms(views: Sequence[Tensor], epsilon: float = 0.2) -> tuple[Tensor, Tensor]:
    """The mean cosine of each view with the mean of all, and the mean coding rate."""
    with full_precision(views[0].device):
        z = torch.stack([F.normalize(at_least_float32(view), dim=1) for view in views])  # [V, N, d]
        agreement = F.cosine_similarity(z, z.mean(0, keepdim=True), dim=2).mean()
        return agreement, coding_rate(z, epsilon).mean()


def coding_rate(z: Tensor, epsilon: float = 0.2) -> Tensor:
    """Compute R of unit vectors z [..., N, d]: at most d/2 log(1 + 1/eps)."""
    n, d = z.shape[-2:]
    gram = z.mT @ z * (d / (n * epsilon))  # [..., d, d]
    identity = torch.eye(d, dtype=z.dtype, device=z.device)
    log_determinant: Tensor = torch.linalg.slogdet(identity + gram).logabsdet
    return log_determinant / 2


@documented
@dataclass(frozen=True, kw_only=True)
class EMPSSL(Method):
    """EMP-SSL (Tong et al., arXiv 2304.03977). The defaults suit two CPU cores."""

    loss_label: ClassVar[str] = "- agreement - coding rate"

    views: Annotated[int, AtLeast(2)] = 4
    """Number V of crops; 20 to 200 in the paper."""

    weight: Annotated[float, AtLeast(0)] = 200.0
    """Weight of the agreement (authors' code)."""

    coding: Annotated[float, AtLeast(0)] = 1.0
    """Weight of the coding rate; 0: everything collapses to a point."""

    epsilon: Annotated[float, MoreThan(0)] = 0.2
    """eps of the coding rate (authors' code)."""

    hidden_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the projector's hidden layer; 4096 in the authors' code."""

    proj_dim: Annotated[int, AtLeast(1)] = 128
    """Width d of the projections; 1024 in the authors' code."""

    lr_factor: Annotated[float, MoreThan(0)] = 0.02
    """Learning rate as a multiple of the run's. A weight of 200 makes gradients as large: SGD
    collapses with 1, where lars, adam and muon, which scale gradients, are right with it."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        """V crops of a quarter of the area."""
        return (Crops(self.views, CROPS),)

    def build(self, encoder: nn.Module, feature_dim: int) -> "EMPSSLModule":
        """Build the encoder with its projector."""
        return EMPSSLModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """All vectors are one: the Gram matrix has the rank 1."""
        return -self.weight - self.coding * math.log(1 + self.proj_dim / self.epsilon) / 2

    def lowest_loss(self, images: int) -> float:
        """Crops that agree, and vectors that are spread evenly."""
        largest_rate = self.proj_dim / 2 * math.log(1 + 1 / self.epsilon)
        return -self.weight - self.coding * largest_rate


class EMPSSLModule(MethodModule):
    """An encoder with a projector; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: EMPSSL) -> None:
        super().__init__(encoder)
        self.options = options
        self.projector = build_mlp(feature_dim, options.hidden_dim, options.proj_dim)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute both terms for V views [N, C, S, S] of all processes' images."""
        embeddings = [gather(self.embed(x)) for x in views]  # [N, d] each
        agreement, rate = emp_ssl_terms(embeddings, self.options.epsilon)
        return {
            "agreement": -self.options.weight * agreement,
            "coding_rate": -self.options.coding * rate,
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
