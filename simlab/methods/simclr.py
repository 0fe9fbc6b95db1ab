"""SimCLR (Chen et al., arXiv 2002.05709): no predictor, no stop-gradient, but negatives.

encoder f    image x [N, C, H, W] -> features h [N, D]
projector    h -> z [N, d]
each view must find the other view of its image among all views of the batch (equation 1)
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab.compute.devices import full_precision

from .simsiam import SimSiam, View


class SimCLR(SimSiam):
    """An encoder with SimCLR's head, SimSiam's without a predictor (p = z); arguments as there."""

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        proj_layers: int = 2,
        proj_dim: int = 128,
        head_bn: str = "all",
    ):
        super().__init__(
            encoder, feature_dim, proj_layers, proj_dim, predictor="none", head_bn=head_bn
        )


class SimCLRLoss(nn.Module):
    """NT-Xent of two `View`s at one temperature."""

    def __init__(self, temperature: float = 0.5):
        super().__init__()
        self.temperature = temperature

    def forward(self, view1: View, view2: View) -> Tensor:
        return nt_xent(view1.z, view2.z, self.temperature)


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent (eq. 1) of two views [N, D] of the same N >= 2 images; a scalar.

    Each of the 2N vectors must find its other view among the 2N - 1 others, by cosine similarity
    over the temperature. log(2N - 1) when all are alike; at least log(1 + (2N - 2) exp(-2/T)).
    Computed in float32 (float64 stays), also under autocast, since normalising in half precision
    overflows. Across processes, concatenate every process' z1 and z2, with their gradients, before
    the call: the negatives are then all 2N * world - 2 others.

    Raises ValueError on unequal shapes, fewer than two images, or a temperature <= 0."""
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(
            "nt_xent takes two views [N, D] of one shape, got "
            f"{list(z1.shape)} and {list(z2.shape)}"
        )
    if (n := len(z1)) < 2:
        raise ValueError(f"nt_xent needs at least 2 images, got {n}: one has no negatives")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    with full_precision(z1.device):
        z = torch.cat([z1, z2])  # [2N, D]
        z = F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)
        s = (z @ z.T / temperature).fill_diagonal_(-torch.inf)  # [2N, 2N]; k != i in the sum
        other = torch.arange(2 * n, device=z.device).roll(n)  # i's other view is i + N, mod 2N
        return F.cross_entropy(s, other)
