"""SimSiam (Chen & He, arXiv 2011.10566): a predictor and a stop-gradient, no negatives.

    encoder f    image x [N, C, H, W] -> features h [N, D]
    projector    h -> z [N, d]
    predictor    z -> p [N, d]
    D(p, z) = - <p / ||p||, z / ||z||>                                           (equation 1)
    L = D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2                        (equation 4)

Nothing in the loss keeps every image from being mapped to one point. The stop-gradient and the
predictor do, together; without either, BatchNorm in the heads still prevents a single point, and z
collapses to one or two directions. Each has a switch, so that it can be watched (notebook 03).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from simlab._checks import AtLeast, documented, near_names
from simlab.models import SMALL_IMAGE, HeadNorm, build_predictor, build_projector

from .base import Method, MethodModule, ParameterGroup, TrainingData, mean_cosine


def simsiam_loss(
    p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, stop_gradient: bool = True
) -> Tensor:
    """Compute equation 4 of two views.

    Args:
        p1: Predictions [N, d] of the first view.
        p2: Predictions [N, d] of the second view.
        z1: Projections [N, d] of the first view.
        z2: Projections [N, d] of the second view.
        stop_gradient: Whether a projection is a constant where it is the target.

    Returns:
        A scalar between -1 and 1; -1 when both views agree.
    """
    if stop_gradient:
        z1 = z1.detach()
        z2 = z2.detach()
    return (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2  # equation 4


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Compute D(p, z) of equation 1, the mean over the batch of [N, d]."""
    return -mean_cosine(p, z)  # equation 1


@documented
@near_names
@dataclass(frozen=True, kw_only=True)
class SimSiam(Method):
    """SimSiam (Chen & He, arXiv 2011.10566). The defaults suit small images and two CPU cores."""

    loss_label: ClassVar[str] = "negative cosine similarity"

    proj_layers: Annotated[int, AtLeast(0)] = 0
    """Layers of the projector. 0: 2 up to 64 pixels, else 3 (paper, appendix D and section 3)."""

    proj_dim: Annotated[int, AtLeast(1)] = 512
    """Width d of the projector; 2048 in the paper (section 3)."""

    pred_dim: Annotated[int, AtLeast(1)] = 256
    """Width of the predictor's bottleneck; 512, a quarter of d, in the paper (section 3)."""

    predictor: Literal["mlp", "none", "fixed"] = "mlp"
    """none (p = z) and fixed (random, never trained) are for the collapse lab (section 4.2)."""

    head_bn: HeadNorm = "all"
    """Which layers of the heads have BatchNorm; hidden and none are for the lab (section 4.4)."""

    stop_gradient: bool = True
    """Off for the collapse lab (section 4.1)."""

    fix_pred_lr: bool = True
    """The predictor's learning rate does not decay (section 4.2)."""

    pred_lr: Annotated[float, AtLeast(0)] = 10.0
    """Learning rate of the predictor as a multiple of the others'; 1 in the paper."""

    def resolve(self, data: TrainingData) -> Self:
        """Choose the number of the projector's layers by the image's size."""
        if self.proj_layers:
            return self
        return dataclasses.replace(self, proj_layers=2 if data.image_size <= SMALL_IMAGE else 3)

    def build(self, encoder: nn.Module, feature_dim: int) -> "SimSiamModule":
        """Build the encoder with its projector and predictor."""
        return SimSiamModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """All cosines are 1."""
        return -1.0

    def lowest_loss(self, images: int) -> float:
        """All cosines are 1: views that agree and a collapse have the same loss."""
        return -1.0


class SimSiamModule(MethodModule):
    """An encoder with SimSiam's two heads.

    Args:
        encoder: [N, C, H, W] -> [N, feature_dim].
        feature_dim: Width D of the features.
        options: What the heads and the loss are like.
    """

    def __init__(self, encoder: nn.Module, feature_dim: int, options: SimSiam) -> None:
        super().__init__(encoder)
        self.options = options
        dim = options.proj_dim
        self.projector = build_projector(feature_dim, options.proj_layers, dim, options.head_bn)
        self.predictor: nn.Module = nn.Identity()
        if options.predictor != "none":
            self.predictor = build_predictor(dim, options.pred_dim, options.head_bn)
        if options.predictor == "fixed":
            self.predictor.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [N, C, H, W] to its projection z and prediction p, [N, d] each."""
        h = self.encoder(x)  # [N, C, H, W] -> [N, D]
        z = self.projector(h)  # [N, D] -> [N, d]
        p = self.predictor(z)  # [N, d] -> [N, d]
        return z, p

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute equation 4 of two views [N, C, S, S]."""
        x1, x2 = views
        z1, p1 = self(x1)
        z2, p2 = self(x2)
        return {"loss": simsiam_loss(p1, p2, z1, z2, self.options.stop_gradient)}

    def embed(self, x: Tensor) -> Tensor:
        """The projection z [N, d] of x [N, C, H, W]."""
        z: Tensor = self.projector(self.encoder(x))
        return z

    def parameter_groups(self) -> list[ParameterGroup]:
        """Give the predictor a learning rate of its own."""
        predictor = [p for p in self.predictor.parameters() if p.requires_grad]
        in_predictor = {id(p) for p in self.predictor.parameters()}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in in_predictor]
        return [
            ParameterGroup(others),
            ParameterGroup(predictor, self.options.pred_lr, self.options.fix_pred_lr),
        ]
