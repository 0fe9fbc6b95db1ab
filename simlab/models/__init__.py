"""models."""

from .encoders import (
    ENCODERS,
    RESNETS,
    SMALL_IMAGE,
    TINY_WIDTHS,
    ResidualBlock,
    TinyResNet,
    build_encoder,
)
