"""A dataset of arrays or tensors that are in memory already."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .images import UNLABELLED, Images

HOLD_OUT = 5  # every fifth image is a test image where there is no test split


def from_arrays(
    images: Any,
    labels: Any = None,
    test_images: Any = None,
    test_labels: Any = None,
    classes: Sequence[str] = (),
) -> Dataset:
    """A dataset of arrays, which are copied.

    Args:
        images: the training images, uint8 [N, H, W], [N, H, W, C] or [N, C, H, W].
        labels: whole numbers [N]; without them every image is unlabelled (-1).
        test_images: as images; without them every fifth image is held out.
        test_labels: as labels.
        classes: the classes' names; "0", "1", ... where they are not given.

    Raises:
        ValueError: for arrays of another type or shape, for labels that do not fit them, for test
            labels without test images, and for too few images to hold some out.
    """
    if test_images is None and test_labels is not None:
        raise ValueError("test_labels were given, but no test_images")
    train_labels = as_labels(labels, images)
    all_labels = train_labels
    if test_images is not None:
        all_labels = torch.cat((train_labels, as_labels(test_labels, test_images)))
    if not classes:
        number = int(all_labels.max()) + 1 if len(all_labels) else 0
        classes = [str(c) for c in range(number)]
    train = Images(as_images(images), train_labels, tuple(classes))
    if test_images is not None:
        test = Images(as_images(test_images), all_labels[len(train) :], tuple(classes))
        return Dataset("arrays", train, test)
    if len(train) < HOLD_OUT:
        raise ValueError(
            f"{len(train)} images are too few to hold a fifth out: expected at least {HOLD_OUT}, "
            "or test_images"
        )
    is_test = torch.arange(len(train)) % HOLD_OUT == HOLD_OUT - 1
    test = train.subset(is_test.nonzero()[:, 0])
    train = train.subset((~is_test).nonzero()[:, 0])
    return Dataset("arrays", train, test)


def as_images(array: Any) -> Tensor:
    """The images [N, C, H, W] of an array in any layout that `from_arrays` takes."""
    x = _as_tensor(array)
    if x.dim() == 3:
        x = x[:, None]  # [N, H, W] -> [N, 1, H, W]
    elif x.dim() == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2)  # [N, H, W, C] -> [N, C, H, W]
    return x.contiguous()


def as_labels(labels: Any, images: Any) -> Tensor:
    """The labels as int64 [N]; -1 for every one of the images where there are none.

    Raises:
        ValueError: for labels that are no whole numbers.
    """
    if labels is None:
        return torch.full((len(images),), UNLABELLED)
    x = _as_tensor(labels)
    if x.is_floating_point() or x.is_complex():
        raise ValueError(f"labels must be whole numbers, not {x.dtype}")
    return x.long()


def _as_tensor(array: Any) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
