"""Cut data/fashion/fashion.npz out of the full Fashion-MNIST.

    python data/make_fashion_subset.py FOLDER

FOLDER is where torchvision keeps its datasets; Fashion-MNIST is downloaded into it where it is
missing. The file holds the first 1,000 training and 200 test images of every class, in the order
of the original: train_images uint8 [10000, 28, 28], train_labels uint8 [10000], test_images and
test_labels. Run again, it gives the same bytes.
"""

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
from torchvision.datasets import FashionMNIST

FILE = Path(__file__).parent / "fashion" / "fashion.npz"
CLASSES = 10
PER_CLASS = {"train": 1000, "test": 200}
NO_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold


def first_of_each_class(labels: np.ndarray, number: int) -> np.ndarray:
    """The indices of the first `number` images of each class, in ascending order."""
    indices = [np.flatnonzero(labels == c)[:number] for c in range(CLASSES)]
    return np.sort(np.concatenate(indices))


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write what `numpy.savez_compressed` does, but without the time of writing in it."""
    unfinished = path.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=NO_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    os.replace(unfinished, path)


def main(folder: str, file: Path = FILE) -> None:
    """Write the subset of the dataset in `folder` to `file`."""
    arrays = {}
    for split, per_class in PER_CLASS.items():
        full = FashionMNIST(folder, train=split == "train", download=True)
        labels = full.targets.numpy().astype(np.uint8)
        indices = first_of_each_class(labels, per_class)
        arrays[f"{split}_images"] = full.data.numpy()[indices]
        arrays[f"{split}_labels"] = labels[indices]
        print(f"{split}: {len(indices)} images")
    file.parent.mkdir(exist_ok=True)
    write_npz(file, arrays)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
