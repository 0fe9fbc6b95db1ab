"""Nuisance factors of known values: a random pose on a canvas, and random colours.

On small images that are all centred and upright, raw pixels are already good features and
self-supervision has little to add. In random poses, the same images need features that do not
change with position, angle and scale. These nuisances are of the very kind that the augmentations
undo, so the dataset shows self-supervision at its best; the aligned images are the counter-example.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from simlab.augment import resample

CANVAS = 32  # pixels
MAX_ANGLE = 180.0  # degrees: any angle
MIN_SCALE = 0.7
MAX_SCALE = 1.0
POSE_FACTORS = ("x", "y", "angle", "scale")

BACKGROUND_MAX = 0.4  # of red, green and blue: dark
FOREGROUND_MIN = 0.6  # light, so that every image can be seen
COLOUR_FACTORS = (
    "foreground red",
    "foreground green",
    "foreground blue",
    "background red",
    "background green",
    "background blue",
)

IMAGES_AT_ONCE = 1000


def random_pose(images: Tensor, seed: int, canvas: int = CANVAS) -> tuple[Tensor, Tensor]:
    """Scatter images over a black canvas, each in a random position, angle and scale.

    Args:
        images: uint8 [N, C, H, W], H and W at most `canvas`.
        seed: the same seed gives the same images.
        canvas: side of the result in pixels.

    Returns:
        uint8 [N, C, canvas, canvas], and the factors float32 [N, 4]: x (to the right) and y (down)
        of the image's centre, in pixels from the canvas's centre; the angle (degrees,
        counter-clockwise); the scale (1: the original size).

    Raises:
        ValueError: where the images are larger than the canvas.
    """
    n, _, h, w = images.shape
    if max(h, w) > canvas:
        raise ValueError(f"images of {h} x {w} pixels do not fit on a canvas of {canvas}")
    generator = torch.Generator().manual_seed(seed)
    x, y, angle, scale = torch.rand(4, n, generator=generator).unbind(0)
    scale = MIN_SCALE + (MAX_SCALE - MIN_SCALE) * scale
    angle = MAX_ANGLE * (2 * angle - 1)
    x = (2 * x - 1) * (canvas - w * scale) / 2  # the upright image stays on the canvas
    y = (2 * y - 1) * (canvas - h * scale) / 2
    factors = torch.stack((x, y, angle, scale), dim=1)
    blocks = zip(
        images.cpu().split(IMAGES_AT_ONCE),
        factors.split(IMAGES_AT_ONCE),
        strict=True,
    )
    drawn = torch.cat([_draw_on_canvas(block, poses, canvas) for block, poses in blocks])
    return drawn.to(images.device), factors.to(images.device)


def _draw_on_canvas(images: Tensor, factors: Tensor, canvas: int) -> Tensor:
    """The images in their poses, uint8 [N, C, canvas, canvas].

    They are drawn at twice the size and averaged, so that shrinking does not alias.
    """
    n, _, h, w = images.shape
    x, y, angle, scale = factors.unbind(1)
    # the canvas seen from the image: a window of canvas / scale pixels, moved and rotated back
    radians = torch.deg2rad(angle)
    cos = torch.cos(radians)
    sin = torch.sin(radians)
    centre_x = w / 2 - (cos * x - sin * y) / scale
    centre_y = h / 2 - (sin * x + cos * y) / scale
    side = canvas / scale
    box = torch.stack((centre_y - side / 2, centre_x - side / 2, side, side), dim=1)
    no_flip = torch.zeros(n, dtype=torch.bool)
    drawn = resample(images.float(), box, no_flip, angle, 2 * canvas)
    return F.avg_pool2d(drawn, 2).round().clamp(0, 255).to(torch.uint8)


def random_colours(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Colour grey images, each with a random foreground on a random background colour.

    A pixel is a mixture of the two, by its grey value. Both views of an image share its colours:
    a shortcut for whoever only compares views.

    Args:
        images: uint8 [N, 1, H, W].
        seed: the same seed gives the same colours.

    Returns:
        uint8 [N, 3, H, W], and the factors float32 [N, 6]: red, green and blue of the foreground
        and of the background, in 0 .. 1.
    """
    generator = torch.Generator().manual_seed(seed)
    numbers = BACKGROUND_MAX * torch.rand(2, len(images), 3, generator=generator)
    background, foreground = numbers.to(images.device)  # [N, 3] each
    foreground = foreground + FOREGROUND_MIN
    mixed = torch.lerp(background[..., None, None], foreground[..., None, None], images / 255)
    return (mixed * 255).round().to(torch.uint8), torch.cat((foreground, background), dim=1)
