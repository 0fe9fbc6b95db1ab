"""Image files: how one is read, all of them, and which of them are broken."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from simlab.compute.distributed import share_of_cores

from .headers import Header, common_mode, common_size, depth_of, note_traits, read_header
from .notes import Notes, count
from .pixels import (
    Fit,
    Range,
    check_choices,
    image_tensor,
    is_deep,
    reduce_jpeg,
    value_range_of,
)

OnError = Literal["raise", "skip"]
Reasons = dict[int, str]  # why images can't be decoded, by their indices

LEAST_THREADS = 4  # since some of them wait for the disk
IMAGES_OF_A_TASK = 64  # that a thread reads in one go; a task for each image would be slower
LISTED = 20  # broken files that an error lists; more are counted


class BrokenImageError(ValueError):
    """Image files that can't be decoded, each with the reason."""

    def __init__(self, paths: Sequence[Path], reasons: Reasons):
        files = [f"{paths[i]} ({reason})" for i, reason in list(reasons.items())[:LISTED]]
        if len(reasons) > LISTED:
            files.append(f"and {len(reasons) - LISTED:,} more")
        one_or_many = "the image" if len(reasons) == 1 else f"{len(reasons):,} images:"
        text = f"cannot decode {one_or_many} {'; '.join(files)}"
        super().__init__(f'{text}; fix or delete the file, or leave it out with on_error="skip"')


@dataclass(frozen=True)
class ImageFiles:
    """Image files, and how they are read.

    Attributes:
        paths: the files.
        size: side in pixels that they are cut and resized to.
        mode: PIL's, "RGB" or "L" (grey).
        fit: "cut" takes the square in the middle, "squeeze" all of an image.
        value_range: the values that become 0 and 255, in images of more than 8 bits.
        threads: how many of them read; no part of what is read.
    """

    paths: tuple[Path, ...]
    size: int
    mode: str
    fit: Fit = "cut"
    value_range: Range | None = None
    threads: int = field(default=LEAST_THREADS, repr=False, compare=False)

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
        """One image as uint8 [C, size, size], upright, on white, resized with antialiasing.

        Raises:
            BrokenImageError: that names the file, where it can't be decoded.
        """
        try:
            return self._decode(index)
        except Exception as error:  # PIL raises many kinds
            reasons = {index: _reason(error)}
            raise BrokenImageError(self.paths, reasons) from error

    def read_all(self, label: str = "") -> tuple[Tensor, Reasons]:
        """All images, with a progress bar where there is a label.

        Returns:
            uint8 [N, C, size, size], and why images can't be decoded; those are left black.
        """
        images = torch.zeros((len(self), self.channels, self.size, self.size), dtype=torch.uint8)

        def read_into(index: int) -> None:
            images[index] = self._decode(index)

        _, reasons = in_threads(read_into, len(self), label, self.threads)
        return images, reasons

    def broken(self, label: str = "") -> Reasons:
        """Why images can't be decoded, by their indices: every image is decoded once."""

        def decode(index: int) -> None:
            self._decode(index)  # the image is dropped, so that memory holds few

        _, reasons = in_threads(decode, len(self), label, self.threads)
        return reasons

    def _decode(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            reduce_jpeg(image, self.size)
            return image_tensor(image, self.size, self.mode, self.fit, self.value_range)


def image_files(
    paths: Sequence[Path],
    notes: Notes,
    image_size: int = 0,
    channels: int = 0,
    fit: Fit = "cut",
    threads: int = 0,
) -> tuple[ImageFiles, Reasons]:
    """The files, to be read at one size and in one mode that are chosen from all their headers.

    Args:
        paths: the files.
        notes: takes what has to be said of them.
        image_size: side in pixels; 0: the median of the shorter sides.
        channels: 1 for grey, 3 for colour, 0 for colour where any image has it.
        fit: see `ImageFiles`.
        threads: how many of them read; 0: as many as cores are there for this process, 4 at least.

    Returns:
        The files, and why some of them have no header.

    Raises:
        ValueError: for a choice that does not exist, a negative number of threads, and for
            integers beside floats.
        BrokenImageError: where not one file has a header.
    """
    check_choices(channels, fit)
    if threads < 0:
        raise ValueError(f"threads={threads}: expected at least 0")
    threads = threads or max(share_of_cores(), LEAST_THREADS)
    results, reasons = in_threads(
        lambda index: read_header(paths[index]), len(paths), threads=threads
    )
    headers: list[Header] = [header for header in results if header is not None]
    if not headers:
        raise BrokenImageError(paths, reasons)
    size = common_size(headers, image_size, notes)
    mode = common_mode(headers, channels)
    note_traits(headers, fit, notes)
    depth = depth_of(headers)
    value_range = None
    if depth:
        deep = [p for p, h in zip(paths, results, strict=True) if h is not None and is_deep(h.mode)]
        value_range = _common_range(deep, depth, notes)
    return ImageFiles(tuple(paths), size, mode, fit, value_range, threads), reasons


def in_threads(
    function: Callable[[int], Any], number: int, label: str = "", threads: int = LEAST_THREADS
) -> tuple[list[Any], Reasons]:
    """The function of 0 .. number - 1, by threads, with a progress bar where there is a label.

    Returns:
        The results in order, None where it failed; and why it did so, by index.
    """
    results: list[Any] = [None] * number
    reasons: Reasons = {}

    def do_block(block: range) -> int:
        for index in block:
            try:
                results[index] = function(index)
            except Exception as error:  # PIL raises many kinds
                reasons[index] = _reason(error)
        return len(block)

    blocks = [
        range(start, min(start + IMAGES_OF_A_TASK, number))
        for start in range(0, number, IMAGES_OF_A_TASK)
    ]
    bar = tqdm(total=number, desc=label, unit=" images", disable=not label, leave=False)
    with ThreadPoolExecutor(threads) as pool, bar:
        for done in pool.map(do_block, blocks):
            bar.update(done)
    return results, dict(sorted(reasons.items()))


def _common_range(paths: Sequence[Path], depth: str, notes: Notes) -> Range | None:
    """The range of images with more than 8 bits, which are decoded for it; None if all fail."""

    def range_at(index: int) -> Range:
        with Image.open(paths[index]) as image:
            return value_range_of(image)

    results, _ = in_threads(range_at, len(paths))  # broken files are named when all are read
    ranges: list[Range] = [each for each in results if each is not None]
    if not ranges:
        return None
    low = min(low for low, _ in ranges)
    high = max(high for _, high in ranges)
    notes.say(
        f"{count(len(paths), 'image')} of {depth}: their values, {low:g} to {high:g}, are scaled "
        "to 0 .. 255"
    )
    return low, high


def _reason(error: Exception) -> str:
    """Why an image can't be decoded; of one that is too large, what is needed."""
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"{error}; it may be whole: make it smaller or, if you trust it, set "
            "PIL.Image.MAX_IMAGE_PIXELS to more than its pixels before you load"
        )
    return str(error) or type(error).__name__
