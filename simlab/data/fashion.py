"""Fashion-MNIST: the bundled subset or all of it, as it is, scattered, and coloured."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .downloads import download_folder, open_torchvision
from .images import Images
from .nuisances import COLOUR_FACTORS, POSE_FACTORS, random_colours, random_pose

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
FIRST_COLOUR_SEED = 2  # 0 and 1 have placed the images of the two splits


def load_fashion(folder: str, download: bool) -> Dataset:
    """The bundled 12,000 images; with a folder of torchvision's or a download all 70,000."""
    if folder or download:
        train = _read_torchvision(folder, download, train=True)
        test = _read_torchvision(folder, download, train=False)
    else:
        train, test = _read_bundled(bundled_folder() / "fashion" / "fashion.npz")
    return Dataset("fashion", train, test)


def load_fashion_scattered(folder: str, download: bool) -> Dataset:
    """The same images, each in a random pose on a larger canvas."""
    data = load_fashion(folder, download)
    return _with_nuisance("fashion-scattered", data, random_pose, POSE_FACTORS, first_seed=0)


def load_fashion_coloured(folder: str, download: bool) -> Dataset:
    """The scattered images in random colours on coloured backgrounds: colour is a shortcut."""
    data = load_fashion_scattered(folder, download)
    return _with_nuisance(
        "fashion-coloured", data, random_colours, COLOUR_FACTORS, FIRST_COLOUR_SEED
    )


def bundled_folder() -> Path:
    """The folder of the images that ship with simlab: in a checkout, or in the installed wheel."""
    in_wheel = Path(__file__).parents[1] / "_data"
    return in_wheel if in_wheel.is_dir() else Path(__file__).parents[2] / "data"


def _with_nuisance(
    name: str,
    data: Dataset,
    change: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    factor_names: tuple[str, ...],
    first_seed: int,
) -> Dataset:
    """The dataset after change(images, seed), which gives new images and their factors [N, F]."""
    train = _with_factors(data.train, *change(data.train.images, first_seed), factor_names)
    test = _with_factors(data.test, *change(data.test.images, first_seed + 1), factor_names)
    return Dataset(name, train, test)


def _with_factors(
    split: Images, images: Tensor, factors: Tensor, factor_names: tuple[str, ...]
) -> Images:
    """The split with other images, and with more factors [N, F] beside those that it has."""
    if split.factor_names:
        factors = torch.cat((split.factors, factors), dim=1)
    return replace(
        split,
        images=images,
        factors=factors,
        factor_names=(*split.factor_names, *factor_names),
    )


def _read_bundled(path: Path) -> tuple[Images, Images]:
    """Training and test images of a file that data/make_fashion_subset.py has written."""
    fix = "it ships with simlab: install it, or check it out, again"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; {fix}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            train = _as_split(arrays["train_images"], arrays["train_labels"])
            test = _as_split(arrays["test_images"], arrays["test_labels"])
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); {fix}") from error
    return train, test


def _read_torchvision(folder: str, download: bool, train: bool) -> Images:
    from torchvision.datasets import FashionMNIST  # loading it takes two seconds

    try:
        split = open_torchvision(FashionMNIST, "fashion", folder, download, train=train)
        return _as_split(split.data.numpy(), split.targets.numpy())
    except (AssertionError, RuntimeError, ValueError, KeyError) as error:  # of torchvision's reader
        files = download_folder(folder) / "FashionMNIST" / "raw"
        name = "train" if train else "t10k"
        raise ValueError(
            f"{files}: {name}-images-idx3-ubyte and {name}-labels-idx1-ubyte do not fit each other "
            f"or are damaged ({error}); delete them and fetch them again with download=True"
        ) from error


def _as_split(images: np.ndarray, labels: np.ndarray) -> Images:
    """A split of grey images uint8 [N, H, W] and labels [N]."""
    pixels = torch.from_numpy(images)[:, None]  # [N, 1, H, W]
    return Images(pixels, torch.from_numpy(labels).long(), FASHION_CLASSES)
