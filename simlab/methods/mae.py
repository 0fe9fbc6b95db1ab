"""MAE (He et al., arXiv 2111.06377): hide most of the image, predict its pixels.

    patches            y [N, L, P P C], of which a random 75 % are hidden
    encoder (a ViT)    the patches that are visible -> tokens [N, k, D]
    decoder            those tokens and a mask token for each hidden patch, with positions
                       -> predictions [N, L, P P C]
    L = mean over the hidden patches of mean (prediction - y)^2

The encoder never sees a hidden patch, which makes it four times cheaper; the decoder is small and
thrown away. Each patch's own mean and variance are taken out of y (`norm_pix`, section 3), so that
predicting 0 costs nearly 1: a loss near 1 has learned nothing yet. It cannot collapse, and need
not know classes either: judge it by fine-tuning, beside the probe.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor, nn

from simlab._checks import AtLeast, LessThan, MoreThan, documented
from simlab.compute import full_precision
from simlab.models.vit import HEADS, PATCH, Block, grid_positions, take_tokens

from .base import Crops, Masks, Method, MethodModule, TrainingData, Views, at_least_float32
from .pixels import (
    masked_mean,
    normalise_patches,
    patchify,
    require_tokens,
    unpatchify,
    visible_and_hidden,
)


def mae_loss(predictions: Tensor, patches: Tensor, hidden: Tensor, norm_pix: bool = True) -> Tensor:
    """Compute the mean squared error of the hidden patches.

    Args:
        predictions: [N, L, P], P numbers a patch.
        patches: The true ones [N, L, P], as `patchify` gives them.
        hidden: [N, L], 1 or True where hidden.
        norm_pix: Whether each true patch is normalised by its own mean and variance.

    Returns:
        A scalar, at least 0; about (P - 1) / P for predictions of 0 with norm_pix.
    """
    with full_precision(predictions.device):
        target = at_least_float32(patches)
        if norm_pix:
            target = normalise_patches(target)
        errors = (at_least_float32(predictions) - target).square().mean(2)  # [N, L]
        return masked_mean(errors, hidden)


@documented
@dataclass(frozen=True, kw_only=True)
class MAE(Method):
    """MAE (He et al., arXiv 2111.06377). Needs an encoder of tokens, such as vit_tiny."""

    loss_label: ClassVar[str] = "squared error of hidden patches"

    ratio: Annotated[float, MoreThan(0), LessThan(1)] = 0.75
    """Fraction of the patches that is hidden (section 3); low ones are solved by interpolation."""

    norm_pix: bool = True
    """Normalise each patch by its own mean and variance before it is predicted (section 3)."""

    decoder_width: Annotated[int, AtLeast(1)] = 48
    """Width of the decoder; 512 in the paper (section 4.1). A multiple of 3, its heads."""

    decoder_depth: Annotated[int, AtLeast(1)] = 2
    """Blocks of the decoder; 8 in the paper (section 4.1)."""

    patch: Annotated[int, AtLeast(1)] = PATCH
    """Side of the patches in pixels: the encoder's."""

    channels: Annotated[int, AtLeast(0)] = 0
    """Channels of the images. 0: the dataset's."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        """One view, cropped and flipped alone (section 4.1)."""
        return (Crops(1, "jitter=0 grey=0 blur=0"),)

    @property
    def masks(self) -> Masks:
        """Patches of the encoder's size."""
        return Masks(self.patch, self.ratio)

    def resolve(self, data: TrainingData) -> Self:
        """Take the dataset's channels."""
        return dataclasses.replace(self, channels=self.channels or data.channels)

    def build(self, encoder: nn.Module, feature_dim: int) -> "MAEModule":
        """Build the encoder with its decoder."""
        return MAEModule(encoder, feature_dim, self)

    def lowest_loss(self, images: int) -> float:
        """Every hidden patch is predicted exactly."""
        return 0.0


class MAEModule(MethodModule):
    """An encoder of tokens with a decoder of patches; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: MAE) -> None:
        super().__init__(encoder)
        self.options = options
        self.patch = int(require_tokens(encoder, "mae").patch)
        if self.patch != options.patch:
            raise ValueError(f"patch={options.patch}: expected {self.patch}, the encoder's")
        width = options.decoder_width
        self.decoder_embedding = nn.Linear(feature_dim, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        blocks = [Block(width, HEADS) for _ in range(options.decoder_depth)]
        self.decoder = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.to_pixels = nn.Linear(width, self.patch**2 * options.channels)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute the error of the hidden patches of one view [N, C, S, S]."""
        assert isinstance(views, Views) and views.masks is not None
        (x,) = views
        predictions = self.reconstruct(x, views.masks)
        patches = patchify(x, self.patch)
        hidden = views.masks.flatten(1)  # [N, L]
        return {"loss": mae_loss(predictions, patches, hidden, self.options.norm_pix)}

    def reconstruct(self, x: Tensor, masks: Tensor) -> Tensor:
        """Predict every patch of x [N, C, S, S] from those that masks [N, h, w] leave: [N, L, P].

        With norm_pix the predictions lack each patch's mean and variance.
        """
        visible, hidden = visible_and_hidden(masks)
        tokens = self.decoder_embedding(require_tokens(self.encoder, "mae").tokens(x, visible))
        mask_tokens = self.mask_token.expand(*hidden.shape, -1).to(tokens)  # [N, L - k, d]
        everything = torch.cat([tokens, mask_tokens], dim=1)
        order = torch.cat([visible, hidden], dim=1)  # [N, L], where each of them belongs
        ordered = take_tokens(everything, order.argsort(1))
        rows, columns = masks.shape[1:]
        positions = grid_positions(rows, columns, ordered.shape[2]).to(ordered)  # [L, d]
        predictions: Tensor = self.to_pixels(self.decoder(ordered + positions))
        return predictions

    @torch.no_grad()
    def rebuild(self, x: Tensor, masks: Tensor) -> Tensor:
        """Put predictions in the place of hidden patches: images like x [N, C, S, S].

        With norm_pix a prediction gets its patch's true mean and standard deviation, which the
        network has not seen: a figure of it has to say so.
        """
        predictions = self.reconstruct(x, masks)  # [N, L, P]
        patches = patchify(x, self.patch)
        if self.options.norm_pix:
            mean = patches.mean(-1, keepdim=True)
            std = patches.std(-1, keepdim=True)
            predictions = predictions * std + mean
        hidden = masks.flatten(1)[..., None]  # [N, L, 1]
        mixed = torch.where(hidden, predictions, patches)
        return unpatchify(mixed, self.patch, x.shape[1], masks.shape[1])
