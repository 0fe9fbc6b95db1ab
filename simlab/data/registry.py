"""Datasets by name, or by the path of a folder."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from simlab._checks import near

from .dataset import Dataset
from .emoji import load_emoji
from .fashion import load_fashion, load_fashion_coloured, load_fashion_scattered
from .folders import load_folder
from .public_sets import load_cifar10, load_cifar100, load_stl10

# each takes (folder, download), as `load_data` does
DATASETS: dict[str, Callable[[str, bool], Dataset]] = {
    "fashion": load_fashion,
    "fashion-scattered": load_fashion_scattered,
    "fashion-coloured": load_fashion_coloured,
    "emoji": load_emoji,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "stl10": load_stl10,
}


def load_data(
    name: str,
    folder: str = "",
    download: bool = False,
    image_size: int = 0,
    device: torch.device | str = "cpu",
) -> Dataset:
    """Load a dataset by name, or a folder of images by its path.

    Args:
        name: one of `DATASETS`, or a path; folders.py says how such a folder looks.
        folder: where a named dataset's files are, or go. Empty: for `fashion` and what is made of
            it the bundled images; for the others $SIMLAB_DATA, or else data/downloads.
        download: fetch what is missing. Without it nothing ever touches the network.
        image_size: side in pixels for a folder's images; 0 takes the first image's.
        device: where the images shall be.

    Raises:
        ValueError: for an unknown name, for an image_size that a named dataset does not have, and
            for damaged files.
        FileNotFoundError: for missing files, with what to do.
        ConnectionError: for a failed download.
    """
    if name in DATASETS:
        data = DATASETS[name](folder, download)
        if image_size not in (0, data.train.size):
            raise ValueError(
                f"image_size={image_size}: {name} has images of {data.train.size} pixels; "
                "leave it 0"
            )
        return data.to(device)
    is_path = os.sep in name or (name != "" and Path(name).is_dir())
    if is_path:
        return load_folder(name, image_size, device)
    raise ValueError(
        f"dataset {name!r} is unknown{near(name, DATASETS)}; a folder of images is given by its "
        "path"
    )
