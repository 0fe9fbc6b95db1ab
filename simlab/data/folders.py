"""A folder of images as a dataset; layout.py says how its folders are understood.

Images are cut to a square in the middle, resized with antialiasing and kept as uint8. What fits is
decoded once into a tensor; what does not is decoded again each time it is needed, by threads that
run ahead of the training.

Where there is no test split a fifth of each class is drawn, always the same. Images that belong
together (of one patient, of one object) stay on one side where FOLDER/groups.csv, a table with the
columns path and group, says so.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from simlab.augment import Normalize

from .dataset import Dataset
from .file_digests import file_digests
from .files import (
    BrokenImageError,
    ImageFiles,
    OnError,
    Reasons,
    image_files,
)
from .hold_out import GROUPS_FILE, held_out, note_one_sided, read_groups
from .image_checks import UNLABELLED
from .images import DIGEST_LENGTH, Images, moments_of
from .layout import LabelledPath, Layout, read_layout
from .listing import list_images, note_left_out
from .notes import Notes, count
from .pixels import Fit

FITS = 2 * 2**30  # bytes of decoded images that are kept in memory
AHEAD = 4  # batches decoded ahead of the training, which may take as many at once
MOMENTS_SAMPLE = 2000  # images from which a streamed split's mean and std are estimated
MOMENTS_BYTES = 2**25  # of the images that are decoded at once for them


def load_folder(
    folder: str | Path,
    image_size: int = 0,
    device: torch.device | str = "cpu",
    fits: int = FITS,
    channels: int = 0,
    fit: Fit = "cut",
    on_error: OnError = "raise",
    threads: int = 0,
) -> Dataset:
    """Load the images below `folder`; see the module's head.

    Args:
        folder: the path; ~ is the user's home.
        image_size: side in pixels; 0 takes the median of the images' shorter sides.
        device: where the images, or the streamed batches of them, shall be.
        fits: bytes of decoded images up to which all are kept in memory.
        channels: 1 for grey, 3 for colour; 0 for colour where any image has it.
        fit: "cut" takes the square in the middle of an image, "squeeze" all of it.
        on_error: "raise" names all images that can't be decoded, "skip" leaves them out.
        threads: how many of them read images; 0: as many as cores are there for this process, 4 at
            least.

    Returns:
        The dataset; its notes say what was left out, converted or chosen.

    Raises:
        FileNotFoundError: for no folder, or none with images.
        ValueError: for images that can't be decoded, for folders that can't be understood, for too
            few images to hold some out, and for a test split with classes that training lacks.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: expected 'raise' or 'skip'")
    notes = Notes()
    tree = list_images(Path(folder).expanduser())
    note_left_out(tree, notes)
    layout = read_layout(tree, notes)
    classes = tuple(sorted({name for _, name in layout.train} - {""}))
    splits = _split_files(layout, notes)
    labels = {name: _labels(files, classes) for name, files in splits.items()}

    paths = [path for files in splits.values() for path, _ in files]
    files, reasons = image_files(paths, notes, image_size, channels, fit, threads)
    pixels = None
    is_streamed = files.decoded_bytes > fits
    if not is_streamed:
        pixels, reasons = files.read_all("reading images")
    elif reasons or on_error == "skip":
        reasons = files.broken("checking images")
    if reasons and on_error == "raise":
        raise BrokenImageError(paths, reasons)
    if reasons:
        _note_broken(paths, reasons, notes)

    names = tuple(_printable(name) for name in classes)
    images = _cut_apart(files, pixels, reasons, labels, names)
    note_one_sided(images["train"].labels, images["test"].labels, names, notes)
    unlabeled = images.get("unlabeled")
    texts = tuple(notes.texts)
    data = Dataset(
        str(folder),
        images["train"],
        images["test"],
        unlabeled,
        notes=texts,
        fit=files.fit,
        value_range=files.value_range,
    )
    return data.to(device)


def _split_files(layout: Layout, notes: Notes) -> dict[str, list[LabelledPath]]:
    """The files of each split, of which the test is drawn where there is none."""
    has_groups = (layout.root / GROUPS_FILE).exists()
    splits = {"train": layout.train}
    if layout.test is not None:
        splits["test"] = layout.test
        if has_groups:
            notes.warn(f"{GROUPS_FILE} is not used: there is a test split already")
    else:
        splits = _draw_test(layout, notes)
    if layout.unlabeled:
        splits["unlabeled"] = [(path, "") for path in layout.unlabeled]
    return splits


def _draw_test(layout: Layout, notes: Notes) -> dict[str, list[LabelledPath]]:
    paths = [path for path, _ in layout.train]
    classes = sorted({name for _, name in layout.train} - {""})
    try:
        groups = read_groups(layout.root, paths)
        is_test = held_out(_labels(layout.train, classes), groups).tolist()
    except ValueError as error:
        raise ValueError(f"{layout.root}: {error}") from error
    splits: dict[str, list[LabelledPath]] = {"train": [], "test": []}
    for file, is_held_out in zip(layout.train, is_test, strict=True):
        splits["test" if is_held_out else "train"].append(file)
    by_group = "" if groups is None else f", whole groups by {GROUPS_FILE}"
    notes.say(
        f"no test split: {count(len(splits['test']), 'image')} of {len(paths):,} held out, "
        f"a fifth of each class, drawn at random by a fixed seed{by_group}"
    )
    return splits


def _labels(files: Sequence[LabelledPath], classes: Sequence[str]) -> Tensor:
    """The classes of the files as int64 [N]."""
    label_of = {name: label for label, name in enumerate(classes)} | {"": UNLABELLED}
    return torch.tensor([label_of[name] for _, name in files])


def _cut_apart(
    files: ImageFiles,
    pixels: Tensor | None,
    broken: Reasons,
    labels: dict[str, Tensor],
    classes: tuple[str, ...],
) -> dict[str, Images]:
    """The splits, one behind the other in `files`, without what is broken.

    Args:
        files: of all splits.
        pixels: uint8 [N, C, H, W], or None where images are streamed.
        broken: the indices of those that are left out.
        labels: of each split [M].
        classes: the classes' names.
    """
    images: dict[str, Images] = {}
    start = 0
    for name, its_labels in labels.items():
        stop = start + len(its_labels)
        is_whole = torch.tensor([i not in broken for i in range(start, stop)])
        its_labels = its_labels[is_whole]
        if pixels is None:
            paths = tuple(files.paths[i] for i in range(start, stop) if i not in broken)
            images[name] = StreamedImages(replace(files, paths=paths), its_labels, classes)
        else:
            its_pixels = pixels[start:stop]
            if broken:
                its_pixels = its_pixels[is_whole]
            images[name] = Images(its_pixels, its_labels, classes)
        start = stop
    return images


def _note_broken(paths: Sequence[Path], reasons: Reasons, notes: Notes) -> None:
    files = [f"{paths[i]} ({reason})" for i, reason in reasons.items()]
    more = f" and {len(files) - 3:,} more" if len(files) > 3 else ""
    what = count(len(files), "image")
    notes.warn(f"{what} left out that can't be decoded: {', '.join(files[:3])}{more}")


def _printable(name: str) -> str:
    r"""A class's name with bytes that are not UTF-8 written out, such as caf\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class StreamedImages(Images):
    """Images that are decoded when they are needed: memory holds a few batches, not all.

    Everything is as in `Images`, except that there is no tensor `images`: hasattr says so, and
    asking for it raises an AttributeError that names `batches` and `subset`.
    """

    def __init__(
        self,
        files: ImageFiles,
        labels: Tensor,
        classes: tuple[str, ...],
        normalize: Normalize | None = None,
    ):
        self.files = files
        self.labels = labels
        self.classes = classes
        self.factors = torch.empty(0, 0)
        self.factor_names = ()
        self.factor_levels = {}
        self.normalize = normalize

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour ones."""
        return self.files.channels

    @property
    def size(self) -> int:
        """The images' side in pixels."""
        return self.files.size

    @property
    def images(self) -> Tensor:  # type: ignore[override]  # a field of `Images`, which can be set
        """Not there.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"these {len(self)} images are streamed, since they do not fit in memory, and have no "
            "tensor `images`: use batches(), or subset(index).images"
        )

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give (index, uint8 images) for one batch of `order` [M] after the other, read ahead."""
        pool = ThreadPoolExecutor(self.files.threads)
        started: deque[tuple[Tensor, list[Future]]] = deque()

        def oldest() -> tuple[Tensor, Tensor]:
            index, tasks = started.popleft()
            return index, torch.stack([task.result() for task in tasks]).to(self.device)

        try:
            for index in order.cpu().split(batch_size):
                started.append((index, [pool.submit(self.files.read, i) for i in index.tolist()]))
                if len(started) > AHEAD:
                    yield oldest()
            while started:
                yield oldest()
        finally:  # also where the loop was left, or an image can't be decoded
            pool.shutdown(cancel_futures=True)

    def subset(self, index: Tensor) -> Images:
        """The images at `index` [M], decoded into memory."""
        paths = tuple(self.files.paths[i] for i in index.tolist())
        images, reasons = replace(self.files, paths=paths).read_all()
        if reasons:
            raise BrokenImageError(paths, reasons)
        labels = self.labels.cpu()[index.cpu()]
        return Images(images, labels, self.classes, normalize=self.normalize).to(self.device)

    def select(self, index: Tensor) -> Images:
        """The images at `index` [M], decoded into memory where they fit there, else streamed."""
        files = replace(self.files, paths=tuple(self.files.paths[i] for i in index.tolist()))
        if files.decoded_bytes <= FITS:
            return self.subset(index)
        labels = self.labels[index.to(self.device)]
        return StreamedImages(files, labels, self.classes, self.normalize)

    def check_files(self) -> None:
        """Decode every image once.

        Raises:
            ValueError: that lists all images that can't be decoded.
        """
        reasons = self.files.broken("checking images")
        if reasons:
            raise BrokenImageError(self.files.paths, reasons)

    def moments(self) -> tuple[Tensor, Tensor]:
        """As `Images.moments`, from 2,000 images evenly spread over all."""
        number = min(MOMENTS_SAMPLE, len(self))
        order = torch.linspace(0, len(self) - 1, number).long()
        at_once = max(1, MOMENTS_BYTES // (self.channels * self.size**2))
        return moments_of(images for _, images in self.batches(order, at_once))

    def digest(self) -> str:
        """SHA-256 of the files' content, their labels, and how they are read.

        Files are read once: see `file_digests`.
        """
        reading = replace(self.files, paths=())
        h = hashlib.sha256(repr((reading, self.classes, self.labels.tolist())).encode())
        for digest in file_digests(self.files.paths):
            h.update(digest.encode())
        return h.hexdigest()[:DIGEST_LENGTH]

    def with_threads(self, threads: int) -> "StreamedImages":
        """The same images, decoded by so many threads."""
        files = replace(self.files, threads=threads)
        return StreamedImages(files, self.labels, self.classes, self.normalize)

    def with_normalize(self, normalize: Normalize) -> "StreamedImages":
        """The same images, to be normalised by `normalize`."""
        return StreamedImages(self.files, self.labels, self.classes, normalize)

    def to(self, device: torch.device | str) -> "StreamedImages":
        """The same images, whose batches and labels are on `device`."""
        normalize = self.normalize.to(device) if self.normalize else None
        return StreamedImages(self.files, self.labels.to(device), self.classes, normalize)
