"""How the folders of an image folder are read: which are splits, and which are classes.

    FOLDER/train/<class>/*.jpg, FOLDER/test/<class>/*.jpg      classes, and a test split
    FOLDER/<class>/*.jpg                                       classes; a fifth is held out
    FOLDER/*.jpg                                               no classes

Splits are known by their names, in any case: train, training; test, testing; val, valid,
validation; unlabeled, unlabelled; or one of these with set behind it (trainset). They may carry a
name in common (seg_train, seg_test), lie in one folder that holds nothing else
(archive/flowers/train), and hold themselves (train/train). What looks like splits and can't be read
as such is refused, rather than taken for classes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from simlab._checks import near

from .listing import Folder
from .notes import Notes, count

SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
    "unlabeled": ("unlabeled", "unlabelled"),
}
SPLIT_OF_WORD = {word: split for split, words in SPLITS.items() for word in words}
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_OF_WORD)})(?:set)?(?![a-z])")
EXPECTED = (
    "expected FOLDER/train/<class>/* and FOLDER/test/<class>/*, or FOLDER/<class>/*, or FOLDER/*"
)

LabelledPath = tuple[Path, str]  # an image file and its class, "" without one


@dataclass
class Layout:
    """The files of each split.

    Attributes:
        root: the folder that holds the splits or the classes.
        train: training images and their classes.
        test: the same for the test split, or None where images have to be held out.
        unlabeled: images for pretraining alone.
    """

    root: Path
    train: list[LabelledPath]
    test: list[LabelledPath] | None = None
    unlabeled: list[Path] = field(default_factory=list)


def read_layout(folder: Folder, notes: Notes) -> Layout:
    """Tell splits and classes of a folder.

    Args:
        folder: with all that is below it.
        notes: takes what is left out, and what looks odd.

    Raises:
        ValueError: where folders called like splits can't be read as splits, where classes hold
            splits or the only class holds folders, and for test classes that training lacks.
    """
    folder = _around_splits(folder)
    splits = find_splits(folder)
    if not splits:
        _check_classes(folder, notes)
        layout = Layout(folder.path, list(_labelled(folder, notes)))
        _note_one_class(layout, notes)
        return layout
    _check_splits(folder, splits, notes)
    inner = {}
    for split, names in splits.items():
        inner[split] = _without_repetition(folder.folders[names[0]])
        _check_split_classes(inner[split])
    layout = Layout(folder.path, list(_labelled(inner["train"], notes)))
    _note_one_class(layout, notes)
    held_back = inner.get("test") or inner.get("val")
    if held_back is not None:
        layout.test = list(_labelled(held_back, notes))
        _check_test_classes(layout, held_back.path, inner["train"].path)
    if "test" in inner and "val" in inner:
        notes.warn(f"{_described(inner['val'])} left out: {inner['test'].path.name} is the test")
    if "unlabeled" in inner:
        layout.unlabeled = list(inner["unlabeled"].images())
    return layout


def find_splits(folder: Folder) -> dict[str, list[str]]:
    """The names of the folders in `folder` that are splits, by split; empty where none is.

    A bare name such as Train is one; names that carry more, such as seg_train, only where there
    are two or more that differ in the split alone.
    """
    by_rest = _names_by_rest(folder)
    if "*" in by_rest:
        return by_rest["*"]
    several = [splits for splits in by_rest.values() if len(splits) > 1]
    return several[0] if len(several) == 1 else {}


def _names_by_rest(folder: Folder) -> dict[str, dict[str, list[str]]]:
    """Folders whose names hold a split's, by the rest of their names (seg_*), then by split."""
    by_rest: dict[str, dict[str, list[str]]] = {}
    for name in sorted(folder.folders):
        words = SPLIT_WORD.findall(name.lower())
        if len(words) != 1:
            continue
        rest = SPLIT_WORD.sub("*", name.lower())
        splits = by_rest.setdefault(rest, {})
        splits.setdefault(SPLIT_OF_WORD[words[0]], []).append(name)
    return by_rest


def _around_splits(folder: Folder) -> Folder:
    """The folder itself, or the one in it that holds splits, if each holds one folder alone."""
    inner = folder
    while not find_splits(inner):
        if inner.files or len(inner.folders) != 1:
            return folder
        (inner,) = inner.folders.values()
    return inner


def _without_repetition(split: Folder) -> Folder:
    """A split's folder, or the one in it that has the same name and is alone: train/train."""
    while not split.files and list(split.folders) == [split.path.name]:
        (split,) = split.folders.values()
    return split


def _check_splits(folder: Folder, splits: dict[str, list[str]], notes: Notes) -> None:
    """Refuse splits that don't fit together; say which folders beside them are left out."""
    names = [name for group in splits.values() for name in group]
    others = [name for name in folder.folders if name not in names]
    for split, group in splits.items():
        if len(group) > 1:
            raise ValueError(f"{folder.path} has {' and '.join(group)}: expected one {split} split")
    if "train" not in splits:
        raise ValueError(f"{folder.path} has {_seen(folder)}, but no training split; {EXPECTED}")
    is_flat = not folder.folders[splits["train"][0]].folders
    if others and (len(splits) == 1 or is_flat):
        raise ValueError(
            f"{folder.path} has {_seen(folder)}: are {', '.join(names)} splits or classes? "
            f"{EXPECTED}"
        )
    for name in others:
        notes.warn(f"{_described(folder.folders[name])} left out: no split is called so")
    if folder.files:
        notes.warn(f"{count(len(folder.files), 'image')} beside the splits left out")


def _check_classes(folder: Folder, notes: Notes) -> None:
    """Refuse classes that are splits or hold some, and a single one that holds folders."""
    if any(len(splits) > 1 for splits in _names_by_rest(folder).values()):
        raise ValueError(f"{folder.path} has {_seen(folder)}, more than one set of splits")
    for name, inner in folder.folders.items():
        if find_splits(inner):
            raise ValueError(
                f"{folder.path} has {_seen(folder)}, and {name} has {_seen(inner)}: a class can't "
                f"hold splits; {EXPECTED}"
            )
    if len(folder.folders) != 1 or folder.files:
        _note_equal_folders(folder, notes)
        return
    (only,) = folder.folders.values()
    if only.folders and not only.files:
        raise ValueError(
            f"{folder.path} has one folder, {only.path.name}, with {_seen(only)}: give "
            f"{only.path}, if these are the classes; {EXPECTED}"
        )


def _note_one_class(layout: Layout, notes: Notes) -> None:
    classes = {name for _, name in layout.train}
    if len(classes) == 1 and classes != {""}:
        notes.warn(f"all training images are of one class, {classes.pop()}: none can be told apart")


def _note_equal_folders(folder: Folder, notes: Notes) -> None:
    """Warn where all classes have the same folders, which may be the classes themselves."""
    inner = [frozenset(f.folders) for f in folder.folders.values() if not f.files]
    is_equal = len(inner) == len(folder.folders) > 1 and len(set(inner)) == 1 and len(inner[0]) > 1
    if is_equal:
        notes.warn(
            f"{_seen(folder)} are the classes, and each has {', '.join(sorted(inner[0]))}; if "
            "these are the classes, and those domains, use simlab.data.domain_folder"
        )


def _check_split_classes(split: Folder) -> None:
    """Refuse a split whose classes are all called like splits."""
    names = [name.lower() for name in split.folders]
    if names and all(name in SPLIT_OF_WORD for name in names):
        raise ValueError(f"{split.path} has {_seen(split)}, which are splits; {EXPECTED}")


def _check_test_classes(layout: Layout, test: Path, train: Path) -> None:
    classes = {name for _, name in layout.train} - {""}
    unknown = sorted({name for _, name in layout.test or ()} - classes - {""})
    if unknown:
        raise ValueError(
            f"{test} has classes that {train} has not: {', '.join(unknown)}"
            f"{near(unknown[0], classes)}"
        )


def _labelled(folder: Folder, notes: Notes) -> Iterator[LabelledPath]:
    """Every image with the folder right below `folder` as its class."""
    if folder.files and folder.folders:
        number = count(len(folder.files), "image")
        notes.warn(f"{number} right in {folder.path}, beside the classes, have no label")
    for name in sorted([*folder.files, *folder.folders]):
        if name in folder.folders:
            yield from ((path, name) for path in folder.folders[name].images())
        else:
            yield folder.path / name, ""


def _described(folder: Folder) -> str:
    return f"{folder.path} ({count(len(folder), 'image')})"


def _seen(folder: Folder) -> str:
    """The folders in a folder, for an error: the first of them, and how many more."""
    names = sorted(folder.folders)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"the folders {', '.join(names[:5])}{more}"
