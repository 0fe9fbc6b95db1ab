"""Images as uint8 tensors [N, C, H, W], and the datasets by name.

    data = load_data("fashion-scattered")
    data.train.images      uint8 [10000, 1, 32, 32], on the device that was asked for
    data.train.labels      int64 [10000]
    data.train.factors     where each image was put (x, y, angle, scale), for this set

`fashion` and `fashion-scattered` come along with simlab. CIFAR-10, CIFAR-100 and STL-10 are
torchvision's and are downloaded only when asked (sources.py). Any folder of images works as well
(folders.py), and `from_arrays` takes what is in memory already.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simlab._names import near
from simlab.augment import Normalize


@dataclass
class Images:
    """One split of a dataset, all of it in memory on one device.

    images: uint8 [N, C, H, W]; labels: int64 [N], -1 where an image has none; factors: float32
    [N, F], known causes of an image's looks other than its class, named by factor_names.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    factors: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    factor_names: tuple[str, ...] = ()
    normalize: Normalize | None = None  # set by the Dataset that they are a split of

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                f"images must be uint8 [N, C, H, W], not {images.dtype} {tuple(images.shape)}"
            )
        if len(images) == 0:
            raise ValueError("there is not one image in this dataset")
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images must have 1 or 3 channels, not {images.shape[1]}")
        if images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be square, not {images.shape[2]} x {images.shape[3]}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images but labels of shape {tuple(labels.shape)}")
        if labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64, not {labels.dtype}")
        wrong = (labels < -1) | (labels >= len(self.classes))
        if bool(wrong.any()):
            at, classes = int(wrong.nonzero()[0]), len(self.classes)
            raise ValueError(
                f"label {int(labels[at])} of image {at} is out of range: expected "
                f"-1 (none) to {classes - 1}, for {classes} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    channels = property(lambda self: self.images.shape[1])
    size = property(lambda self: self.images.shape[-1])
    device = property(lambda self: self.labels.device)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(index, uint8 images) for one batch of `order` [M] after the other."""
        for index in order.split(batch_size):
            yield index, self.images.index_select(0, index.to(self.device))

    def subset(self, index: Tensor) -> "Images":
        """The images at `index`, with their labels and factors."""
        index = index.to(self.device)
        factors = self.factors[index] if len(self.factors) else self.factors
        images = self.images.index_select(0, index)
        return replace(self, images=images, labels=self.labels[index], factors=factors)

    def factor_targets(self) -> dict[str, Tensor]:
        """Each factor [N, 1] by its name; an angle, whose -180 and 180 are one, as cos and sin [N, 2]."""
        known = dict(zip(self.factor_names, self.factors[..., None].unbind(1), strict=True))
        if "angle" in known:
            turn = torch.deg2rad(known["angle"])
            known["angle"] = torch.cat((turn.cos(), turn.sin()), dim=1)
        return known

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and std of each channel [C], of images in 0 .. 1, from the histogram: exact."""
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = [torch.bincount(c.reshape(-1), minlength=256) for c in self.images.unbind(1)]
        share = torch.stack(counts).cpu().double() / self.images[:, 0].numel()  # [C, 256]
        mean = (share * values).sum(1)
        std = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
        # a constant set has no spread; it is centred and left at its scale
        return mean.float(), torch.where(std > 1e-6, std, 1).float()

    def digest(self) -> str:
        """SHA-256 of the images and labels: what a run was trained on."""
        h = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        h.update(self.images.cpu().contiguous().numpy())
        h.update(self.labels.cpu().contiguous().numpy())
        return h.hexdigest()[:16]

    def with_normalize(self, normalize: Normalize) -> "Images":
        """The same images, to be normalised by `normalize`."""
        return replace(self, normalize=normalize)

    def to(self, device: torch.device | str) -> "Images":
        moved = {name: getattr(self, name).to(device) for name in ("images", "labels", "factors")}
        if self.normalize is not None:
            moved["normalize"] = self.normalize.to(device)
        return replace(self, **moved)


@dataclass
class Dataset:
    """Training and test images, and the normalisation that all of them share.

    `unlabeled` are more images for pretraining alone (STL-10 has them, others do not).
    """

    name: str
    train: Images
    test: Images
    unlabeled: Images | None = None
    normalize: Normalize | None = None  # measured where it is not given

    def __post_init__(self):
        for other in (self.test, self.pretrain):
            if (other.channels, other.size) != (self.train.channels, self.train.size):
                raise ValueError(
                    f"{self.name}: images of {self.train.channels} x {self.train.size} and of "
                    f"{other.channels} x {other.size} (channels x pixels) do not go together"
                )
        if self.test.classes != self.train.classes:
            raise ValueError(f"{self.name}: the test images' classes are not the training's")
        if self.normalize is None:
            self.normalize = Normalize(*self.pretrain.moments()).to(self.train.device)
        self.train = self.train.with_normalize(self.normalize)
        self.test = self.test.with_normalize(self.normalize)
        if self.unlabeled is not None:
            self.unlabeled = self.unlabeled.with_normalize(self.normalize)

    @property
    def pretrain(self) -> Images:
        """What self-supervised training sees: the unlabeled images where there are any."""
        return self.train if self.unlabeled is None else self.unlabeled

    classes = property(lambda self: self.train.classes)

    def digest(self) -> str:
        parts = (self.pretrain.digest(), self.train.digest(), self.test.digest())
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    def to(self, device: torch.device | str) -> "Dataset":
        parts = {k: v for k, v in vars(self).items() if k != "name" and v is not None}
        return replace(self, **{k: v.to(device) for k, v in parts.items()})


def load_data(
    name: str,
    folder: str = "",
    download: bool = False,
    image_size: int = 0,
    device: torch.device | str = "cpu",
) -> Dataset:
    """A dataset by name, or by the path of a folder of images.

    Args:
        name: one of sources.py's, or a path with train/<class>/*.jpg or images alone below it.
        folder: where the files are, or go. Empty: for `fashion` the images that come along; for
            torchvision's sets $SIMLAB_DATA, or else data/downloads beside the notebooks.
        download: fetch what is missing. Without it nothing ever touches the network.
        image_size: side in pixels for a folder's images; 0 takes the first image's.
    Raises: ValueError for an unknown name; FileNotFoundError or ValueError that say which file is
        missing or broken, and how to mend it.
    """
    from .folders import load_folder  # both build on this file
    from .registry import DATASETS

    if name in DATASETS:
        data = DATASETS[name](folder, download)
        if image_size not in (0, data.train.size):
            raise ValueError(
                f"image_size={image_size}: {name} has images of {data.train.size} "
                "pixels; leave it 0"
            )
        return data.to(device)
    if os.sep in name or (name and Path(name).is_dir()):
        return load_folder(name, image_size, device)
    raise ValueError(f"dataset {name!r} is unknown{near(name, DATASETS)}; a folder is a path")


def from_arrays(
    images, labels=None, test_images=None, test_labels=None, classes: tuple[str, ...] = ()
) -> Dataset:
    """A dataset of arrays or tensors: uint8 [N, H, W], [N, H, W, C] or [N, C, H, W].

    Without test images, every fifth image is held out. Without labels every label is -1.
    """
    if test_images is None and test_labels is not None:
        raise ValueError("there are test_labels, but no test_images")
    train_labels, test_labels = as_labels(labels, images), as_labels(test_labels, test_images)
    greatest = max([-1, *(int(part.max()) for part in (train_labels, test_labels) if len(part))])
    classes = tuple(classes) or tuple(str(c) for c in range(greatest + 1))
    train = Images(as_images(images), train_labels, classes)
    if test_images is not None:
        return Dataset("arrays", train, Images(as_images(test_images), test_labels, classes))
    if len(train) < 5:
        raise ValueError(f"{len(train)} images are too few to hold a fifth out; give test_images")
    fifth = torch.arange(len(train)) % 5 == 4
    return Dataset("arrays", *(train.subset(part.nonzero()[:, 0]) for part in (~fifth, fifth)))


def as_images(array) -> Tensor:
    """[N, C, H, W] of any layout that `from_arrays` takes."""
    x = _as_tensor(array)
    if x.dim() == 3:
        x = x[:, None]  # [N, H, W] -> [N, 1, H, W]
    elif x.dim() == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2)  # [N, H, W, C] -> [N, C, H, W]
    return x.contiguous()


def as_labels(array, images=()) -> Tensor:
    """int64; -1 for every one of `images` where there are no labels."""
    if array is None:
        return torch.full((0 if images is None else len(images),), -1)
    x = _as_tensor(array)
    if x.is_floating_point() or x.is_complex():
        raise ValueError(f"labels must be whole numbers, not {x.dtype}")
    return x.long()


def _as_tensor(array) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
