"""What the images, labels and factors of a split must be like; each check raises ValueError."""

from collections.abc import Mapping

import torch
from torch import Tensor

from simlab._checks import near

UNLABELLED = -1


def check_images(images: Tensor) -> None:
    """Refuse what are no square uint8 images [N, C, H, W] with 1 or 3 channels."""
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"images must be uint8 [N, C, H, W], not {images.dtype} {tuple(images.shape)}"
        )
    n, channels, height, width = images.shape
    if n == 0:
        raise ValueError("the dataset is empty: expected at least one image")
    if channels not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, not {channels}")
    if height != width:
        raise ValueError(f"images must be square, not {height} x {width}")


def check_labels(labels: Tensor, images: Tensor, classes: tuple[str, ...]) -> None:
    """Refuse labels that are not int64 [N] between -1 and the number of classes."""
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{len(images)} images but labels of shape {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, not {labels.dtype}")
    is_wrong = (labels < UNLABELLED) | (labels >= len(classes))
    if bool(is_wrong.any()):
        index = int(is_wrong.nonzero()[0])
        raise ValueError(
            f"label {int(labels[index])} of image {index} is out of range: expected "
            f"{UNLABELLED} (unlabelled) to {len(classes) - 1}, for {len(classes)} classes"
        )


def check_factors(factors: Tensor, names: tuple[str, ...], number: int) -> None:
    """Refuse factors that are not [N, F] for F names."""
    if factors.numel() == 0 and not names:
        return
    if factors.shape != (number, len(names)):
        raise ValueError(
            f"factors of shape {tuple(factors.shape)}: expected ({number}, {len(names)}), a row "
            f"for each image and a column for each name ({', '.join(names) or 'none'})"
        )


def check_levels(
    factors: Tensor, names: tuple[str, ...], factor_levels: Mapping[str, tuple[str, ...]]
) -> None:
    """Refuse levels of a factor that does not exist, and values without a level."""
    for name, levels in factor_levels.items():
        if name not in names:
            raise ValueError(f"factor_levels has {name!r}{near(name, names)}")
        values = factors[:, names.index(name)]
        is_wrong = (values < 0) | (values >= len(levels)) | (values != values.round())
        if bool(is_wrong.any()):
            index = int(is_wrong.nonzero()[0])
            raise ValueError(
                f"{name} {float(values[index]):g} of image {index}: expected a whole number from 0 "
                f"to {len(levels) - 1}, for {len(levels)} levels"
            )
