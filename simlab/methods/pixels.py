"""Patches of pixels, which masked methods hide and predict."""

from typing import Any

import torch
from torch import Tensor, nn

from simlab.models.vit import TinyViT

EPSILON = 1e-6  # added to the variance of a patch


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images [N, C, H, W] into patches [N, L, P P C], their numbers by row, column, channel."""
    n, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    images = images[:, :, : rows * patch, : columns * patch]
    split = images.reshape(n, channels, rows, patch, columns, patch)
    patches = split.permute(0, 2, 4, 3, 5, 1)  # [N, rows, columns, P, P, C]
    return patches.reshape(n, rows * columns, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int, channels: int, rows: int) -> Tensor:
    """Put patches [N, L, P P C] together again, `rows` of them below each other: [N, C, H, W]."""
    n, number, _ = patches.shape
    columns = number // rows
    split = patches.view(n, rows, columns, patch, patch, channels)
    return split.permute(0, 5, 1, 3, 2, 4).reshape(n, channels, rows * patch, columns * patch)


def normalise_patches(patches: Tensor) -> Tensor:
    """Give each patch [..., P] a mean of 0 and a variance of 1 (divided by P - 1)."""
    mean = patches.mean(-1, keepdim=True)
    variance = patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + EPSILON).sqrt()


def visible_and_hidden(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the patches that are visible and hidden, [N, k] and [N, L - k].

    Args:
        masks: bool [N, h, w], True where hidden, as many in every image.
    """
    hidden = masks.flatten(1)  # [N, L]
    order = hidden.int().argsort(dim=1, stable=True)  # the visible ones first
    number = hidden.shape[1] - int(hidden[0].sum())
    return order[:, :number], order[:, number:]


def require_tokens(encoder: nn.Module, name: str) -> Any:
    """Return an encoder that has tokens.

    Raises:
        ValueError: It has none.
    """
    if not hasattr(encoder, "tokens") or not hasattr(encoder, "patch"):
        raise ValueError(
            f"{name} needs an encoder of tokens, with tokens(x, keep) and patch as "
            f"{TinyViT.__name__} has: expected encoder='vit_tiny', not "
            f"{type(encoder).__name__}; simmim takes every encoder"
        )
    return encoder


def pixel_mask(masks: Tensor, patch: int) -> Tensor:
    """The masks [N, h, w] of patches as masks of pixels, bool [N, 1, h P, w P]."""
    pixels = masks.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return pixels[:, None]


def masked_mean(errors: Tensor, hidden: Tensor) -> Tensor:
    """The mean of errors [N, L] over hidden ones, of mask [N, L]."""
    weights = hidden.to(errors)
    return torch.sum(errors * weights) / weights.sum()
