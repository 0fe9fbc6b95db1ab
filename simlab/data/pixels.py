"""An opened image as pixels: upright, on white, of 8 bits, square.

PIL would show an image that says "rotate me" as it is stored, let the hidden colours behind
transparency show, and cut values above 255 off. Here the orientation in EXIF is applied, what is
transparent is composed on white, and values of more than 8 bits are scaled by a stated range.

A JPEG file that is much larger than the square that it becomes is decoded at a half, a quarter or
an eighth of its size, which JPEG's blocks of 8 x 8 pixels allow: a photo of 4000 x 3000 pixels then
takes 0.6 MB of memory in the place of 36, and a fraction of the time.
"""

import contextlib
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

Fit = Literal["cut", "squeeze"]
Range = tuple[float, float]  # values that become 0 and 255

GREY_MODES = ("1", "L", "LA", "La")
JPEG_REDUCED_TO = 4  # times the side wanted: what is left to resize is antialiased as ever
ORIENTATION_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def check_choices(channels: int, fit: str) -> None:
    """Refuse what can't be asked for.

    Raises:
        ValueError: for channels other than 0, 1 and 3, and for an unknown fit.
    """
    if channels not in (0, 1, 3):
        raise ValueError(f"channels={channels}: expected 1 (grey), 3 (colour) or 0 (as they are)")
    if fit not in ("cut", "squeeze"):
        raise ValueError(f"fit={fit!r}: expected 'cut' or 'squeeze'")


def is_grey(mode: str) -> bool:
    """Whether images of one of PIL's modes have no colour."""
    return mode in GREY_MODES or is_deep(mode)


def is_deep(mode: str) -> bool:
    """Whether one of PIL's modes holds values of more than 8 bits: integers, or floats (F)."""
    return mode == "F" or mode.startswith("I")


def image_tensor(
    image: Image.Image, size: int, mode: str, fit: Fit = "cut", value_range: Range | None = None
) -> Tensor:
    """An image as uint8 [C, size, size]; see `eight_bits` and `square`."""
    pixels = np.array(square(eight_bits(image, mode, value_range), size, fit))
    return torch.from_numpy(pixels.reshape(size, size, -1)).permute(2, 0, 1)  # [H, W, C] -> C first


def reduce_jpeg(image: Image.Image, size: int) -> None:
    """Let a JPEG file that was just opened be decoded smaller; nothing happens to other images.

    Args:
        image: changed in place, so one that nobody else has.
        size: side in pixels of the square that will be made of it.
    """
    at_least = JPEG_REDUCED_TO * size
    image.draft(None, (at_least, at_least))


def eight_bits(image: Image.Image, mode: str, value_range: Range | None = None) -> Image.Image:
    """The image upright and in one of the modes "L" (grey) and "RGB".

    Args:
        image: any image.
        mode: "L" or "RGB".
        value_range: of an image with more than 8 bits; needed for such a one alone.

    Raises:
        ValueError: for an image of more than 8 bits without a range.
    """
    image.load()
    if any(key in image.info for key in ORIENTATION_KEYS):
        with contextlib.suppress(Exception):  # a damaged EXIF block says nothing; PIL raises a lot
            image = ImageOps.exif_transpose(image)  # the one given stays as it is
    if is_deep(image.mode):
        if value_range is None:
            raise ValueError(f"an image of mode {image.mode} needs value_range=(low, high)")
        value_range_of(image)  # refuses NaN
        image = Image.fromarray(scaled(np.asarray(image), value_range))
    elif image.has_transparency_data:
        image = _on_white(image)
    return image if image.mode == mode else image.convert(mode)


def scaled(values: np.ndarray, value_range: Range) -> np.ndarray:
    """Values as uint8: those of the range become 0 .. 255, those beyond it are clipped."""
    low, high = value_range
    width = high - low if high > low else 1.0  # a constant set becomes 0
    return ((values.astype(np.float64) - low) * (255 / width)).round().clip(0, 255).astype(np.uint8)


def value_range_of(image: Image.Image) -> Range:
    """The least and the greatest value of an image of more than 8 bits.

    Raises:
        ValueError: for NaN or infinite values.
    """
    values = np.asarray(image)
    low = float(values.min())
    high = float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds NaN or infinite values")
    return low, high


def square(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """The image at size x size pixels, resized with antialiasing.

    Args:
        image: of mode "L" or "RGB".
        size: side in pixels.
        fit: "cut" takes the square in the middle, "squeeze" all of it, whatever its aspect ratio.
    """
    if fit == "cut" and image.width != image.height:
        side = min(image.size)
        left = (image.width - side) // 2
        top = (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size != (size, size):  # PIL's resize antialiases when it shrinks
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    """An image with transparency, composed on white."""
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer)
