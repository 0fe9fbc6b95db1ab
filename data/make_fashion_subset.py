"""Cut the images in data/fashion out of Fashion-MNIST's four official IDX files.

    python data/make_fashion_subset.py FOLDER_OF_IDX_FILES

The first 1,000 training and 200 test images of every class, in the order of the original files,
written as IDX files themselves. Run again, it gives the same bytes.
"""

import gzip
import os
import struct
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "fashion"
PER_CLASS = {"train": 1000, "t10k": 200}


def read_idx(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes())
    dims = raw[3]
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def write_idx(path: Path, array: np.ndarray):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    part = path.with_suffix(".part")
    part.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))
    os.replace(part, path)


def main(source: str):
    HERE.mkdir(exist_ok=True)
    for split, per_class in PER_CLASS.items():
        images = read_idx(Path(source) / f"{split}-images-idx3-ubyte.gz")
        labels = read_idx(Path(source) / f"{split}-labels-idx1-ubyte.gz")
        keep = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(10)])
        keep.sort()
        write_idx(HERE / f"{split}-images-idx3-ubyte.gz", images[keep])
        write_idx(HERE / f"{split}-labels-idx1-ubyte.gz", labels[keep])
        print(f"{split}: {len(keep)} images")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
