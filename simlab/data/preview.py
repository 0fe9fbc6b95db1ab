"""A dataset as a notebook shows it: thumbnails, and how many images of each class."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor

from .images import Images

COLUMNS = 10  # classes of which thumbnails are shown
ROWS = 3  # thumbnails of each
SIDE = 56  # pixels of a thumbnail
GAP = 4  # pixels between two
TABLE_CLASSES = 20  # classes listed in the table


def dataset_html(name: str, splits: Mapping[str, Images], notes: Sequence[str] = ()) -> str:
    """Name and shape, thumbnails with a text for who can't see them, counts by class, and notes.

    Args:
        name: the dataset's.
        splits: its splits by name, of which "train" gives the thumbnails.
        notes: what was noticed when it was loaded.
    """
    train = splits["train"]
    colour = "grey" if train.channels == 1 else "colour"
    head = f"<b>{escape(name)}</b>: {colour} images of {train.size} × {train.size} pixels"
    if train.factor_names:
        head += f", factors {escape(', '.join(train.factor_names))}"
    remarks = "".join(f"<p>{escape(note)}</p>" for note in notes)
    thumbnails = _thumbnails_html(name, train)
    return f"<div><p>{head}</p>{thumbnails}{_counts_html(splits)}{remarks}</div>"


def _thumbnails_html(name: str, train: Images) -> str:
    columns = _columns_of_indices(train)
    try:
        png = _thumbnails_png(train, columns)
    except ValueError as error:  # a streamed image that can't be decoded
        return f"<p>No thumbnails: {escape(str(error))}</p>"
    source = base64.b64encode(png).decode()
    alt = escape(_alternative_text(name, train), quote=True)
    return f'<img alt="{alt}" src="data:image/png;base64,{source}">'


def _columns_of_indices(images: Images) -> list[list[int]]:
    """Indices of the first images of each class, a column a class; without labels of any images."""
    columns = []
    for label in range(min(COLUMNS, len(images.classes))):
        columns.append((images.labels == label).nonzero()[:ROWS, 0].tolist())
    if any(columns):
        return columns
    indices = torch.arange(min(COLUMNS * ROWS, len(images)))
    return [column.tolist() for column in indices.split(ROWS)]


def _thumbnails_png(images: Images, columns: list[list[int]]) -> bytes:
    """The images at these indices as one PNG, column beside column."""
    step = SIDE + GAP
    sheet = Image.new("RGB", (step * len(columns) - GAP, step * ROWS - GAP), "white")
    for x, indices in enumerate(columns):
        if not indices:
            continue
        for y, image in enumerate(images.subset(torch.tensor(indices)).images):
            sheet.paste(_thumbnail(image), (step * x, step * y))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _thumbnail(image: Tensor) -> Image.Image:
    """A uint8 image [C, H, W], smoothed where it is shrunk and with visible pixels where not."""
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).cpu().contiguous().numpy()  # [H, W, 3]
    is_shrunk = len(pixels) > SIDE
    method = Image.Resampling.BILINEAR if is_shrunk else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize((SIDE, SIDE), method)


def _alternative_text(name: str, train: Images) -> str:
    if not bool((train.labels >= 0).any()):
        return f"The first training images of {name}, which have no labels."
    text = f"Training images of {name}, a column for each class: "
    text += ", ".join(train.classes[:COLUMNS])
    if len(train.classes) > COLUMNS:
        text += f"; {COLUMNS} of {len(train.classes)} classes are shown"
    return text + "."


def _counts_html(splits: Mapping[str, Images]) -> str:
    """A table: a row for each class, a column for each split."""
    classes = splits["train"].classes
    rows = [_row_html("th", ["class", *splits])]
    counts = {name: _counts_of_classes(images) for name, images in splits.items()}  # [K] each
    for label, name in enumerate(classes[:TABLE_CLASSES]):
        rows.append(_row_html("td", [name, *(c[label] for c in counts.values())]))
    if len(classes) > TABLE_CLASSES:
        rest = [sum(c[TABLE_CLASSES:]) for c in counts.values()]
        rows.append(_row_html("td", [f"{len(classes) - TABLE_CLASSES} more classes", *rest]))
    unlabelled = [int((images.labels < 0).sum()) for images in splits.values()]
    if any(unlabelled):
        rows.append(_row_html("td", ["unlabelled", *unlabelled]))
    rows.append(_row_html("th", ["all", *map(len, splits.values())]))
    return f"<table>{''.join(rows)}</table>"


def _counts_of_classes(images: Images) -> list[int]:
    labelled = images.labels[images.labels >= 0]
    return torch.bincount(labelled, minlength=len(images.classes)).tolist()


def _row_html(tag: str, cells: list) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
