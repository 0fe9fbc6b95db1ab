"""W-MSE (Ermolov et al., arXiv 2007.06346): whiten the embeddings, then pull the views together.

    encoder, projector    x -> z [N, d] of each view
    whitening             w = L^-1 (z - mean), where L L^T = Cov(z)     (Cholesky; section 3)
    L = 2 - 2 <w1 / ||w1||, w2 / ||w2||>                                (section 3)

Each view is whitened on its own, over slices of the batch of 2d images. Whitened embeddings have
the covariance I, so that they cannot collapse; what would collapse makes Cov singular, and the
decomposition fails or gives NaN. The loss itself tells nothing of the spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import AtLeast, LessThan, documented
from simlab.compute import full_precision
from simlab.compute.distributed import gather
from simlab.models import build_mlp

from .base import Method, MethodModule, TrainingData, at_least_float32


def w_mse_loss(z1: Tensor, z2: Tensor, epsilon: float = 0.0, slice_size: int = 0) -> Tensor:
    """Compute the loss of two views of the same images, both of which get gradients.

    Across processes, gather every process' z1 and z2, with gradients, before the call.

    Args:
        z1: Projections [N, d] of the first view, N more than d.
        z2: Projections [N, d] of the second view.
        epsilon: Cov is replaced by (1 - epsilon) Cov + epsilon I, to be well conditioned.
        slice_size: Images that are whitened together; 0: all.

    Returns:
        A scalar between 0 and 4.
    """
    n = len(z1)
    slices = max(n // slice_size, 1) if slice_size else 1
    with full_precision(z1.device):
        w1 = [whiten(z, epsilon) for z in at_least_float32(z1).tensor_split(slices)]
        w2 = [whiten(z, epsilon) for z in at_least_float32(z2).tensor_split(slices)]
        cosine = F.cosine_similarity(torch.cat(w1), torch.cat(w2), dim=1)  # [N]
        return 2 - 2 * cosine.mean()


def whiten(z: Tensor, epsilon: float = 0.0) -> Tensor:
    """Whiten z [N, d] by Cholesky's decomposition of its covariance (divided by N - 1)."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)  # [d, d]
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky((1 - epsilon) * covariance + epsilon * identity)
    whitened: Tensor = torch.linalg.solve_triangular(factor, centred.T, upper=False)  # [d, N]
    return whitened.T


@documented
@dataclass(frozen=True, kw_only=True)
class WMSE(Method):
    """W-MSE (arXiv 2007.06346). The defaults suit batches of 64 images and two CPU cores."""

    loss_label: ClassVar[str] = "2 - 2 cosine similarity, whitened"

    epsilon: Annotated[float, AtLeast(0), LessThan(1)] = 1e-3
    """How far the covariance is drawn to the identity; 0 in the paper, whose batches are large."""

    hidden_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the projector's hidden layer; 1024 in the paper (section 4)."""

    proj_dim: Annotated[int, AtLeast(1)] = 16
    """Width d of the projections; 64 in the paper. A batch needs at least 2d images."""

    def resolve(self, data: TrainingData) -> Self:
        """Refuse a batch with too few images to whiten."""
        least = 2 * self.proj_dim
        if data.part_size < least:
            raise ValueError(
                f"proj_dim={self.proj_dim} whitens over at least {least} images, and a batch (or "
                f"one of its accumulate parts) has {data.part_size}: expected proj_dim at most "
                f"{data.part_size // 2}, or a larger batch"
            )
        return self

    def build(self, encoder: nn.Module, feature_dim: int) -> "WMSEModule":
        """Build the encoder with its projector."""
        return WMSEModule(encoder, feature_dim, self)

    def lowest_loss(self, images: int) -> float:
        """All cosines are 1."""
        return 0.0


class WMSEModule(MethodModule):
    """An encoder with a projector; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: WMSE) -> None:
        super().__init__(encoder)
        self.options = options
        self.projector = build_mlp(feature_dim, options.hidden_dim, options.proj_dim)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute the loss of two views [N, C, S, S] of all processes' images."""
        x1, x2 = views
        z1 = gather(self.embed(x1))  # [N, d]
        z2 = gather(self.embed(x2))
        slice_size = 2 * self.options.proj_dim
        return {"loss": w_mse_loss(z1, z2, self.options.epsilon, slice_size)}

    def embed(self, x: Tensor) -> Tensor:
        """The projection z [N, d] of x [N, C, H, W], before it is whitened."""
        z: Tensor = self.projector(self.encoder(x))
        return z
