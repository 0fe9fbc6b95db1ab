"""Datasets of other libraries: torch's, torchvision's, Hugging Face's, or a list of pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm

from simlab._checks import near

from .arrays import assemble
from .convert import index_labels, with_channels
from .dataset import Dataset
from .image_checks import UNLABELLED
from .items import Plan, Store, plan_of
from .notes import Notes
from .pixels import Fit, check_choices

FITS = 2 * 2**30  # bytes of images, which are kept in memory
LABEL_KEYS = ("label", "labels", "target", "class")


def from_dataset(
    dataset: Any,
    test: Any = None,
    *,
    image_size: int = 0,
    channels: int = 0,
    fit: Fit = "cut",
    classes: Sequence[str] = (),
    image_key: str = "",
    label_key: str = "",
    groups: Any = None,
    seed: int = 0,
    fits: int = FITS,
) -> Dataset:
    """A dataset of simlab's from one with a length and an index, read once into memory as uint8.

    What does not fit there is refused: write it into a folder with one folder for each class, which
    `load_data` streams from the disk.

    Its items are (image, label, ...), an image alone, or rows: dictionaries, as Hugging Face's
    datasets have them. An image is PIL's, or an array or tensor of 0 .. 255 or of floats in 0 .. 1;
    leave out random augmentation and normalisation: simlab has both.

    Args:
        dataset: such as torchvision.datasets.ImageFolder(path), or load_dataset(...)["train"].
        test: the same for the test split; without it a fifth of each class is held out.
        image_size: side in pixels; 0: the median of the images' shorter sides.
        channels: 1 for grey, 3 for colour, 0 for colour where any image has it.
        fit: "cut" takes the square in the middle of an image, "squeeze" all of it.
        classes: the classes' names; else those that the dataset knows, or the labels' own.
        image_key: the image's key in a row; needed where there are several.
        label_key: the label's; likewise.
        groups: as in `from_arrays`.
        seed: as in `from_arrays`.
        fits: bytes that the images of both splits may take.

    Returns:
        The dataset; its notes say what was converted or chosen.

    Raises:
        TypeError: for what has no length and index, and for items that are no images.
        ValueError: for images that differ each time they are asked for or that do not fit, and for
            labels that can't be understood.
    """
    check_choices(channels, fit)
    notes = Notes()
    given = [dataset] if test is None else [dataset, test]
    sources = [_source(each, image_key, label_key) for each in given]
    _check_unchanging(sources[0])
    plan = plan_of(sources[0].image, len(sources[0]), image_size, channels, fit, notes)
    _check_size(plan, sum(len(source) for source in sources), fits)
    pixels: list[Tensor] = []
    labels: list[Any] = []
    for source in sources:
        images, its_labels = _read(source, plan)
        pixels.append(images)
        labels.append(its_labels)
    width = max(images.shape[1] for images in pixels)  # colour if any split has it
    pixels = [with_channels(images, width) for images in pixels]
    names = classes or _known_classes(dataset, sources[0].label_key)
    indices, names = index_labels(labels, names, notes)
    return assemble(type(dataset).__name__, pixels, indices, names, groups, seed, notes, fit)


@dataclass(frozen=True)
class _Source:
    """A dataset of any library, and how its items are taken apart.

    Attributes:
        dataset: has a length and an index.
        image_key: where an item's image is, or None where the item is the image.
        label_key: where its label is, or None without one.
    """

    dataset: Any
    image_key: Any
    label_key: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> Any:
        return self.image_and_label(index)[0]

    def image_and_label(self, index: int) -> tuple[Any, Any]:
        item = self.dataset[index]
        image = item if self.image_key is None else item[self.image_key]
        label = UNLABELLED if self.label_key is None else item[self.label_key]
        return image, label


def _source(dataset: Any, image_key: str, label_key: str) -> _Source:
    """Tell what the items of a dataset are from its first one."""
    _check_is_map_style(dataset)
    item = dataset[0]
    if isinstance(item, Mapping):
        features = getattr(dataset, "features", None) or {}
        image = image_key or _only_key(item, features, "Image", _is_image, "image_key")
        label = label_key or _label_key(item, features)
        for key in (image, label):
            if key is not None and key not in item:
                raise ValueError(f"a row has no {key!r}{near(key, item)}")
        return _Source(dataset, image, label)
    if image_key or label_key:
        raise ValueError(f"image_key and label_key are for rows: items are {_kind_of(item)}")
    if isinstance(item, tuple | list) and len(item) > 0 and _is_image(item[0]):
        return _Source(dataset, 0, 1 if len(item) > 1 else None)
    if _is_image(item):
        return _Source(dataset, None, None)
    raise TypeError(
        f"the first item is {_kind_of(item)}: expected an image, (image, label) or a row with both"
    )


def _check_is_map_style(dataset: Any) -> None:
    if isinstance(dataset, DataLoader):
        raise TypeError("a DataLoader has batches: give its dataset, loader.dataset")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"{type(dataset).__name__} has no items by index: expected a map-style dataset; with "
            "Hugging Face's leave out streaming=True"
        )
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(str, dataset))
        raise TypeError(
            f"{type(dataset).__name__} holds several ({splits}): give one, and another as test=..."
        )
    if len(dataset) == 0:
        raise ValueError("the dataset is empty: expected at least one image")


def _is_image(value: Any) -> bool:
    if isinstance(value, Image.Image):
        return True
    return isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3)


def _only_key(
    item: Mapping, features: Mapping, kind: str, is_such: Callable[[Any], bool], option: str
) -> Any:
    """The one key of a row whose declared feature is of a kind, or whose value is such a thing."""
    declared = [key for key, feature in features.items() if type(feature).__name__ == kind]
    keys = declared or [key for key, value in item.items() if is_such(value)]
    if len(keys) != 1:
        candidates = ", ".join(map(str, keys)) or "none"
        names = ", ".join(map(str, item))
        raise ValueError(
            f"a row has the keys {names}, of which {candidates} could be meant: give {option}=..."
        )
    return keys[0]


def _label_key(item: Mapping, features: Mapping) -> Any:
    """The key of a row's label: the declared one, or one that is called so; None without."""
    declared = [key for key, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    keys = declared or [key for key in LABEL_KEYS if key in item]
    if len(keys) > 1:
        raise ValueError(f"a row has several labels, {', '.join(keys)}: give label_key=...")
    return keys[0] if keys else None


def _known_classes(dataset: Any, label_key: Any) -> list[str]:
    """The classes' names that a dataset, or the one that it is a subset of, knows."""
    while isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        return list(getattr(features.get(label_key), "names", None) or [])
    names = getattr(dataset, "classes", None)
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if is_list and names else []


def _check_unchanging(source: _Source) -> None:
    """Refuse a dataset with random augmentation: one draw would be taken for the images."""
    first, again = (np.asarray(source.image(0)) for _ in range(2))
    if first.shape != again.shape or not np.array_equal(first, again, equal_nan=True):
        raise ValueError(
            "the first image differs each time that it is asked for: give the dataset without "
            "random augmentation, which simlab does anew in each epoch"
        )


def _check_size(plan: Plan, number: int, fits: int) -> None:
    needed = number * (plan.channels or 3) * plan.size**2
    if needed > fits:
        raise ValueError(
            f"{number:,} images at image_size={plan.size} take up to {needed / 2**30:.1f} GB: "
            f"expected at most {fits / 2**30:.1f} GB; give a smaller image_size, a larger fits, or "
            'write them into a folder, image.save(f"photos/{label}/{index}.png"), and load that: '
            "load_data streams it"
        )


def _read(source: _Source, plan: Plan) -> tuple[Tensor, list[Any]]:
    """All images uint8 [N, C, S, S] and their labels."""
    store = Store(len(source), plan)
    labels = []
    for index in tqdm(range(len(source)), desc="reading", unit=" images", leave=False):
        image, label = source.image_and_label(index)
        store.put(index, image)
        labels.append(_plain(label, index))
    return store.images, labels


def _plain(label: Any, index: int) -> Any:
    """A label as a number or a name."""
    if isinstance(label, Tensor | np.ndarray):
        if label.shape not in ((), (1,)):
            raise ValueError(
                f"the label of image {index} has the shape {tuple(label.shape)}: expected one "
                "number or name; give a dataset whose items are (image, label)"
            )
        return label.item()
    return label


def _kind_of(item: Any) -> str:
    text = f"a {type(item).__name__}"
    if isinstance(item, tuple | list):
        text += f" of {', '.join(type(x).__name__ for x in item) or 'nothing'}"
    return text
