"""Arrays of many kinds as the images and labels of a dataset: uint8 [N, C, H, W], int64 [N]."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from simlab._checks import near

from .image_checks import UNLABELLED
from .notes import Notes
from .pixels import Range

BLOCK = 1000  # images converted at once
LISTED = 10  # labels that a warning names
BYTES = (0.0, 255.0)
FRACTIONS = (0.0, 1.0)
ROUNDING = 1e-3  # by which fractions may leave 0 .. 1
LEAST_BYTE = 16  # floats of 0 .. 255 that nowhere exceed this are not believed

Labels = np.ndarray  # whole numbers, or names where None is a missing one


@dataclass(frozen=True)
class Values:
    """Which values of arrays become 0 and 255, and a sentence where that has to be said."""

    range: Range
    note: str = ""


def values_of(is_float: bool, low: float, high: float) -> Values:
    """How values are read of which `low` is the least and `high` the greatest.

    Floats are fractions (0 .. 1) or bytes (0 .. 255); whole numbers are bytes, or else scaled by
    their own range.

    Raises:
        ValueError: for floats that are neither, NaN and infinity.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("images hold NaN or infinite values")
    if not is_float:
        if low >= 0 and high <= 255:
            return Values(BYTES)
        return Values((low, high), f"whole numbers from {low:g} to {high:g}, scaled to 0 .. 255")
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return Values(FRACTIONS, "floats in 0 .. 1, multiplied by 255")
    if low >= 0 and LEAST_BYTE < high <= 255:
        return Values(BYTES, "floats in 0 .. 255, rounded")
    raise ValueError(
        f"images hold floats from {low:g} to {high:g}: expected 0 .. 1 or 0 .. 255; of normalised "
        "images give those before the normalisation"
    )


def stacked_tensor(array: Any) -> Tensor:
    """An array or tensor as a tensor [N, C, H, W] of its own values; C is 1, 3 or 4.

    Raises:
        ValueError: for another shape.
        TypeError: for values that are no numbers.
    """
    x = array.detach().cpu() if isinstance(array, Tensor) else _tensor_of(np.asarray(array))
    if x.is_complex():
        raise TypeError(f"images are {x.dtype}: expected real numbers")
    if x.dim() == 3:
        x = x[:, None]  # [N, H, W] -> [N, 1, H, W]
    elif x.dim() == 4 and x.shape[1] not in (1, 3, 4) and x.shape[3] in (1, 3, 4):
        x = x.permute(0, 3, 1, 2)  # [N, H, W, C] -> [N, C, H, W]
    if x.dim() != 4:
        raise ValueError(
            f"images of shape {tuple(x.shape)}: expected [N, H, W], [N, H, W, C] or [N, C, H, W]"
        )
    if x.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"images of shape {tuple(x.shape)}: expected 1, 3 or 4 (RGBA) channels, first or last"
        )
    return x


def range_of(x: Tensor) -> Range:
    """The least and the greatest value of a tensor; 0 and 0 of an empty one."""
    if not x.numel():
        return 0.0, 0.0
    lows = [float(block.amin()) for block in _blocks(x)]
    highs = [float(block.amax()) for block in _blocks(x)]
    # min() and max() would lose a NaN
    return float(np.min(lows)), float(np.max(highs))


def to_bytes(x: Tensor, value_range: Range) -> Tensor:
    """A tensor [N, C, H, W] as uint8 of 1 or 3 channels: the range becomes 0 .. 255.

    Of four channels the fourth is opacity, and the image is composed on white.
    """
    is_composed = x.shape[1] == 4
    if x.dtype == torch.uint8 and value_range == BYTES and not is_composed:
        return x.contiguous().clone()
    low, high = value_range
    factor = 255 / (high - low) if high > low else 0.0
    blocks = []
    for block in _blocks(x):
        values = (block.double() - low) * factor
        if is_composed:
            opacity = values[:, 3:] / 255
            values = values[:, :3] * opacity + 255 * (1 - opacity)
        blocks.append(values.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(blocks) if blocks else x[:, :3].to(torch.uint8)


def with_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 images [N, C, H, W] in grey (1) or colour (3), as PIL converts them."""
    if channels == images.shape[1]:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    blocks = []
    for block in images.split(BLOCK):
        red, green, blue = block.int().unbind(1)
        grey = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16  # ITU-R 601-2
        blocks.append(grey[:, None].to(torch.uint8))
    return torch.cat(blocks)


# --------------------------------------------------------------------------------------- labels


def label_values(labels: Any) -> tuple[Labels, list[str]]:
    """Labels of any kind as whole numbers or as names [N], and the classes that they declare.

    A column [N, 1] is taken as [N], one-hot rows [N, K] as their positions, a pandas categorical
    as its categories.

    Raises:
        ValueError: for another shape, rows that are not one-hot, and numbers that are not whole.
    """
    declared: list[str] = []
    if isinstance(getattr(labels, "dtype", None), pd.CategoricalDtype):
        declared = [str(name) for name in labels.dtype.categories]
        labels = pd.Series(labels)
    if isinstance(labels, pd.Series):
        labels = labels.astype(object)  # a missing whole number would become NaN
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        return _positions(values), declared
    if values.ndim != 1:
        raise ValueError(f"labels of shape {values.shape}: expected [N], [N, 1] or one-hot [N, K]")
    if declared:
        return _names(values), declared
    if values.dtype.kind in "iub":
        return values.astype(np.int64), declared
    if values.dtype.kind in "OUS":
        return _names_or_numbers(values), declared
    raise ValueError(
        f"labels must be whole numbers or names, not {values.dtype}; missing ones are -1"
    )


def index_labels(
    splits: Sequence[Any], classes: Sequence[str], notes: Notes
) -> tuple[list[Tensor], tuple[str, ...]]:
    """The labels of several splits as indices into the classes they have in common.

    Args:
        splits: labels of any kind, a sequence for each split.
        classes: their names, or empty: those that the labels are or declare.
        notes: takes what has to be said of numbers that are not 0, 1, 2, ...

    Returns:
        int64 [N] for each split, -1 for a missing label; and the classes.

    Raises:
        ValueError: for labels that are none of the classes.
    """
    pairs = [label_values(labels) for labels in splits]
    values = [each for each, _ in pairs]
    declared = next((names for _, names in pairs if names), [])
    names = [str(name) for name in (classes or declared)]
    if any(each.dtype == object for each in values):
        indices, names = _index_names([each.astype(object) for each in values], names)
    elif names:
        indices = [torch.from_numpy(each) for each in values]
    else:
        indices, names = _index_numbers(values, notes)
    return indices, tuple(names)


def _index_names(values: Sequence[Labels], names: list[str]) -> tuple[list[Tensor], list[str]]:
    """Labels that are names as positions among `names`, or else among all that occur, sorted."""
    if not names:
        present = {str(name) for each in values for name in each if not _is_missing(name)}
        names = sorted(present)
    return [_look_up(each, names) for each in values], names


def _index_numbers(values: Sequence[Labels], notes: Notes) -> tuple[list[Tensor], list[str]]:
    """Labels that are numbers, as 0, 1, 2, ..., and what they were as the classes' names."""
    numbers = np.unique(np.concatenate(values))
    numbers = numbers[numbers != UNLABELLED]
    names = [str(number) for number in numbers]
    if len(numbers) and numbers[0] < 0:
        raise ValueError(f"a label is {numbers[0]}: expected 0 or more, or -1 where it is missing")
    if not np.array_equal(numbers, np.arange(len(numbers))):
        text = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
        last = len(names) - 1
        notes.warn(f"the labels {text} are 0 to {last} here, and the names of their classes")
    indices = []
    for each in values:
        index = np.searchsorted(numbers, each)
        indices.append(torch.from_numpy(np.where(each == UNLABELLED, UNLABELLED, index)))
    return indices, names


def _tensor_of(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"images are {array.dtype}: expected numbers, or a list of images")
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64)  # torch computes little with other unsigned numbers
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))  # copied if need be


def _blocks(x: Tensor) -> Iterator[Tensor]:
    """A few images at a time, of a type that torch computes with."""
    is_ready = x.dtype == torch.uint8 or x.is_floating_point()
    for block in x.split(BLOCK):
        yield block if is_ready else block.long()


def _positions(rows: np.ndarray) -> Labels:
    """Where the 1 is in one-hot rows [N, K]."""
    ones = rows == 1
    is_wrong = ~((ones | (rows == 0)).all(1) & (ones.sum(1) == 1))
    if is_wrong.any():
        index = int(is_wrong.nonzero()[0][0])
        raise ValueError(
            f"labels of shape {rows.shape} whose row {index} is {rows[index].tolist()}: expected "
            "[N], or one-hot rows with a single 1"
        )
    positions: np.ndarray = ones.argmax(1).astype(np.int64)
    return positions


def _names_or_numbers(values: np.ndarray) -> Labels:
    """Objects as whole numbers where all that are not missing are such, else as names."""
    present = [value for value in values if not _is_missing(value)]
    kinds = (int, np.integer, Tensor)
    if present and all(isinstance(value, kinds) for value in present):
        numbers = [UNLABELLED if _is_missing(value) else int(value) for value in values]
        return np.array(numbers, dtype=np.int64)
    return _names(values)


def _names(values: np.ndarray) -> Labels:
    names = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        is_text = isinstance(value, bytes)
        names[index] = value.decode() if is_text else value
    return names


def _look_up(values: np.ndarray, names: Sequence[str]) -> Tensor:
    """The positions of labels among the classes' names, -1 for missing ones."""
    index_of = {name: index for index, name in enumerate(names)}
    indices = []
    for value in values:
        if _is_missing(value):
            indices.append(UNLABELLED)
            continue
        if str(value) not in index_of:
            raise ValueError(f"the label {str(value)!r} is no class{near(value, names)}")
        indices.append(index_of[str(value)])
    return torch.tensor(indices)


def _is_missing(value: object) -> bool:
    """Whether a label is None, NaN or pandas' NA, or the number that says so."""
    if isinstance(value, Tensor):
        return False
    return value is None or bool(pd.isna(value)) or value == UNLABELLED  # type: ignore[call-overload] # any object can be asked
