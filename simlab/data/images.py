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

from simlab._checks import near
from simlab.augment import Normalize

UNLABELLED = -1
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
        _check_images(self.images)
        _check_labels(self.labels, self.images, self.classes)
        _check_factors(self.factors, self.factor_names, len(self.images))
        _check_levels(self)

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

    def subset(self, index: Tensor) -> "Images":
        """The images at `index` [M], with their labels and factors."""
        index = index.to(self.device)
        return replace(
            self,
            images=self.images.index_select(0, index),
            labels=self.labels[index],
            factors=self.factors[index] if self.factor_names else self.factors,
        )

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


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"images must be uint8 [N, C, H, W], not {images.dtype} {tuple(images.shape)}"
        )
    n, channels, height, width = images.shape
    if n == 0:
        raise ValueError("the dataset is empty: expected at least one image")
    if channels not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, not {channels}")
    if height != width:
        raise ValueError(f"images must be square, not {height} x {width}")


def _check_labels(labels: Tensor, images: Tensor, classes: tuple[str, ...]) -> None:
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{len(images)} images but labels of shape {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, not {labels.dtype}")
    is_wrong = (labels < UNLABELLED) | (labels >= len(classes))
    if bool(is_wrong.any()):
        index = int(is_wrong.nonzero()[0])
        raise ValueError(
            f"label {int(labels[index])} of image {index} is out of range: expected "
            f"{UNLABELLED} (unlabelled) to {len(classes) - 1}, for {len(classes)} classes"
        )


def _check_factors(factors: Tensor, names: tuple[str, ...], number: int) -> None:
    if factors.numel() == 0 and not names:
        return
    if factors.shape != (number, len(names)):
        raise ValueError(
            f"factors of shape {tuple(factors.shape)}: expected ({number}, {len(names)}), a row "
            f"for each image and a column for each name ({', '.join(names) or 'none'})"
        )


def _check_levels(images: Images) -> None:
    for name, levels in images.factor_levels.items():
        if name not in images.factor_names:
            raise ValueError(f"factor_levels has {name!r}{near(name, images.factor_names)}")
        values = images.factors[:, images.factor_names.index(name)]
        is_wrong = (values < 0) | (values >= len(levels)) | (values != values.round())
        if bool(is_wrong.any()):
            index = int(is_wrong.nonzero()[0])
            raise ValueError(
                f"{name} {float(values[index]):g} of image {index}: expected a whole number from 0 "
                f"to {len(levels) - 1}, for {len(levels)} levels"
            )
