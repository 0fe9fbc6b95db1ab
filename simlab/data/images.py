"""One split of a dataset as a uint8 tensor: `Images`.

data = load_data("fashion-scattered")
data.train.images      uint8 [10000, 1, 32, 32], on the device that was asked for
data.train.labels      int64 [10000]
data.train.factors     float32 [10000, 4]: the position, angle and scale of each image
data.normalize(data.train.images[:8])      what an encoder sees: float32 [8, 1, 32, 32]
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from simlab.augment import Normalize

from .image_checks import check_factors, check_images, check_labels, check_levels
from .model_input import NormalizedBatches

DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits
SMALLEST_STD = 1e-6
MOMENTS_BLOCK = 1000  # images counted at once


@dataclass(eq=False, repr=False)
class Images:
    """One split of a dataset, all of it in memory on one device.

    Two objects are equal only if they are the same one; compare their `digest()` to compare what
    is in them.

    Attributes:
        images: uint8 [N, C, H, W], square, with 1 or 3 channels.
        labels: int64 [N], an index into classes; -1 where an image has none.
        classes: the classes' names.
        factors: float32 [N, F], causes of an image's looks other than its class, such as its angle.
        factor_names: the F names of these factors.
        factor_levels: of a nominal factor, such as who drew an image, the names of its values 0,
            1, ...; a factor that is not in it is a quantity.
        normalize: what makes an encoder's input of the images; set by the dataset that they are a
            split of.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    factors: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    factor_names: tuple[str, ...] = ()
    factor_levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    normalize: Normalize | None = None

    def __post_init__(self) -> None:
        check_images(self.images)
        check_labels(self.labels, self.images, self.classes)
        check_factors(self.factors, self.factor_names, len(self.images))
        check_levels(self.factors, self.factor_names, self.factor_levels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour ones."""
        return self.images.shape[1]

    @property
    def size(self) -> int:
        """The images' side in pixels."""
        return self.images.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the images, or the batches of streamed ones, are."""
        return self.labels.device

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give (index, uint8 images) for one batch of `order` [M] after the other."""
        for index in order.split(batch_size):
            yield index, self.images.index_select(0, index.to(self.device))

    def normalized_batches(self, batch_size: int) -> NormalizedBatches:
        """All images in order as a model takes them: float batches [n, C, H, W]."""
        return NormalizedBatches(self, batch_size)

    def subset(self, index: Tensor) -> "Images":
        """The images at `index` [M], with their labels and factors."""
        index = index.to(self.device)
        return replace(
            self,
            images=self.images.index_select(0, index),
            labels=self.labels[index],
            factors=self.factors[index] if self.factor_names else self.factors,
        )

    def select(self, index: Tensor) -> "Images":
        """As `subset`; of streamed images, which may not fit in memory, they may be streamed."""
        return self.subset(index)

    def factor_targets(self) -> dict[str, Tensor]:
        """Each factor that is a quantity by its name, as a regression's targets [N, T].

        T is 1; for the angle, whose -180 and 180 degrees are one, it is 2: cosine and sine.
        """
        columns = self.factors.split(1, dim=1) if self.factor_names else ()  # [N, 1] each
        targets = dict(zip(self.factor_names, columns, strict=True))
        for name in self.factor_levels:
            del targets[name]
        if "angle" in targets:
            radians = torch.deg2rad(targets["angle"])
            targets["angle"] = torch.cat((radians.cos(), radians.sin()), dim=1)
        return targets

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel [C], of images in 0 .. 1: exact.

        They come from the histogram of each channel. A constant channel, which has no spread, is
        given the standard deviation 1.
        """
        return moments_of(self.images.split(MOMENTS_BLOCK))

    def digest(self) -> str:
        """SHA-256 of images, labels and classes: what a run was trained on."""
        h = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        h.update(self.images.cpu().contiguous().numpy().data)
        h.update(self.labels.cpu().contiguous().numpy().data)
        return h.hexdigest()[:DIGEST_LENGTH]

    def with_threads(self, threads: int) -> "Images":
        """The same images: those in memory need no threads, unlike streamed ones."""
        return self

    def with_normalize(self, normalize: Normalize) -> "Images":
        """The same images, to be normalised by `normalize`."""
        return replace(self, normalize=normalize)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on `device`."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            factors=self.factors.to(device),
            normalize=self.normalize.to(device) if self.normalize else None,
        )

    def __repr__(self) -> str:
        text = f"{len(self)} images {shape_text(self)}, {len(self.classes)} classes"
        if self.factor_names:
            text += f", factors {', '.join(self.factor_names)}"
        return f"{type(self).__name__}({text}, on {self.device})"


def moments_of(blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of blocks of images, uint8 [N, C, H, W]; see `moments`."""
    counts: Tensor | None = None  # [C, 256]: how often each value occurs
    for block in blocks:
        channels = [torch.bincount(c.reshape(-1), minlength=256) for c in block.unbind(1)]
        of_block = torch.stack(channels).cpu()
        counts = of_block if counts is None else counts + of_block
    assert counts is not None
    values = torch.arange(256, dtype=torch.float64) / 255
    frequency = counts.double() / counts[0].sum()
    mean = (frequency * values).sum(1)
    std = (frequency * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), torch.where(std > SMALLEST_STD, std, 1).float()


def shape_text(images: Images) -> str:
    """Channels and pixels of a split's images, such as [3, 32, 32]."""
    return f"[{images.channels}, {images.size}, {images.size}]"
