"""augment."""

from .views import (
    GREY,
    RECIPES,
    TRIES,
    Augment,
    blur,
    color_jitter,
    grey,
    normalise,
    parse_augment,
    resample,
    shift_hue,
    two_views,
    view,
    views_at_once,
)
