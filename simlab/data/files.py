"""Image files: which there are below a folder, and how one is read."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
THREADS = 4
IMAGES_OF_A_TASK = 64  # that a thread reads in one go; a task for each image would be slower
MODE_SAMPLE = 20  # images that are opened to see whether all are grey
GREY_MODES = ("1", "L")
EIGHT_BITS = 65535 / 255  # from a value of 16 bits to one of 8


@dataclass(frozen=True)
class ImageFiles:
    """Image files, and how they are read.

    Attributes:
        paths: the files.
        size: side in pixels that they are cut and resized to.
        mode: PIL's, "RGB" or "L" (grey).
    """

    paths: tuple[Path, ...]
    size: int
    mode: str

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def channels(self) -> int:
        """Of every image that is read: 1 or 3."""
        return len(self.mode)

    @property
    def decoded_bytes(self) -> int:
        """What all images take in memory."""
        return len(self) * self.channels * self.size**2

    def read(self, index: int) -> Tensor:
        """One image as uint8 [C, size, size]: the square in its middle, resized with antialiasing.

        Raises:
            ValueError: that names the file, where it can't be decoded.
        """
        with _opened(self.paths[index]) as opened:
            image = _eight_bits(opened).convert(self.mode)
        side = min(image.size)
        left = (image.width - side) // 2
        top = (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side != self.size:  # PIL's resize antialiases when it shrinks
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = np.array(image).reshape(self.size, self.size, -1)  # [H, W, C]
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def read_all(self, label: str = "") -> Tensor:
        """All images, uint8 [N, C, size, size], with a progress bar where there is a label."""
        images = torch.empty((len(self), self.channels, self.size, self.size), dtype=torch.uint8)

        def read_block(block: Tensor) -> int:
            for index in block.tolist():
                images[index] = self.read(index)
            return len(block)

        blocks = torch.arange(len(self)).split(IMAGES_OF_A_TASK)
        bar = tqdm(total=len(self), desc=label, unit=" images", disable=not label, leave=False)
        with ThreadPoolExecutor(THREADS) as pool, bar:
            for number in pool.map(read_block, blocks):
                bar.update(number)
        return images


def image_paths(root: Path) -> list[tuple[Path, str]]:
    """The image files below `root` in the order of their names, each with its class.

    The class is the folder right below `root`, and "" for files right in it. Hidden files and
    folders are not the user's images but some program's, and are passed over.

    Raises:
        FileNotFoundError: where there is not one.
    """
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    paths = []
    for path in files:
        names = path.relative_to(root).parts
        if not any(name.startswith(".") for name in names):
            paths.append((path, names[0] if len(names) > 1 else ""))
    if not paths:
        raise FileNotFoundError(
            f"{root} holds no images ({', '.join(sorted(ENDINGS))}); "
            "expected them in it, or in one folder for each class"
        )
    return paths


def image_files(paths: list[Path], image_size: int) -> ImageFiles:
    """The files, to be read at `image_size` pixels (0: the first image's shorter side).

    They are read as grey images where a sample from all over them is grey, else as colour ones.
    """
    if not image_size:
        with _opened(paths[0]) as image:
            image_size = min(image.size)
    is_grey = True
    for path in paths[:: max(1, len(paths) // MODE_SAMPLE)]:
        with _opened(path) as image:
            is_grey = is_grey and (image.mode in GREY_MODES or _has_16_bits(image))
    return ImageFiles(tuple(paths), image_size, "L" if is_grey else "RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file; an error while it is in use names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # PIL raises many kinds
        message = f"cannot decode the image {path} ({error}); fix or delete the file"
        raise ValueError(message) from error


def _has_16_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I")


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16 bits scaled to 8; PIL would cut its values off at 255 instead."""
    if not _has_16_bits(image):
        return image
    values = np.asarray(image).clip(0, 65535) / EIGHT_BITS
    return Image.fromarray(values.round().astype(np.uint8))
