"""The datasets by name: where their files are, and how they are read.

fashion             IDX files: those that come along, or any folder's
fashion-scattered   the same images, scattered (scatter.py)
fashion-coloured    those in random colours on coloured ground, where colour is a shortcut
cifar10, cifar100, stl10    torchvision's, which checks their MD5 sums
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from .images import Dataset, Images, as_images, as_labels
from .scatter import COLOUR_NAMES, FACTOR_NAMES, colour, scatter

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _fashion(folder: str, download: bool) -> Dataset:
    if download:
        from_torchvision(datasets.FashionMNIST, folder, download)
    root = download_folder(folder) if folder or download else come_along() / "fashion"
    if (root / "FashionMNIST" / "raw").is_dir():  # where torchvision puts them
        root = root / "FashionMNIST" / "raw"
    splits = []
    for split in ("train", "t10k"):
        files = root / f"{split}-images-idx3-ubyte.gz", root / f"{split}-labels-idx1-ubyte.gz"
        images, labels = read_idx(files[0], dims=3), read_idx(files[1], dims=1)
        try:
            splits.append(Images(images[:, None], labels.long(), FASHION_CLASSES))
        except ValueError as error:
            raise ValueError(
                f"{files[0]} and {files[1].name}: {error}; they do not belong "
                "together or are damaged, fetch both again"
            ) from error
    return Dataset("fashion", *splits)


def _fashion_scattered(folder: str, download: bool) -> Dataset:
    return _changed("fashion-scattered", _fashion(folder, download), scatter, FACTOR_NAMES)


def _fashion_coloured(folder: str, download: bool) -> Dataset:
    scattered = _fashion_scattered(folder, download)
    # drawn by seeds that placed nothing
    return _changed("fashion-coloured", scattered, colour, COLOUR_NAMES, first_seed=2)


def _changed(
    name: str, data: Dataset, change: Callable, factor_names: tuple, first_seed: int = 0
) -> Dataset:
    """The data after change(images, seed), which gives images and the factors [N, F] behind them."""
    splits = []
    for seed, part in enumerate((data.train, data.test), first_seed):
        images, factors = change(part.images, seed)
        known = [part.factors] if part.factor_names else []
        factors, names = torch.cat((*known, factors), dim=1), (*part.factor_names, *factor_names)
        splits.append(replace(part, images=images, factors=factors, factor_names=names))
    return Dataset(name, *splits)


def _torchvisions(make: Callable, labels: str, split: str, splits: tuple) -> Callable:
    """A loader; `labels` is the attribute that holds them, `split` the argument for `splits`."""

    def load(folder: str, download: bool) -> Dataset:
        parts = []
        for value in splits:
            raw = from_torchvision(make, folder, download, **{split: value})
            images = as_images(torch.from_numpy(raw.data))
            parts.append(Images(images, as_labels(getattr(raw, labels)), tuple(raw.classes)))
        return Dataset(make.__name__.lower(), *parts)

    return load


DATASETS: dict[str, Callable[[str, bool], Dataset]] = {
    "fashion": _fashion,
    "fashion-scattered": _fashion_scattered,
    "fashion-coloured": _fashion_coloured,
    "cifar10": _torchvisions(datasets.CIFAR10, "targets", "train", (True, False)),
    "cifar100": _torchvisions(datasets.CIFAR100, "targets", "train", (True, False)),
    "stl10": _torchvisions(datasets.STL10, "labels", "split", ("train", "test", "unlabeled")),
}


def come_along() -> Path:
    """The folder of the images that come with simlab: in a checkout, or in the installed wheel."""
    inside = Path(__file__).parents[1] / "_data"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "data"


def download_folder(folder: str = "") -> Path:
    """Where torchvision's downloads are: `folder`, $SIMLAB_DATA, or data/downloads."""
    checkout = Path(__file__).parents[2]
    is_one = (checkout / "pyproject.toml").exists()
    data = checkout / "data" if is_one else Path.home() / ".cache" / "simlab"
    return Path(folder or os.environ.get("SIMLAB_DATA") or data / "downloads")


def read_idx(path: Path, dims: int) -> Tensor:
    """An IDX file of bytes, gzipped or not, as uint8 with `dims` dimensions.

    Raises FileNotFoundError or ValueError that name the file and say how to mend it.
    """
    found = next((p for p in (path, path.with_suffix("")) if p.exists()), None)
    if found is None:
        raise FileNotFoundError(
            f"{path} is missing. Fashion-MNIST is four files (train- and t10k-, images-idx3-ubyte.gz "
            "and labels-idx1-ubyte.gz): give their folder, or download=True"
        )
    path, mend = found, "fetch the file again"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); {mend}") from error
    if len(raw) < 4 + 4 * dims or raw[:4] != bytes((0, 0, 8, dims)):
        raise ValueError(f"{path} is no IDX file of bytes with {dims} dimensions; {mend}")
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
    expected, got = math.prod(shape), len(raw) - 4 - 4 * dims
    if expected != got:
        raise ValueError(f"{path} says {shape}, {expected} bytes, but holds {got}; {mend}")
    pixels = np.frombuffer(bytearray(raw), np.uint8, offset=4 + 4 * dims)
    return torch.from_numpy(pixels).view(shape)


def from_torchvision(
    make: Callable, folder: str, download: bool, **split
) -> datasets.VisionDataset:
    """One of torchvision's datasets, fetched if asked.

    Raises FileNotFoundError where files are missing or broken, ConnectionError where they could not
    be fetched.
    """
    root, name = download_folder(folder), make.__name__
    if download:
        root.mkdir(parents=True, exist_ok=True)
    try:
        return make(str(root), download=download, **split)
    except (RuntimeError, OSError) as error:  # torchvision raises either for a broken connection
        if download:
            raise ConnectionError(f"{name} could not be downloaded to {root}: {error}") from error
        inside, files = root / make.base_folder, make.train_list + make.test_list
        wrong = [file for file, md5 in files if not check_integrity(inside / file, md5)]
        raise FileNotFoundError(
            f"{name}: {', '.join(wrong) or error} missing or damaged in {inside}. Fetch it with "
            f"download=True, or `simlab data {name.lower()} --download`; offline, put its files "
            "there"
        ) from error
