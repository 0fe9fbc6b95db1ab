"""Where downloads go, and torchvision's datasets with errors that say what to do."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def download_folder(folder: str | Path = "") -> Path:
    """Where torchvision's downloads are: `folder`, or $SIMLAB_DATA, or data/downloads.

    The last is in a checkout of the project; an installed package uses ~/.cache/simlab/downloads.
    A ~ in front is the user's home.
    """
    checkout = Path(__file__).parents[2]
    is_checkout = (checkout / "pyproject.toml").exists()
    data = checkout / "data" if is_checkout else Path.home() / ".cache" / "simlab"
    chosen = Path(folder or os.environ.get("SIMLAB_DATA") or data / "downloads")
    return chosen.expanduser()


def open_torchvision(
    make: Callable[..., Any], name: str, folder: str, download: bool, **split: Any
) -> Any:
    """One split of a dataset of torchvision's, fetched where `download` says so.

    Args:
        make: the class, such as torchvision.datasets.CIFAR10.
        name: what simlab calls it, for the errors.
        folder: see `download_folder`.
        download: fetch what is missing; otherwise nothing touches the network.
        **split: what the class takes to choose the split, such as train=True.

    Raises:
        FileNotFoundError: where files are missing or damaged.
        ConnectionError: where they could not be fetched.
    """
    root = download_folder(folder)
    if download:
        root.mkdir(parents=True, exist_ok=True)
    try:
        return make(str(root), download=download, **split)
    except (RuntimeError, OSError) as error:  # torchvision raises either for a broken connection
        files_folder, wrong = _wrong_files(make, root)
        if not wrong:
            raise  # a file with the right name, but with a content that torchvision can't read
        if download:
            raise ConnectionError(f"{name} could not be downloaded to {root}: {error}") from error
        raise FileNotFoundError(
            f"{name}: {', '.join(wrong)} missing or damaged in {files_folder}. Fetch it "
            f"with download=True, or `simlab data {name} --download`; offline, put its files there"
        ) from error


def _wrong_files(make: Any, root: Path) -> tuple[Path, list[str]]:
    """The folder of a dataset's files below `root`, and which of them are missing or damaged."""
    from torchvision.datasets.utils import check_integrity  # loading it takes two seconds

    if hasattr(make, "base_folder"):  # CIFAR and STL-10, with the files' MD5 sums
        folder = root / make.base_folder
        files = make.train_list + make.test_list
        return folder, [file for file, md5 in files if not check_integrity(folder / file, md5)]
    folder = root / make.__name__ / "raw"  # Fashion-MNIST, with the MD5 sums of its downloads alone
    names = [Path(url).stem for url, _ in make.resources]
    return folder, [name for name in names if not (folder / name).is_file()]
