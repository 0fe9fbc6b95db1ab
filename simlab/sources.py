"""Where pictures come from: files that come along, IDX files, and torchvision's downloads."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


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


def from_torchvision(make: Callable, folder: str, download: bool, **split) -> Dataset:
    """One of torchvision's data sets, fetched if asked.

    Raises FileNotFoundError where files are missing, ConnectionError where fetching them failed.
    """
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
