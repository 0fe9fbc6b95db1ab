"""Random images for the tests of datasets, and Fashion-MNIST's files as torchvision keeps them."""

import struct
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]


def some_images(n=10, c=1, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, c, side, side), dtype=torch.uint8, generator=generator)


def write_idx(path, array):
    """An uncompressed IDX file of bytes, which is what torchvision unpacks its downloads to."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_fashion(folder, train=20, test=10):
    """Tiny files like Fashion-MNIST's below `folder`, where torchvision looks for them."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, n in (("train", train), ("t10k", test)):
        write_idx(raw / f"{split}-images-idx3-ubyte", some_images(n)[:, 0].numpy())
        write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    return raw
