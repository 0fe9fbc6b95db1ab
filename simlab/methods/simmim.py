"""SimMIM (Xie et al., arXiv 2111.09886): masked pixels for every encoder.

    x with 60 % of its patches replaced by a learned value -> encoder -> h [N, D]
    head               h and a patch's position -> the patch's pixels
    L = sum over hidden pixels of |prediction - x| / (number of hidden pixels * C)   (equation 1)

The mask is in the input, so that the encoder sees a whole image and may be a ResNet; MAE drops
tokens and needs a transformer. The paper's head is one linear layer on a map of features. Here the
features are pooled to a vector, so that the head, an MLP, is told which patch to draw.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor, nn

from simlab._checks import AtLeast, LessThan, MoreThan, documented
from simlab.compute import full_precision
from simlab.models import build_mlp
from simlab.models.vit import grid_positions

from .base import Crops, Masks, Method, MethodModule, TrainingData, Views, at_least_float32
from .pixels import pixel_mask, unpatchify

POSITION_DIM = 32
EPSILON = 1e-5  # added to the number of hidden pixels (authors' code)


def simmim_loss(predictions: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Compute equation 1.

    Args:
        predictions: [N, C, H, W].
        images: The true ones [N, C, H, W].
        hidden: [N, 1, H, W], 1 or True where hidden.

    Returns:
        A scalar, at least 0.
    """
    with full_precision(predictions.device):
        errors = (at_least_float32(predictions) - at_least_float32(images)).abs()
        weights = hidden.to(errors)
        total = (errors * weights).sum()
        return total / (weights.sum() + EPSILON) / images.shape[1]  # equation 1


@documented
@dataclass(frozen=True, kw_only=True)
class SimMIM(Method):
    """SimMIM (Xie et al., arXiv 2111.09886), with a head for pooled features."""

    loss_label: ClassVar[str] = "absolute error of hidden pixels"

    ratio: Annotated[float, MoreThan(0), LessThan(1)] = 0.6
    """Fraction of the patches that is hidden (section 4.1)."""

    patch: Annotated[int, AtLeast(1)] = 4
    """Side of the patches in pixels; 32 of 192 in the paper (section 4.1)."""

    hidden_dim: Annotated[int, AtLeast(1)] = 128
    """Width of the head's hidden layer; the paper's head has none."""

    channels: Annotated[int, AtLeast(0)] = 0
    """Channels of the images. 0: the dataset's."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        """One view, cropped and flipped alone (section 4.1)."""
        return (Crops(1, "jitter=0 grey=0 blur=0"),)

    @property
    def masks(self) -> Masks:
        """Square patches."""
        return Masks(self.patch, self.ratio)

    def resolve(self, data: TrainingData) -> Self:
        """Take the dataset's channels, and refuse patches that do not fill the view."""
        if data.view_size % self.patch:
            raise ValueError(
                f"patch={self.patch}: expected a divisor of the views' side, {data.view_size} "
                "pixels (view_size)"
            )
        return dataclasses.replace(self, channels=self.channels or data.channels)

    def build(self, encoder: nn.Module, feature_dim: int) -> "SimMIMModule":
        """Build the encoder with its head."""
        return SimMIMModule(encoder, feature_dim, self)

    def lowest_loss(self, images: int) -> float:
        """Every hidden pixel is predicted exactly."""
        return 0.0


class SimMIMModule(MethodModule):
    """An encoder with a head that draws patches; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: SimMIM) -> None:
        super().__init__(encoder)
        self.options = options
        self.mask_value = nn.Parameter(torch.zeros(options.channels, 1, 1))
        numbers = options.patch**2 * options.channels
        widths = (feature_dim + POSITION_DIM, options.hidden_dim, numbers)
        self.head = build_mlp(*widths, batch_norm=False)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute equation 1 of one view [N, C, S, S]."""
        assert isinstance(views, Views) and views.masks is not None
        (x,) = views
        hidden = pixel_mask(views.masks, self.options.patch)  # [N, 1, S, S]
        return {"loss": simmim_loss(self.reconstruct(x, views.masks), x, hidden)}

    def reconstruct(self, x: Tensor, masks: Tensor) -> Tensor:
        """Predict all pixels of x [N, C, S, S] from those that masks [N, h, w] leave."""
        patch = self.options.patch
        masked = torch.where(pixel_mask(masks, patch), self.mask_value, x)
        h = self.encoder(masked)  # [N, D]
        rows, columns = masks.shape[1:]
        positions = grid_positions(rows, columns, POSITION_DIM).to(h)  # [L, 32]
        n, number = len(h), rows * columns
        of_image = h[:, None].expand(-1, number, -1)  # [N, L, D]
        of_patch = positions.expand(n, -1, -1)  # [N, L, 32]
        patches = self.head(torch.cat([of_image, of_patch], dim=2))  # [N, L, P P C]
        return unpatchify(patches, patch, x.shape[1], rows)
