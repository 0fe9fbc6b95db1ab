"""Which images are held out as the test split where none is given: a seeded, stratified draw."""

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from simlab._checks import near

from .image_checks import UNLABELLED
from .notes import Notes

HOLD_OUT = 5  # one image in five is held out
GROUPS_FILE = "groups.csv"
LISTED = 10  # classes that a warning names; more are counted


def held_out(labels: Tensor, groups: Sequence[object] | None = None, seed: int = 0) -> Tensor:
    """Draw a test split: a fifth of each class, and at least one where there are two.

    The groups are gone through in random order, and one is taken where that brings the number of
    held-out images nearer to a fifth of each of its classes. Without groups each image is its own.

    Args:
        labels: int64 [N]; those without a label (-1) are drawn from like a class.
        groups: what each image belongs to, [N]: a group stays on one side.
        seed: the same seed gives the same draw.

    Returns:
        bool [N]: which images are held out.

    Raises:
        ValueError: for too few images, or another number of groups.
    """
    number = len(labels)
    if number < HOLD_OUT:
        raise ValueError(
            f"{number} images are too few to hold a fifth out: expected at least {HOLD_OUT}, "
            "or a test split"
        )
    if groups is not None and len(groups) != number:
        raise ValueError(f"{number} images but {len(groups)} groups: expected one for each image")
    members: dict[object, list[int]] = defaultdict(list)
    for index, group in enumerate(range(number) if groups is None else groups):
        members[group].append(index)
    names = list(members)
    label_of = labels.tolist()
    counts = {name: Counter(label_of[i] for i in members[name]) for name in names}

    missing = _numbers_wanted(list(counts.values()))  # of each class, still to be held out
    is_test = torch.zeros(number, dtype=torch.bool)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    for position in order.tolist():
        group = names[position]
        if _is_nearer_with(missing, counts[group]):
            for label, size in counts[group].items():
                missing[label] -= size
            is_test[members[group]] = True
    if not is_test.any():
        raise ValueError("no group could be held out: expected two groups with a class in common")
    return is_test


def read_groups(folder: Path, paths: Sequence[Path]) -> list[str] | None:
    """The groups of images by groups.csv, a table with the columns path and group.

    Args:
        folder: where the file may be; its paths are relative to it.
        paths: the images.

    Returns:
        The group of each image; None where there is no such file.

    Raises:
        ValueError: for other columns, and for an image that the file does not name.
    """
    file = folder / GROUPS_FILE
    if not file.exists():
        return None
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        columns = list(reader.fieldnames or [])
        rows = list(reader)
    if not {"path", "group"} <= set(columns):
        raise ValueError(f"{file} has the columns {columns}: expected path and group")
    group_of = {row["path"].replace("\\", "/"): row["group"] for row in rows}
    groups = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if name not in group_of:
            raise ValueError(f"{file} does not name the image {name}{near(name, group_of)}")
        groups.append(group_of[name])
    return groups


def note_one_sided(train: Tensor, test: Tensor, classes: Sequence[str], notes: Notes) -> None:
    """Warn of classes that only one of two splits has, by the splits' labels [N] and [M]."""
    in_train = set(train.tolist()) - {UNLABELLED}
    in_test = set(test.tolist()) - {UNLABELLED}
    if in_train and not in_test:
        notes.warn("no test image has a label: accuracy can't be measured")
        return
    if in_test and not in_train:
        notes.warn("no training image has a label: labels of test images can't be predicted")
        return
    absent = set(range(len(classes))) - in_train - in_test
    _warn_of(in_train - in_test, "in the training split alone, so never tested", classes, notes)
    _warn_of(in_test - in_train, "in the test split alone, so never learned", classes, notes)
    _warn_of(absent, "without any image", classes, notes)


def _warn_of(labels: set[int], what: str, classes: Sequence[str], notes: Notes) -> None:
    if not labels:
        return
    names = ", ".join(classes[label] for label in sorted(labels)[:LISTED])
    if len(labels) > LISTED:
        names += f" and {len(labels) - LISTED:,} more"
    plural = "class" if len(labels) == 1 else "classes"
    notes.warn(f"{len(labels):,} {plural} {what}: {names}")


def _numbers_wanted(counts: list[Counter[int]]) -> dict[int, float]:
    """How many images of each class shall be held out, by the classes' counts in every group."""
    sizes: dict[int, list[int]] = defaultdict(list)
    for counter in counts:
        for label, number in counter.items():
            sizes[label].append(number)
    wanted = {}
    for label, numbers in sizes.items():
        is_divisible = len(numbers) > 1
        wanted[label] = max(sum(numbers) / HOLD_OUT, min(numbers)) if is_divisible else 0.0
    return wanted


def _is_nearer_with(missing: dict[int, float], group: Counter[int]) -> bool:
    """Whether the squared distance to what is missing shrinks when the group is held out."""
    before = sum(missing[label] ** 2 for label in group)
    after = sum((missing[label] - size) ** 2 for label, size in group.items())
    return after < before
