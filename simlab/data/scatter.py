"""Images with known nuisance factors: each placed, turned and scaled at random on a canvas.

On small images that are all centred and upright, raw pixels are already good features and
self-supervision has little to add. Scattered, the same images need features that do not change
with place, angle and scale. These nuisances are of the very kind that the augmentations undo, so
the set shows self-supervision at its best; the aligned images are the counter-example.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from simlab.augment import resample

CANVAS = 32  # pixels
MAX_ANGLE = 180.0  # degrees: any angle
MIN_SCALE, MAX_SCALE = 0.7, 1.0
FACTOR_NAMES = ("x", "y", "angle", "scale")
COLOUR_NAMES = tuple(f"{part} {c}" for part in ("ink", "ground") for c in ("red", "green", "blue"))


def scatter(images: Tensor, seed: int, canvas: int = CANVAS) -> tuple[Tensor, Tensor]:
    """Every image somewhere on a black canvas; the same seed gives the same images.

    Args: images: uint8 [N, C, H, W], H and W at most `canvas`.
    Returns: uint8 [N, C, canvas, canvas], and factors float32 [N, 4]: the place of the middle
        (x to the right, y down, in pixels from the canvas' middle), the angle (degrees,
        counter-clockwise) and the scale (1: as large as it was).
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
    parts = [
        _draw_on_canvas(part, own, canvas)
        for part, own in zip(images.cpu().split(1000), factors.split(1000), strict=True)
    ]
    return torch.cat(parts).to(images.device), factors.to(images.device)


def _draw_on_canvas(images: Tensor, factors: Tensor, canvas: int) -> Tensor:
    """Drawn at twice the size and averaged, so that shrinking does not alias: uint8 [N, C, S, S]."""
    n, c, h, w = images.shape
    x, y, angle, scale = factors.unbind(1)
    # the canvas seen from the image: a window of canvas / scale pixels, moved and turned back
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    middle_x = w / 2 - (cos * x - sin * y) / scale
    middle_y = h / 2 - (sin * x + cos * y) / scale
    side = canvas / scale
    box = torch.stack((middle_y - side / 2, middle_x - side / 2, side, side), dim=1)
    drawn = resample(images.float(), box, torch.zeros(n, dtype=torch.bool), angle, 2 * canvas)
    return F.avg_pool2d(drawn, 2).round().clamp(0, 255).to(torch.uint8)


def colour(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Grey images in one random colour on a ground of another: a shortcut for whoever compares.

    A pixel is a mixture of the two colours, by its grey value. The ground is dark, 0 to 0.4 of red,
    green and blue, and the ink is light, 0.6 to 1, so that every image can be seen.

    Args: images: uint8 [N, 1, H, W].
    Returns: uint8 [N, 3, H, W], and factors float32 [N, 6]: the image's colour and the ground's,
        red, green and blue in 0 .. 1.
    """
    generator = torch.Generator().manual_seed(seed)
    ground, ink = 0.4 * torch.rand(2, len(images), 3, generator=generator).to(images.device)
    ink = ink + 0.6  # [N, 3]
    mixed = torch.lerp(ground[..., None, None], ink[..., None, None], images / 255)
    return (mixed * 255).round().to(torch.uint8), torch.cat((ink, ground), dim=1)
