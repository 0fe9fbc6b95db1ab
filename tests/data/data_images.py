"""Random images for the tests of datasets, and Fashion-MNIST's files as torchvision keeps them."""

import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

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


def write_image(path, width=8, height=8, mode="RGB", seed=0):
    """A random image in a file, without loss where its format allows; returns its array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(array).save(path)
    return array


def write_folders(root, *folders, number=3, start=0):
    """`number` images in each of the folders, such as "train/cat"; no two images are alike."""
    for f, folder in enumerate(folders):
        for i in range(number):
            write_image(root / folder / f"{i}.png", seed=start + 100 * f + i)
