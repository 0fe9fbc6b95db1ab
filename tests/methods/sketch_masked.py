"""A sketch of SimMIM (2111.09886) on the interface: masks asked for, pixels predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from simlab._checks import AtLeast, LessThan
from simlab.methods.base import Crops, Masks, Method, MethodModule


@dataclass(frozen=True, kw_only=True)
class Masked(Method):
    patch: Annotated[int, AtLeast(1)] = 2
    """Side of the patches in pixels."""

    ratio: Annotated[float, AtLeast(0), LessThan(1)] = 0.5
    """Fraction of the patches that is hidden."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        return (Crops(1, "jitter=0"),)

    @property
    def masks(self) -> Masks:
        return Masks(self.patch, self.ratio)

    def build(self, encoder: nn.Module, feature_dim: int) -> "MaskedModule":
        return MaskedModule(encoder, feature_dim, self)


class MaskedModule(MethodModule):
    def __init__(self, encoder: nn.Module, feature_dim: int, options: Masked) -> None:
        super().__init__(encoder)
        self.patch = options.patch
        self.decoder = nn.Linear(feature_dim, 3 * 8 * 8)
        self.mask_value = nn.Parameter(torch.zeros(3, 1, 1))

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        (x,) = views  # [N, C, S, S]
        hidden = views.masks[:, None]  # [N, 1, S / patch, S / patch]
        hidden = hidden.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        masked_images = torch.where(hidden, self.mask_value, x)
        predicted = self.decoder(self.encoder(masked_images)).view_as(x)
        return {"loss": ((predicted - x).abs() * hidden).mean() / hidden.float().mean()}
