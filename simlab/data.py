"""Pictures as uint8 tensors [N, C, H, W], and the data sets by name.

    data = load_data("fashion-scattered")
    data.train.images      uint8 [10000, 1, 32, 32], on the device that was asked for
    data.train.labels      int64 [10000]
    data.train.factors     where each picture was put (x, y, angle, scale), for this set

`fashion` and `fashion-scattered` come along with simlab. CIFAR-10, CIFAR-100 and STL-10 are
torchvision's and are downloaded only when asked. Any folder of pictures works as well (folders.py),
and `from_arrays` takes what is in memory already.
"""

import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

from .names import near
from .scatter import FACTOR_NAMES, scatter

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass
class Pictures:
    """One split of a data set, all of it in memory on one device.

    images: uint8 [N, C, H, W]; labels: int64 [N], -1 where a picture has none; factors: float32
    [N, F], known causes of a picture's looks other than its class, named by factor_names.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    factors: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    factor_names: tuple[str, ...] = ()

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                f"pictures must be uint8 [N, C, H, W], not {images.dtype} {tuple(images.shape)}"
            )
        if len(images) == 0:
            raise ValueError("there is not one picture in this data set")
        if images.shape[1] not in (1, 3):
            raise ValueError(f"pictures must have 1 or 3 channels, not {images.shape[1]}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} pictures but labels of shape {tuple(labels.shape)}")
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or high >= max(len(self.classes), 1) and high != -1:
            wrong = high if high >= len(self.classes) else low
            at = int((labels == wrong).nonzero()[0])
            raise ValueError(
                f"label {wrong} of picture {at} is out of range: expected 0 to "
                f"{len(self.classes) - 1} (or -1 for none)"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def size(self) -> int:
        return self.images.shape[-1]

    @property
    def device(self) -> torch.device:
        return self.images.device

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(index, uint8 pictures) for one batch of `order` [M] after the other."""
        for index in order.split(batch_size):
            yield index, self.images[index.to(self.device)]

    def subset(self, index: Tensor) -> "Pictures":
        """The pictures at `index`, with their labels and factors."""
        index = index.to(self.device)
        factors = self.factors[index] if len(self.factors) else self.factors
        return replace(
            self, images=self.images[index], labels=self.labels[index], factors=factors
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and std of each channel [C], of pictures in 0 .. 1, from the histogram: exact."""
        values = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in self.images.unbind(1):
            counts = torch.bincount(channel.reshape(-1), minlength=256).cpu().double()
            share = counts / counts.sum()
            mean = (share * values).sum()
            means.append(mean)
            stds.append((share * (values - mean) ** 2).sum().sqrt())
        # a constant set has no spread; it is centred and left at its scale
        std = torch.stack(stds)
        return torch.stack(means).float(), torch.where(std > 1e-6, std, 1).float()

    def digest(self) -> str:
        """SHA-256 of the pictures and labels: what a run was trained on."""
        h = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        h.update(self.images.cpu().contiguous().numpy())
        h.update(self.labels.cpu().contiguous().numpy())
        return h.hexdigest()[:16]

    def to(self, device: torch.device | str) -> "Pictures":
        moved = {name: getattr(self, name).to(device) for name in ("images", "labels", "factors")}
        return replace(self, **moved)


@dataclass
class DataSet:
    """Training and test pictures, and the mean and std [C] that both are normalised with.

    `unlabeled` are more pictures for pretraining alone (STL-10 has them, others do not).
    """

    name: str
    train: Pictures
    test: Pictures
    unlabeled: Pictures | None = None

    def __post_init__(self):
        if self.train.channels != self.test.channels or self.train.size != self.test.size:
            raise ValueError(
                f"{self.name}: training pictures are {self.train.channels} x {self.train.size}, "
                f"test pictures {self.test.channels} x {self.test.size} (channels x pixels)"
            )
        mean, std = self.pretrain.moments()
        self.mean, self.std = mean.to(self.train.device), std.to(self.train.device)

    @property
    def pretrain(self) -> Pictures:
        """What self-supervised training sees: the unlabeled pictures where there are any."""
        return self.train if self.unlabeled is None else self.unlabeled

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def digest(self) -> str:
        parts = (self.pretrain.digest(), self.train.digest(), self.test.digest())
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    def to(self, device: torch.device | str) -> "DataSet":
        unlabeled = None if self.unlabeled is None else self.unlabeled.to(device)
        return DataSet(self.name, self.train.to(device), self.test.to(device), unlabeled)


def load_data(
    name: str,
    folder: str = "",
    download: bool = False,
    image_size: int = 0,
    device: torch.device | str = "cpu",
) -> DataSet:
    """A data set by name, or by the path of a folder of pictures.

    Args:
        name: one of `DATASETS`, or a path with train/<class>/*.jpg or pictures alone below it.
        folder: where the files are, or go. Empty: for `fashion` the pictures that come along; for
            torchvision's sets $SIMLAB_DATA, or else data/downloads beside the notebooks.
        download: fetch what is missing. Without it nothing ever touches the network.
        image_size: side in pixels for a folder's pictures; 0 takes the first picture's.
    Raises: ValueError for an unknown name; FileNotFoundError or ValueError that say which file is
        missing or broken, and how to mend it.
    """
    if name in DATASETS:
        data = DATASETS[name](folder, download)
        if image_size not in (0, data.train.size):
            raise ValueError(
                f"image_size={image_size}: {name} has pictures of {data.train.size} pixels; leave it 0"
            )
        return data.to(device)
    if os.sep in name or Path(name).is_dir():
        from .folders import load_folder  # folders.py builds on this file

        return load_folder(name, image_size, device)
    raise ValueError(f"data set {name!r} is unknown{near(name, DATASETS)}; a folder is a path")


def from_arrays(
    images, labels=None, test_images=None, test_labels=None, classes: tuple[str, ...] = ()
) -> DataSet:
    """A data set of arrays or tensors: uint8 [N, H, W], [N, H, W, C] or [N, C, H, W].

    Without test pictures, every fifth picture is held out. Without labels every label is -1.
    """

    def pictures(images, labels):
        images = torch.as_tensor(np.asarray(images))
        if images.dim() == 3:
            images = images[:, None]  # [N, H, W] -> [N, 1, H, W]
        elif images.dim() == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
            images = images.permute(0, 3, 1, 2)  # [N, H, W, C] -> [N, C, H, W]
        if labels is None:
            labels = torch.full((len(images),), -1)
        labels = torch.as_tensor(np.asarray(labels)).long()
        names = classes or tuple(str(c) for c in range(int(labels.max()) + 1 if len(labels) else 0))
        return Pictures(images.contiguous(), labels, names)

    train = pictures(images, labels)
    if test_images is not None:
        return DataSet("arrays", train, pictures(test_images, test_labels))
    if len(train) < 5:
        raise ValueError(f"{len(train)} pictures are too few to hold a fifth out; give test_images")
    held_out = torch.arange(len(train)) % 5 == 4
    keep, test = torch.nonzero(~held_out)[:, 0], torch.nonzero(held_out)[:, 0]
    return DataSet("arrays", train.subset(keep), train.subset(test))


# ---------------------------------------------------------------------------------- the data sets


def _fashion(folder: str, download: bool) -> DataSet:
    root = Path(folder) if folder else come_along() / "fashion"
    if download:
        for train in (True, False):
            torchvision.datasets.FashionMNIST(str(download_folder(folder)), train, download=True)
        root = download_folder(folder) / "FashionMNIST" / "raw"
    splits = []
    for split in ("train", "t10k"):
        images = read_idx(root / f"{split}-images-idx3-ubyte.gz", dims=3)
        labels = read_idx(root / f"{split}-labels-idx1-ubyte.gz", dims=1)
        if len(images) != len(labels):
            raise ValueError(
                f"{root}: {len(images)} {split} pictures but {len(labels)} labels; "
                "the two files do not belong together, fetch both again"
            )
        splits.append(Pictures(images[:, None], labels.long(), FASHION_CLASSES))
    return DataSet("fashion", *splits)


def _fashion_scattered(folder: str, download: bool) -> DataSet:
    aligned = _fashion(folder, download)
    splits = []
    for seed, part in enumerate((aligned.train, aligned.test)):
        images, factors = scatter(part.images, seed)
        splits.append(replace(part, images=images, factors=factors, factor_names=FACTOR_NAMES))
    return DataSet("fashion-scattered", *splits)


def _cifar(number: int) -> Callable[[str, bool], DataSet]:
    make = {10: torchvision.datasets.CIFAR10, 100: torchvision.datasets.CIFAR100}[number]

    def load(folder: str, download: bool) -> DataSet:
        splits = []
        for train in (True, False):
            raw = _from_torchvision(make, folder, download, train=train)
            images = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
            splits.append(Pictures(images, torch.tensor(raw.targets), tuple(raw.classes)))
        return DataSet(f"cifar{number}", *splits)

    return load


def _stl10(folder: str, download: bool) -> DataSet:
    parts = {}
    for split in ("train", "test", "unlabeled"):
        raw = _from_torchvision(torchvision.datasets.STL10, folder, download, split=split)
        labels = torch.as_tensor(np.asarray(raw.labels)).long()
        parts[split] = Pictures(torch.from_numpy(raw.data), labels, tuple(raw.classes))
    return DataSet("stl10", parts["train"], parts["test"], parts["unlabeled"])


DATASETS: dict[str, Callable[[str, bool], DataSet]] = {
    "fashion": _fashion,
    "fashion-scattered": _fashion_scattered,
    "cifar10": _cifar(10),
    "cifar100": _cifar(100),
    "stl10": _stl10,
}


# ---------------------------------------------------------------------------------- where and how


def come_along() -> Path:
    """The folder of the pictures that come with simlab: in a checkout, or in the installed wheel."""
    inside = Path(__file__).parent / "_data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def download_folder(folder: str = "") -> Path:
    """Where torchvision's downloads are: `folder`, $SIMLAB_DATA, or data/downloads."""
    if folder or os.environ.get("SIMLAB_DATA"):
        return Path(folder or os.environ["SIMLAB_DATA"])
    checkout = Path(__file__).parent.parent / "data"
    home = checkout if checkout.is_dir() else Path.home() / ".cache" / "simlab"
    return home / "downloads"


def read_idx(path: Path, dims: int) -> Tensor:
    """An IDX file of bytes, gzipped or not, as uint8 with `dims` dimensions.

    Raises FileNotFoundError or ValueError that name the file and say how to mend it.
    """
    plain = path.with_suffix("")
    if not path.exists() and not plain.exists():
        raise FileNotFoundError(
            f"{path} is missing. Fashion-MNIST is four files (train- and t10k-, images-idx3-ubyte.gz "
            "and labels-idx1-ubyte.gz): give their folder, or download=True"
        )
    path = path if path.exists() else plain
    mend = "fetch the file again"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); {mend}") from error
    if len(raw) < 4 + 4 * dims or raw[:4] != bytes((0, 0, 8, dims)):
        raise ValueError(f"{path} is no IDX file of bytes with {dims} dimensions; {mend}")
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
    expected, got = int(np.prod(shape)), len(raw) - 4 - 4 * dims
    if expected != got:
        raise ValueError(f"{path} says {shape}, {expected} bytes, but holds {got}; {mend}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=4 + 4 * dims).view(shape)


def _from_torchvision(make: Callable, folder: str, download: bool, **split):
    root = download_folder(folder)
    if download:
        root.mkdir(parents=True, exist_ok=True)
    try:
        return make(str(root), download=download, **split)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{make.__name__} is not (whole) in {root}: {error} Fetch it with download=True, or "
            f"`simlab data {make.__name__.lower()} --download`; offline, put its files there"
        ) from error
    except OSError as error:  # no network, or a broken connection; torchvision checks its MD5 sums
        raise ConnectionError(f"{make.__name__} could not be downloaded to {root}: {error}") from error
