"""Augmentation: random views of a batch, drawn on the device that holds it.

Read in this order:

    recipes      `Augment`, the strength of each step; `RECIPES`; `parse_augment` reads a text
    transforms   the steps themselves, on a batch; `Normalize`, uint8 images to float and back
    views        `two_views` and `view`: the steps in turn
    drawing      the random numbers of each image, and the order of a batch's images
"""

from .recipes import RECIPES, Augment, parse_augment
from .transforms import (
    Normalize,
    adjust_hue,
    color_jitter,
    gaussian_blur,
    resample,
    rgb_to_grayscale,
    solarize,
)
from .views import two_views, view, views_at_once

__all__ = [
    "RECIPES",
    "Augment",
    "Normalize",
    "adjust_hue",
    "color_jitter",
    "gaussian_blur",
    "parse_augment",
    "resample",
    "rgb_to_grayscale",
    "solarize",
    "two_views",
    "view",
    "views_at_once",
]
