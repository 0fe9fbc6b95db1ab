"""Datasets by name, or by the path of a folder."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from simlab._checks import near

from .convert import with_channels
from .dataset import Dataset
from .emoji import load_emoji
from .fashion import load_fashion, load_fashion_coloured, load_fashion_scattered
from .files import OnError
from .folders import load_folder
from .pixels import Fit, check_choices
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
    name: str | Path,
    folder: str | Path = "",
    download: bool = False,
    image_size: int = 0,
    device: torch.device | str = "cpu",
    channels: int = 0,
    fit: Fit = "cut",
    on_error: OnError = "raise",
    threads: int = 0,
) -> Dataset:
    """Load a dataset by name, or a folder of images by its path.

    Args:
        name: one of `DATASETS`, or a path; layout.py says how such a folder looks.
        folder: where a named dataset's files are, or go. Empty: for `fashion` and what is made of
            it the bundled images; for the others $SIMLAB_DATA, or else data/downloads.
        download: fetch what is missing. Without it nothing ever touches the network.
        image_size: side in pixels for a folder's images; 0 takes the median of their shorter sides.
        device: where the images shall be.
        channels: 1 for grey, 3 for colour; 0 for what the images have.
        fit: for a folder's images: "cut" takes the square in the middle, "squeeze" all of each.
        on_error: for a folder's images: "raise" names all that can't be decoded, "skip" leaves them
            out.
        threads: for a folder's images: how many threads read them. 0: as many as cores are there
            for this process, 4 at least.

    Returns:
        The dataset; its `notes` say what was left out, converted or chosen.

    Raises:
        ValueError: for an unknown name, for an image_size that a named dataset does not have, and
            for damaged files.
        FileNotFoundError: for missing files, with what to do.
        ConnectionError: for a failed download.
    """
    check_choices(channels, fit)
    if name in DATASETS:
        data = DATASETS[str(name)](str(folder), download)
        _check_named(data, image_size, fit, on_error)
        return _with_channels(data, channels).to(device)
    if _is_path(name):
        return load_folder(
            name,
            image_size,
            device,
            channels=channels,
            fit=fit,
            on_error=on_error,
            threads=threads,
        )
    raise ValueError(
        f"dataset {name!r} is unknown{near(name, DATASETS)}; a folder of images is given by its "
        "path"
    )


def _is_path(name: str | Path) -> bool:
    if isinstance(name, Path):
        return True
    has_separator = "/" in name or os.sep in name or name.startswith("~")
    return has_separator or (name != "" and Path(name).is_dir())


def _check_named(data: Dataset, image_size: int, fit: str, on_error: str) -> None:
    """Refuse what only a folder's images can be asked for."""
    if image_size not in (0, data.train.size):
        raise ValueError(
            f"image_size={image_size}: {data.name} has images of {data.train.size} pixels; leave "
            "it 0"
        )
    for option, value, default in (("fit", fit, "cut"), ("on_error", on_error, "raise")):
        if value != default:
            raise ValueError(f"{option}={value!r} is for folders: {data.name} has a fixed set")


def _with_channels(data: Dataset, channels: int) -> Dataset:
    """The dataset in grey or colour, measured anew; itself where it is so already."""
    if channels in (0, data.train.channels):
        return data
    splits = {}
    for name, split in data.splits().items():
        splits[name] = replace(split, images=with_channels(split.images, channels), normalize=None)
    kind = "grey" if channels == 1 else "colour"
    notes = (*data.notes, f"images converted to {kind}")
    return Dataset(data.name, splits["train"], splits["test"], splits.get("unlabeled"), notes=notes)
