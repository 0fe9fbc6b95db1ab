"""Emoji: 1,906 things in colour, each drawn by two to four designers.

data = load_data("emoji")
data.classes                         Unicode's nine categories, "Food & Drink" among them
data.train.factor_levels["thing"]    the things' names; the test split holds out things
domains = by_factor(data.train, "designer")

The same thing in another designer's style is a real domain shift, and a pair of views that no
augmentation makes: `views_from="thing"`. data/make_emoji.py has drawn the files.
"""

import csv
import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .dataset import Dataset
from .fashion import bundled_folder
from .images import Images

DESIGNERS = ("noto", "twemoji", "fluent-flat", "fluent-modern")
EMOJI_FACTORS = ("thing", "designer", "subgroup")
PACKAGES = {  # of the npm registry, which the files of things.csv are in
    "noto": "emoji-datasource-google@16.0.0",
    "twemoji": "emoji-datasource-twitter@16.0.0",
    "fluent-flat": "fluentui-emoji@1.3.0",
    "fluent-modern": "fluentui-emoji@1.3.0",
}
SIDE = 32  # pixels of a drawing


def load_emoji(folder: str, download: bool) -> Dataset:
    """The drawings that ship with simlab, uint8 [N, 3, 32, 32] on white.

    Raises:
        ValueError: For a folder, of which there is no other version of the dataset; and for a
            damaged file.
        FileNotFoundError: For a missing file.
    """
    if folder or download:
        raise ValueError(
            f"emoji ships with simlab: expected no folder and no download, not folder={folder!r}, "
            f"download={download}"
        )
    things = read_things()
    categories = _in_order(row["category"] for row in things)
    subgroups = _in_order(row["subgroup"] for row in things)
    drawings = []
    factors = []
    labels = []
    for number, designer in enumerate(DESIGNERS):
        drawn = [index for index, row in enumerate(things) if row[designer]]
        drawings.append(_read_sheet(designer, len(drawn)))
        for index in drawn:
            row = things[index]
            labels.append(categories.index(row["category"]))
            factors.append((index, number, subgroups.index(row["subgroup"])))
    everything = Images(
        torch.cat(drawings),
        torch.tensor(labels),
        categories,
        torch.tensor(factors, dtype=torch.float32),  # [N, 3]
        EMOJI_FACTORS,
        {
            "thing": tuple(row["name"] for row in things),
            "designer": DESIGNERS,
            "subgroup": subgroups,
        },
    )
    is_test = torch.tensor([row["split"] == "test" for row in things])  # [things]
    of_image = is_test[everything.factors[:, 0].long()]  # [N]
    train = everything.subset((~of_image).nonzero()[:, 0])
    test = everything.subset(of_image.nonzero()[:, 0])
    return Dataset("emoji", train, test)


def read_things() -> tuple[dict[str, str], ...]:
    """Rows of data/emoji/things.csv: a thing's code points, name, category, split and sources."""
    return _rows_of(_file("things.csv"))


@functools.cache
def _rows_of(path: Path) -> tuple[dict[str, str], ...]:
    with open(path, encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def emoji_source(images: Images, index: int) -> str:
    """Name the npm package and the file in it that an image of the dataset was drawn from."""
    thing, designer, _ = images.factors[index].long().tolist()
    name = DESIGNERS[designer]
    return f"{PACKAGES[name]}/{read_things()[thing][name]}"


def _read_sheet(designer: str, number: int) -> Tensor:
    """The first `number` drawings of a sheet, row by row: uint8 [number, 3, 32, 32]."""
    path = _file(f"{designer}.webp")
    try:
        with Image.open(path) as image:
            sheet = np.array(image.convert("RGB"))  # [H, W, 3]
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); it ships with simlab: install it, or check it out, again"
        ) from error
    rows = sheet.shape[0] // SIDE
    columns = sheet.shape[1] // SIDE
    tiles = sheet.reshape(rows, SIDE, columns, SIDE, 3)
    drawings = tiles.transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
    if len(drawings) < number:
        raise ValueError(f"{path} has {len(drawings)} drawings: expected {number}, as things.csv")
    return torch.from_numpy(np.ascontiguousarray(drawings[:number]))


def _file(name: str) -> Path:
    path = bundled_folder() / "emoji" / name
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; it ships with simlab: install it, or check it out, again"
        )
    return path


def _in_order(values: Iterable[str]) -> tuple[str, ...]:
    """The different values, in the order of their first occurrence."""
    return tuple(dict.fromkeys(values))
