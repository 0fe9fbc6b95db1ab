"""The images of a split as a model takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .images import Images


@dataclass(frozen=True)
class NormalizedBatches:
    """The normalised images of a split in batches, which may be gone through more than once.

    Attributes:
        images: A split of a dataset.
        batch_size: Number of images at once.
    """

    images: Images
    batch_size: int

    def __post_init__(self) -> None:
        if self.images.normalize is None:
            raise ValueError("images without a normalisation: take a Dataset's split")

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:  # of [n, C, H, W]
        assert self.images.normalize is not None
        order = torch.arange(len(self.images))
        for _, batch in self.images.batches(order, self.batch_size):
            yield self.images.normalize(batch)
