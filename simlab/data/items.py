"""Images that are had one after the other, of any kind and size: a list's, or a dataset's.

Each is read once and kept as uint8, so that memory holds the small images and one large one. What
all of them have in common (their size, and what their values mean) is chosen from a sample.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .convert import BYTES, stacked_tensor, to_bytes, values_of
from .headers import LARGE_SIDE
from .notes import Notes
from .pixels import Fit, Range, image_tensor, is_deep, is_grey

SAMPLE = 100  # images that are looked at before all are read

Item = Any  # an image of PIL's, or an array or tensor [H, W], [H, W, C] or [C, H, W]


@dataclass(frozen=True)
class Plan:
    """What all images become.

    Attributes:
        size: side in pixels.
        channels: 1, 3, or 0 for 3 where any image has colour.
        fit: "cut" takes the square in the middle, "squeeze" all of an image.
        value_range: the values of arrays that become 0 and 255.
    """

    size: int
    channels: int
    fit: Fit
    value_range: Range


def plan_of(
    get: Callable[[int], Item],
    number: int,
    image_size: int,
    channels: int,
    fit: Fit,
    notes: Notes,
) -> Plan:
    """Choose what all images become, from at most 100 that are evenly spread.

    Args:
        get: gives the image at an index.
        number: of images.
        image_size: side in pixels; 0: the median of the shorter sides.
        channels: see `Plan`.
        fit: see `Plan`.
        notes: takes what has to be said of them.

    Raises:
        ValueError: for images whose values mean nothing that is known.
        TypeError: for what is no image.
    """
    sides: list[int] = []
    lows: list[float] = []
    highs: list[float] = []
    is_float = False
    for index in torch.linspace(0, number - 1, min(SAMPLE, number)).long().tolist():
        item = get(index)
        if isinstance(item, Image.Image):
            sides.append(min(item.size))
            continue
        x = _tensor_of(item, index)
        sides.append(min(x.shape[-2:]))
        lows.append(float(x.double().min()))
        highs.append(float(x.double().max()))
        is_float = is_float or x.is_floating_point()
    size = image_size or statistics.median_low(sides)
    if not image_size and min(sides) != max(sides):
        notes.say(
            f"shorter sides from {min(sides)} to {max(sides)} pixels: all images are resized to "
            f"their median, {size}; image_size=... chooses"
        )
    if not image_size and size > LARGE_SIDE:
        notes.warn(f"images of {size} x {size} pixels: image_size=64, say, makes them smaller")
    value_range = BYTES
    if lows:
        values = values_of(is_float, float(np.min(lows)), float(np.max(highs)))
        value_range = values.range
        if not is_float and value_range != BYTES:
            raise ValueError(
                f"images hold {values.note}: expected 0 .. 255, since not all of them are looked at"
            )
        if values.note:
            notes.say(values.note)
    return Plan(size, channels, fit, value_range)


class Store:
    """Images as they are read: uint8 [N, C, S, S], grey until the first one in colour."""

    def __init__(self, number: int, plan: Plan):
        self.plan = plan
        channels = plan.channels or 1
        self.images = torch.empty((number, channels, plan.size, plan.size), dtype=torch.uint8)

    def put(self, index: int, item: Item) -> None:
        """Read an image, and keep it at an index.

        Raises:
            ValueError: that names the index, for an image that the plan does not suit.
            TypeError: for what is no image.
        """
        image = as_square(item, index, self.plan)
        if self.plan.channels == 0 and len(image) > self.images.shape[1]:
            self.images = self.images.repeat(1, 3, 1, 1)
        self.images[index] = image


def as_square(item: Item, index: int, plan: Plan) -> Tensor:
    """An image as uint8 [C, S, S]; `index` is for the errors alone."""
    if not isinstance(item, Image.Image):
        item = _image_of(_tensor_of(item, index), index, plan.value_range)
    elif is_deep(item.mode):
        raise ValueError(
            f"image {index} has more than 8 bits (mode {item.mode}): scale it to 8 bits first, or "
            "load a folder of files, where the range of all is measured"
        )
    mode = "L" if is_grey(item.mode) else "RGB"
    if plan.channels:
        mode = "L" if plan.channels == 1 else "RGB"
    return image_tensor(item, plan.size, mode, plan.fit)


def _tensor_of(item: Item, index: int) -> Tensor:
    """An array as [1, C, H, W]."""
    if not isinstance(item, Tensor | np.ndarray):
        raise TypeError(
            f"image {index} is a {type(item).__name__}: expected an image of PIL's, an array or a "
            "tensor"
        )
    return stacked_tensor(item[None])


def _image_of(x: Tensor, index: int, value_range: Range) -> Image.Image:
    """An image of PIL's of a tensor [1, C, H, W] with values of a range."""
    low, high = value_range
    slack = (high - low) / 1000
    least = float(x.double().min())
    greatest = float(x.double().max())
    if not (least >= low - slack and greatest <= high + slack):
        raise ValueError(
            f"image {index} holds {least:g} to {greatest:g}, the first ones {low:g} to {high:g}: "
            "expected the same kind of values in all"
        )
    pixels = to_bytes(x, value_range)[0].permute(1, 2, 0).numpy()  # [H, W, C]
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
