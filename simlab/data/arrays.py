"""A dataset of arrays, tensors or images that are in memory already."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .convert import (
    BYTES,
    FRACTIONS,
    index_labels,
    range_of,
    stacked_tensor,
    to_bytes,
    values_of,
    with_channels,
)
from .dataset import Dataset
from .hold_out import held_out, note_one_sided
from .image_checks import UNLABELLED
from .images import Images
from .items import Store, plan_of
from .notes import Notes
from .pixels import Fit, Range, check_choices


def from_arrays(
    images: Any,
    labels: Any = None,
    test_images: Any = None,
    test_labels: Any = None,
    classes: Sequence[str] = (),
    *,
    groups: Any = None,
    seed: int = 0,
    image_size: int = 0,
    channels: int = 0,
    fit: Fit = "cut",
) -> Dataset:
    """A dataset of arrays, which are copied, or of a list of images.

    Args:
        images: the training images, [N, H, W], [N, H, W, C] or [N, C, H, W] with 1, 3 or 4 (RGBA)
            channels: uint8, bool, other whole numbers (scaled by their own range where they leave
            0 .. 255), or floats in 0 .. 1 or 0 .. 255. Or a list of arrays or PIL images, which may
            differ in size.
        labels: whole numbers or names [N], [N, 1], one-hot rows [N, K] or a pandas categorical;
            -1 or None for a missing one. Without them every image is unlabelled.
        test_images: as images; without them a fifth of each class is held out.
        test_labels: as labels.
        classes: the classes' names; else the labels' own.
        groups: what each image belongs to [N], such as a patient: images of a group are held out
            together.
        seed: of the draw of what is held out.
        image_size: side in pixels of a list's images; 0: the median of their shorter sides.
        channels: 1 for grey, 3 for colour, 0 for what they have.
        fit: "cut" takes the square in the middle of a list's images, "squeeze" all of each.

    Returns:
        The dataset; its notes say what was converted or chosen.

    Raises:
        ValueError: for arrays of another shape, for values or labels that can't be understood, for
            test labels without test images, and for too few images to hold some out.
        TypeError: for what is no image.
    """
    check_choices(channels, fit)
    if test_images is None and test_labels is not None:
        raise ValueError("test_labels were given, but no test_images")
    notes = Notes()
    given = [images] if test_images is None else [images, test_images]
    pixels = _read_splits(given, image_size, channels, fit, notes)
    raw_labels = [labels, test_labels][: len(given)]
    indices, names = index_labels(
        [_or_missing(each, x) for each, x in zip(raw_labels, pixels, strict=True)], classes, notes
    )
    data = assemble("arrays", pixels, indices, names, groups, seed, notes, fit)
    return data.to(images.device) if isinstance(images, Tensor) else data


def assemble(
    name: str,
    pixels: Sequence[Tensor],
    labels: Sequence[Tensor],
    classes: tuple[str, ...],
    groups: Any,
    seed: int,
    notes: Notes,
    fit: Fit,
) -> Dataset:
    """The dataset of one split, of which a fifth is held out, or of two."""
    splits = [Images(x, index, classes) for x, index in zip(pixels, labels, strict=True)]
    train = splits[0]
    if len(splits) == 2:
        test = splits[1]
        if groups is not None:
            raise ValueError("groups are for the draw of a test split: expected no test images")
    else:
        its_groups = None if groups is None else np.asarray(groups).tolist()
        is_test = held_out(train.labels, its_groups, seed)
        test = train.subset(is_test.nonzero()[:, 0])
        train = train.subset((~is_test).nonzero()[:, 0])
        notes.say(
            f"no test split: {len(test):,} of {len(is_test):,} images held out, a fifth of each "
            f"class, drawn at random (seed {seed})"
        )
    note_one_sided(train.labels, test.labels, classes, notes)
    return Dataset(name, train, test, notes=tuple(notes.texts), fit=fit)


def as_images(array: Any) -> Tensor:
    """The images uint8 [N, C, H, W] of a uint8 array in any layout that `from_arrays` takes."""
    return to_bytes(stacked_tensor(array), BYTES)


def as_labels(labels: Any) -> Tensor:
    """Whole numbers as int64 [N]."""
    return torch.as_tensor(np.asarray(labels)).long()


def _read_splits(
    given: Sequence[Any], image_size: int, channels: int, fit: Fit, notes: Notes
) -> list[Tensor]:
    """Each split's images as uint8 [N, C, S, S], read alike."""
    for each in given:
        if not len(_sized(each)):
            raise ValueError("the dataset is empty: expected at least one image")
    if any(_is_list_of_images(each, image_size) for each in given):
        every = [item for each in given for item in each]
        plan = plan_of(every.__getitem__, len(every), image_size, channels, fit, notes)
        store = Store(len(every), plan)
        for index, item in enumerate(every):
            store.put(index, item)
        return list(store.images.split([len(each) for each in given]))
    stacks = [stacked_tensor(each) for each in given]
    height, width = stacks[0].shape[2:]
    if height != width:
        raise ValueError(
            f"images must be square, not {height} x {width}; give them as a list with "
            "image_size=... to have them cut, or resized with fit='squeeze'"
        )
    value_range = _common_range(stacks, notes)
    if any(x.shape[1] == 4 for x in stacks):
        notes.say("images with transparency, composed on white")
    pixels = [to_bytes(x, value_range) for x in stacks]
    return [with_channels(x, channels) if channels else x for x in pixels]


def _common_range(stacks: Sequence[Tensor], notes: Notes) -> Range:
    """Which values of all splits [N, C, H, W] become 0 and 255."""
    if any(x.is_floating_point() != stacks[0].is_floating_point() for x in stacks):
        raise ValueError(
            f"training images are {stacks[0].dtype} and test images {stacks[1].dtype}: expected "
            "the same kind of values"
        )
    if all(x.dtype == torch.bool for x in stacks):
        return FRACTIONS
    ranges = [range_of(x) for x in stacks]
    low = float(np.min([low for low, _ in ranges]))  # min() would lose a NaN
    high = float(np.max([high for _, high in ranges]))
    values = values_of(stacks[0].is_floating_point(), low, high)
    if values.note:
        notes.say(values.note)
    elif high <= 1:
        notes.warn(f"no value of the images is above {high:g}, of 255: they are all but black")
    return values.range


def _is_list_of_images(images: Any, image_size: int) -> bool:
    """Whether images have to be read one after the other: PIL's, or of several sizes."""
    is_ragged = isinstance(images, np.ndarray) and images.dtype.kind == "O"
    if not (isinstance(images, list | tuple) or is_ragged):
        return False
    if isinstance(images[0], tuple | dict):
        raise TypeError(
            f"images[0] is a {type(images[0]).__name__}: for a list of (image, label) or of rows "
            "use from_dataset"
        )
    is_pil = any(isinstance(item, Image.Image) for item in images)
    shapes = {tuple(np.shape(item)) for item in images} if not is_pil else set()
    return is_pil or len(shapes) > 1 or image_size > 0


def _sized(images: Any) -> Any:
    """The images, if they are any.

    Raises:
        TypeError: for what has no length or is a dataset or a loader of torch's.
    """
    is_dataset = isinstance(images, torch.utils.data.Dataset | torch.utils.data.DataLoader)
    if is_dataset or isinstance(images, str | dict) or not hasattr(images, "__len__"):
        raise TypeError(
            f"images is a {type(images).__name__}: expected an array, a tensor or a list of "
            "images; for a dataset see from_dataset"
        )
    return images


def _or_missing(labels: Any, images: Tensor) -> Any:
    return np.full(len(images), UNLABELLED) if labels is None else labels
