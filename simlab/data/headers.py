"""What the headers of image files say, before anything is decoded: sizes, colour, depth."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .notes import Notes, count
from .pixels import Fit, is_deep, is_grey

LARGE_SIDE = 512  # pixels above which a size that nobody has chosen is warned of
LONG = 3  # times as long as wide: most of such an image is cut off
DEEP_COLOUR = "colours of 16 bits, of which Pillow gives the upper 8"
FRAMES = "several frames, of which the first is taken"
TRANSPARENT = "transparency, composed on white"
WORRYING = (DEEP_COLOUR, FRAMES)


@dataclass(frozen=True, slots=True)
class Header:
    """Of one image file.

    Attributes:
        width: in pixels.
        height: in pixels.
        mode: PIL's.
        traits: what has to be said of it.
    """

    width: int
    height: int
    mode: str
    traits: tuple[str, ...] = ()

    @property
    def side(self) -> int:
        """The shorter one, in pixels."""
        return min(self.width, self.height)

    @property
    def is_long(self) -> bool:
        """Whether a square cut from its middle would hold a small part of it."""
        return max(self.width, self.height) > LONG * self.side


def read_header(path: Path) -> Header:
    """The header of an image file; its pixels are not decoded."""
    with Image.open(path) as image:
        return Header(image.width, image.height, image.mode, _traits(image))


def common_size(headers: Sequence[Header], image_size: int, notes: Notes) -> int:
    """The side in pixels that all images get: `image_size`, or where it is 0 the median."""
    if image_size:
        return image_size
    sides = [header.side for header in headers]
    size = statistics.median_low(sides)
    if min(sides) != max(sides):
        notes.say(
            f"shorter sides from {min(sides)} to {max(sides)} pixels: all images are resized to "
            f"their median, {size}; image_size=... chooses"
        )
    if size > LARGE_SIDE:
        notes.warn(
            f"images of {size} x {size} pixels, the median of their shorter sides: training will "
            "be slow and take much memory; image_size=64, say, makes them smaller"
        )
    return size


def common_mode(headers: Sequence[Header], channels: int) -> str:
    """PIL's mode that all images get: by `channels` (1 or 3), or colour where any has colour."""
    if channels == 0:
        channels = 1 if all(is_grey(header.mode) for header in headers) else 3
    return "L" if channels == 1 else "RGB"


def note_traits(headers: Sequence[Header], fit: Fit, notes: Notes) -> None:
    """Say how many images are not taken just as they are."""
    traits = Counter(trait for header in headers for trait in header.traits)
    for trait, number in traits.items():
        say = notes.warn if trait in WORRYING else notes.say
        say(f"{count(number, 'image')} with {trait}")
    number = sum(header.is_long for header in headers)
    if number and fit == "cut":
        notes.warn(
            f"{count(number, 'image')} more than {LONG} times as long as wide, of which the square "
            'in the middle is taken; fit="squeeze" takes all of them'
        )


def depth_of(headers: Sequence[Header]) -> str:
    """What images of more than 8 bits hold, "16 bits" or "floats"; empty where there is none.

    Raises:
        ValueError: where some are integers and others floats, which no range is common to.
    """
    modes = {header.mode for header in headers if is_deep(header.mode)}
    if "F" in modes and len(modes) > 1:
        raise ValueError(
            f"images of the modes {', '.join(sorted(modes))}: expected values of one kind, "
            "integers or floats"
        )
    if not modes:
        return ""
    return "floats" if "F" in modes else "16 bits"


def _traits(image: Image.Image) -> tuple[str, ...]:
    traits = []
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photo's preview
        traits.append(FRAMES)
    if is_deep(image.mode):
        return tuple(traits)
    if image.has_transparency_data:
        traits.append(TRANSPARENT)
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        traits.append(DEEP_COLOUR)
    return tuple(traits)
