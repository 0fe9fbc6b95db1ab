"""Images as uint8 tensors, and a dataset as its splits: `Images` and `Dataset`.

data = load_data("fashion-scattered")
data.train.images      uint8 [10000, 1, 32, 32], on the device that was asked for
data.train.labels      int64 [10000]
data.train.factors     float32 [10000, 4]: the position, angle and scale of each image
data.normalize(data.train.images[:8])      what an encoder sees: float32 [8, 1, 32, 32]
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from simlab.augment import Normalize

from .preview import dataset_html

UNLABELLED = -1
DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits
SMALLEST_STD = 1e-6


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
        normalize: what makes an encoder's input of the images; set by the dataset that they are a
            split of.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    factors: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    factor_names: tuple[str, ...] = ()
    normalize: Normalize | None = None

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_labels(self.labels, self.images, self.classes)
        _check_factors(self.factors, self.factor_names, len(self.images))

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
        """Each factor by its name, as a regression's targets [N, T].

        T is 1; for the angle, whose -180 and 180 degrees are one, it is 2: cosine and sine.
        """
        columns = self.factors.split(1, dim=1) if self.factor_names else ()  # [N, 1] each
        targets = dict(zip(self.factor_names, columns, strict=True))
        if "angle" in targets:
            radians = torch.deg2rad(targets["angle"])
            targets["angle"] = torch.cat((radians.cos(), radians.sin()), dim=1)
        return targets

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel [C], of images in 0 .. 1: exact.

        They come from the histogram of each channel. A constant channel, which has no spread, is
        given the standard deviation 1.
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = [torch.bincount(c.reshape(-1), minlength=256) for c in self.images.unbind(1)]
        frequency = torch.stack(counts).cpu().double() / self.images[:, 0].numel()  # [C, 256]
        mean = (frequency * values).sum(1)
        std = (frequency * (values - mean[:, None]) ** 2).sum(1).sqrt()
        return mean.float(), torch.where(std > SMALLEST_STD, std, 1).float()

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


@dataclass(eq=False, repr=False)
class Dataset:
    """Training and test images, and the normalisation that all splits share.

    Attributes:
        name: what runs and figures call it.
        train: the labelled training images.
        test: the test images, of the same classes.
        unlabeled: more images for pretraining alone (STL-10 has them), or None.
        normalize: mean and standard deviation of the images that pretraining sees, measured where
            they are not given.
    """

    name: str
    train: Images
    test: Images
    unlabeled: Images | None = None
    normalize: Normalize = None  # type: ignore[assignment]  # never None after __post_init__

    def __post_init__(self) -> None:
        for other in (self.test, self.pretrain):
            if (other.channels, other.size) != (self.train.channels, self.train.size):
                raise ValueError(
                    f"{self.name}: the splits have images {shape_text(self.train)} and "
                    f"{shape_text(other)}: expected one shape"
                )
        if self.test.classes != self.train.classes:
            raise ValueError(
                f"{self.name}: the test split has the classes {', '.join(self.test.classes)} and "
                f"the training split {', '.join(self.train.classes)}: expected the same"
            )
        self._is_measured = self.normalize is None
        if self._is_measured:
            self.normalize = Normalize(*self.pretrain.moments())
        self.normalize = self.normalize.to(self.train.device)
        self.train = self.train.with_normalize(self.normalize)
        self.test = self.test.with_normalize(self.normalize)
        if self.unlabeled is not None:
            self.unlabeled = self.unlabeled.with_normalize(self.normalize)

    @property
    def pretrain(self) -> Images:
        """The images of pretraining: the unlabelled images where there are any."""
        return self.train if self.unlabeled is None else self.unlabeled

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, the same in every labelled split."""
        return self.train.classes

    def splits(self) -> dict[str, Images]:
        """Each split by its name: train, test and, where there is one, unlabeled."""
        splits = {"train": self.train, "test": self.test}
        if self.unlabeled is not None:
            splits["unlabeled"] = self.unlabeled
        return splits

    def digest(self) -> str:
        """SHA-256 of all splits, and of a normalisation that is not the images' own."""
        text = self.pretrain.digest() + self.train.digest() + self.test.digest()
        if not self._has_measured_normalize():
            text += f"{self.normalize.mean.tolist()} {self.normalize.std.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]

    def to(self, device: torch.device | str) -> "Dataset":
        """The same dataset on `device`."""
        moved = Dataset(
            self.name,
            self.train.to(device),
            self.test.to(device),
            None if self.unlabeled is None else self.unlabeled.to(device),
            self.normalize,
        )
        moved._is_measured = self._is_measured  # which is not measured again
        return moved

    def _has_measured_normalize(self) -> bool:
        return self._is_measured or self.normalize == Normalize(*self.pretrain.moments())

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(images)}" for name, images in self.splits().items())
        text = f"{self.name!r}, {counts} images {shape_text(self.train)}"
        return f"Dataset({text}, {len(self.classes)} classes, on {self.train.device})"

    def _repr_html_(self) -> str:
        return dataset_html(self)


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
