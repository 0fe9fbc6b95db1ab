"""augment."""

from .transforms import Normalize
from .views import (
    GREY,
    RECIPES,
    TRIES,
    Augment,
    blur,
    color_jitter,
    grey,
    parse_augment,
    resample,
    shift_hue,
    two_views,
    view,
    views_at_once,
)
