"""A folder of pictures as a data set.

    FOLDER/train/<class>/*.jpg and FOLDER/test/<class>/*.jpg      classes, and a test split
    FOLDER/<class>/*.jpg                                          every fifth picture is the test
    FOLDER/*.jpg                                                  no classes: pretraining only

Pictures are cut to a square in the middle, resized with antialiasing and kept as uint8. What fits is
decoded once into a tensor; what does not is decoded again each time it is needed, by threads that
run ahead of the training.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from .data import DataSet, Pictures

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
FITS = 2 * 2**30  # bytes of decoded pictures that are kept in memory
THREADS = 4
AHEAD = 3  # batches decoded ahead of the training
SAMPLE = 2000  # pictures from which a streamed set's mean and std are estimated


def load_folder(
    folder: str, image_size: int = 0, device: torch.device | str = "cpu", fits: int = FITS
) -> DataSet:
    """The pictures below `folder`; see the module's head.

    Args: image_size: side in pixels; 0 takes the first picture's shorter side. fits: bytes.
    Raises: FileNotFoundError for no folder or no pictures; ValueError that names a picture that
        can't be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    train_root, test_root = root / "train", root / "test"
    if train_root.is_dir():
        splits = {"train": _list(train_root)}
        classes = _classes(train_root)
        if test_root.is_dir():
            splits["test"] = _list(test_root)
            unknown = set(_classes(test_root)) - set(classes)
            if unknown:
                raise ValueError(
                    f"{test_root} has classes that {train_root} has not: {', '.join(sorted(unknown))}"
                )
    else:
        splits, classes = {"train": _list(root)}, _classes(root)
    if "test" not in splits:
        if len(splits["train"]) < 5:
            raise ValueError(f"{root} has {len(splits['train'])} pictures: expected at least 5")
        splits["test"] = splits["train"][4::5]
        splits["train"] = [path for i, path in enumerate(splits["train"]) if i % 5 != 4]

    size, mode = _size_and_mode(splits["train"][0], image_size)
    number = sum(len(paths) for paths in splits.values())
    streamed = number * size * size * len(mode) > fits
    made = {}
    for split, paths in splits.items():
        files = _Files(tuple(paths), size, mode)
        labels = torch.tensor([_label(path, classes, root) for path in paths])
        made[split] = (
            StreamedPictures(files, labels, classes, torch.device(device))
            if streamed
            else Pictures(files.read_all(split), labels, classes).to(device)
        )
    return DataSet(str(root), made["train"], made["test"]).to(device)


@dataclass(frozen=True)
class _Files:
    """Picture files, and how they are read."""

    paths: tuple[Path, ...]
    size: int
    mode: str  # PIL's: "RGB", or "L" for grey

    def read(self, index: int) -> Tensor:
        """One picture as uint8 [C, size, size]."""
        path = self.paths[index]
        try:
            with Image.open(path) as opened:
                picture = opened.convert(self.mode)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} can't be read as a picture ({error}); mend or remove it") from error
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        if picture.size != (self.size, self.size):
            # PIL's resize antialiases when it shrinks
            picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        array = np.array(picture)
        return torch.from_numpy(array.reshape(self.size, self.size, -1)).permute(2, 0, 1)

    def read_all(self, split: str) -> Tensor:
        """All of them: uint8 [N, C, size, size]."""
        out = torch.empty((len(self.paths), len(self.mode), self.size, self.size), dtype=torch.uint8)
        with ThreadPoolExecutor(THREADS) as pool:
            pictures = pool.map(self.read, range(len(self.paths)))
            for i, picture in enumerate(tqdm(pictures, f"reading {split}", len(out), leave=False)):
                out[i] = picture
        return out


class StreamedPictures(Pictures):
    """Pictures that are decoded when they are needed: memory holds a few batches, not the set.

    Everything but `images` is as in `Pictures`.
    """

    def __init__(
        self, files: _Files, labels: Tensor, classes: tuple[str, ...], device: torch.device
    ):
        self.files, self.labels, self.classes = files, labels.to(device), classes
        self.factors, self.factor_names = torch.empty(0, 0), ()
        self._device = device

    def __len__(self) -> int:
        return len(self.files.paths)

    @property
    def images(self) -> Tensor:
        raise MemoryError(
            f"these {len(self)} pictures are streamed since they do not fit in memory: use "
            "batches(), or subset() and then images"
        )

    @property
    def channels(self) -> int:
        return len(self.files.mode)

    @property
    def size(self) -> int:
        return self.files.size

    @property
    def device(self) -> torch.device:
        return self._device

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(THREADS) as pool:
            ahead: deque = deque()
            for index in order.cpu().split(batch_size):
                ahead.append((index, [pool.submit(self.files.read, i) for i in index.tolist()]))
                if len(ahead) > AHEAD:
                    yield self._decoded(*ahead.popleft())
            while ahead:
                yield self._decoded(*ahead.popleft())

    def _decoded(self, index: Tensor, futures: list) -> tuple[Tensor, Tensor]:
        return index, torch.stack([f.result() for f in futures]).to(self.device)

    def subset(self, index: Tensor) -> Pictures:
        """Those pictures, decoded into memory."""
        images = torch.stack([self.files.read(i) for i in index.tolist()])
        labels = self.labels.cpu()[index.cpu()]
        return Pictures(images, labels, self.classes).to(self.device)

    def moments(self) -> tuple[Tensor, Tensor]:
        """As `Pictures.moments`, from 2,000 pictures evenly spread over the set."""
        spread = torch.linspace(0, len(self) - 1, min(SAMPLE, len(self))).long()
        return self.subset(spread).moments()

    def digest(self) -> str:
        """Of the files' names and sizes: their content would take a pass over the whole set."""
        import hashlib

        h = hashlib.sha256(repr((self.size, self.channels, self.classes)).encode())
        for path in self.files.paths:
            h.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        return h.hexdigest()[:16]

    def to(self, device: torch.device | str) -> "StreamedPictures":
        return StreamedPictures(self.files, self.labels, self.classes, torch.device(device))


def _list(root: Path) -> list[Path]:
    """Pictures directly below `root` or in its folders, by name."""
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not paths:
        raise FileNotFoundError(
            f"{root} holds no pictures ({', '.join(sorted(ENDINGS))}); expected them in it, or in "
            "one folder for each class"
        )
    return paths


def _classes(root: Path) -> tuple[str, ...]:
    """The names of the folders in `root` that hold pictures."""
    return tuple(sorted({p.relative_to(root).parts[0] for p in _list(root) if p.parent != root}))


def _label(path: Path, classes: tuple[str, ...], root: Path) -> int:
    for name in path.relative_to(root).parts[:-1]:
        if name in classes:
            return classes.index(name)
    return -1


def _size_and_mode(path: Path, image_size: int) -> tuple[int, str]:
    """What the first picture says: its side, and whether the set is grey."""
    try:
        with Image.open(path) as picture:
            grey = picture.mode in ("1", "L", "I;16")
            return image_size or min(picture.size), "L" if grey else "RGB"
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} can't be read as a picture ({error}); mend or remove it") from error
