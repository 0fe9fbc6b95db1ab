"""A dataset: its splits and the normalisation that they share."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from simlab.augment import Normalize

from .images import DIGEST_LENGTH, Images, shape_text
from .model_input import NormalizedBatches
from .pixels import Fit, Range
from .preview import dataset_html


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
        notes: what was left out, converted or chosen when the images were loaded.
        fit: how a folder's images were made square: "cut" or "squeeze".
        value_range: the values that became 0 and 255, of a folder's images of more than 8 bits.
    """

    name: str
    train: Images
    test: Images
    unlabeled: Images | None = None
    normalize: Normalize = None  # type: ignore[assignment]  # never None after __post_init__
    notes: tuple[str, ...] = ()
    fit: Fit = "cut"
    value_range: Range | None = None

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

    def normalized_batches(self, batch_size: int) -> NormalizedBatches:
        """The test images in order as a model takes them: float batches [n, C, H, W]."""
        return self.test.normalized_batches(batch_size)

    def digest(self) -> str:
        """SHA-256 of all splits, and of a normalisation that is not the images' own."""
        train = self.train.digest()
        pretrain = train if self.unlabeled is None else self.unlabeled.digest()
        text = pretrain + train + self.test.digest()
        if not self._has_measured_normalize():
            text += f"{self.normalize.mean.tolist()} {self.normalize.std.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]

    def to(self, device: torch.device | str) -> "Dataset":
        """The same dataset on `device`."""
        return self._with_splits(lambda images: images.to(device))

    def with_threads(self, threads: int) -> "Dataset":
        """The same dataset, whose streamed images are decoded by so many threads."""
        return self._with_splits(lambda images: images.with_threads(threads))

    def _with_splits(self, change: Callable[[Images], Images]) -> "Dataset":
        changed = Dataset(
            self.name,
            change(self.train),
            change(self.test),
            None if self.unlabeled is None else change(self.unlabeled),
            self.normalize,
            self.notes,
            self.fit,
            self.value_range,
        )
        changed._is_measured = self._is_measured  # which is not measured again
        return changed

    def _has_measured_normalize(self) -> bool:
        return self._is_measured or self.normalize == Normalize(*self.pretrain.moments())

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(images)}" for name, images in self.splits().items())
        text = f"{self.name!r}, {counts} images {shape_text(self.train)}"
        return f"Dataset({text}, {len(self.classes)} classes, on {self.train.device})"

    def _repr_html_(self) -> str:
        return dataset_html(self.name, self.splits(), self.notes)
