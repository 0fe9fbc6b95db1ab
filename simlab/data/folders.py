"""A folder of images as a dataset.

    FOLDER/train/<class>/*.jpg and FOLDER/test/<class>/*.jpg      classes, and a test split
    FOLDER/<class>/*.jpg                                          every fifth image is the test
    FOLDER/*.jpg                                                  no classes: pretraining only

The test split may be called val as well. Images are cut to a square in the middle, resized with
antialiasing and kept as uint8. What fits is decoded once into a tensor; what does not is decoded
again each time it is needed, by threads that run ahead of the training.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from simlab.augment import Normalize

from .images import Dataset, Images

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
FITS = 2 * 2**30  # bytes of decoded images that are kept in memory
THREADS = 4
BLOCK = 64  # images that a thread reads in one go
AHEAD = 4  # batches decoded ahead of the training, which may take as many at once
SAMPLE = 2000  # images from which a streamed set's mean and std are estimated


def load_folder(
    folder: str, image_size: int = 0, device: torch.device | str = "cpu", fits: int = FITS
) -> Dataset:
    """The images below `folder`; see the module's head.

    Args: image_size: side in pixels; 0 takes the first image's shorter side. fits: bytes.
    Raises: FileNotFoundError for no folder or no images; ValueError that names an image that
        can't be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    train_root = root / "train" if (root / "train").is_dir() else root
    test_root = next((root / n for n in ("test", "val") if (root / n).is_dir()), None)
    train = image_paths(train_root)
    classes = tuple(sorted({name for _, name in train} - {""}))
    number_of = {name: number for number, name in enumerate(classes)} | {"": -1}
    if train_root != root and test_root:
        test = image_paths(test_root)
        if unknown := {name for _, name in test} - number_of.keys():
            raise ValueError(
                f"{test_root} has classes that {train_root} has not: {', '.join(sorted(unknown))}"
            )
    elif len(train) < 5:
        raise ValueError(f"{root} has {len(train)} images: expected at least 5")
    else:
        train, test = [found for i, found in enumerate(train) if i % 5 != 4], train[4::5]

    size, mode = size_and_mode([path for path, _ in train], image_size)
    streamed = (len(train) + len(test)) * size * size * len(mode) > fits
    made = []
    for split, found in (("train", train), ("test", test)):
        files = ImageFiles(tuple(path for path, _ in found), size, mode)
        labels = torch.tensor([number_of[name] for _, name in found])
        made.append(
            StreamedImages(files, labels, classes)
            if streamed
            else Images(files.read_all(f"reading {split}"), labels, classes)
        )
    return Dataset(str(root), *made).to(device)


@dataclass(frozen=True)
class ImageFiles:
    """Image files, and how they are read."""

    paths: tuple[Path, ...]
    size: int
    mode: str  # PIL's: "RGB", or "L" for grey

    def read(self, index: int) -> Tensor:
        """One image as uint8 [C, size, size]."""
        with _opened(self.paths[index]) as opened:
            image = _eight_bits(opened).convert(self.mode)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side != self.size:  # PIL's resize antialiases when it shrinks
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        array = np.array(image)
        return torch.from_numpy(array.reshape(self.size, self.size, -1)).permute(2, 0, 1)

    def read_all(self, label: str = "") -> Tensor:
        """All of them: uint8 [N, C, size, size], with a progress bar where there is a label."""
        number, side = len(self.paths), self.size
        out = torch.empty((number, len(self.mode), side, side), dtype=torch.uint8)

        def read_block(block: Tensor) -> int:
            for index in block.tolist():
                out[index] = self.read(index)
            return len(block)

        blocks = torch.arange(number).split(BLOCK)  # a task for each image would be slower
        shown = {"total": number, "desc": label, "unit": " images", "disable": not label}
        with ThreadPoolExecutor(THREADS) as pool, tqdm(leave=False, **shown) as bar:
            for done in pool.map(read_block, blocks):
                bar.update(done)
        return out


class StreamedImages(Images):
    """Images that are decoded when they are needed: memory holds a few batches, not the set.

    Everything but `images` is as in `Images`.
    """

    def __init__(self, files: ImageFiles, labels: Tensor, classes: tuple[str, ...]):
        self.files, self.labels, self.classes = files, labels, classes
        self.factors, self.factor_names = torch.empty(0, 0), ()
        self.normalize: Normalize | None = None

    channels = property(lambda self: len(self.files.mode))
    size = property(lambda self: self.files.size)

    @property
    def images(self) -> Tensor:
        raise MemoryError(
            f"these {len(self)} images are streamed since they do not fit in "
            "memory: use batches(), or subset() and then images"
        )

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        pool, started = ThreadPoolExecutor(THREADS), deque()

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
        finally:  # also where the loop was left, or an image can't be read
            pool.shutdown(cancel_futures=True)

    def subset(self, index: Tensor) -> Images:
        """Those images, decoded into memory."""
        paths = tuple(self.files.paths[i] for i in index.tolist())
        images = replace(self.files, paths=paths).read_all()
        labels = self.labels.cpu()[index.cpu()]
        return Images(images, labels, self.classes, normalize=self.normalize).to(self.device)

    def moments(self) -> tuple[Tensor, Tensor]:
        """As `Images.moments`, from 2,000 images evenly spread over the set."""
        spread = torch.linspace(0, len(self) - 1, min(SAMPLE, len(self))).long()
        return self.subset(spread).moments()

    def digest(self) -> str:
        """Of the files' names and sizes: their content would take a pass over the whole set."""
        h = hashlib.sha256(repr((self.size, self.channels, self.classes)).encode())
        for path in self.files.paths:
            h.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        return h.hexdigest()[:16]

    def to(self, device: torch.device | str) -> "StreamedImages":
        moved = StreamedImages(self.files, self.labels.to(device), self.classes)
        moved.normalize = self.normalize and self.normalize.to(device)
        return moved

    def with_normalize(self, normalize: Normalize) -> "StreamedImages":
        same = StreamedImages(self.files, self.labels, self.classes)
        same.normalize = normalize
        return same


def image_paths(root: Path) -> list[tuple[Path, str]]:
    """The images in `root` and its folders, by name; each with its class, "" right in `root`."""
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    inside = [(path, path.relative_to(root).parts) for path in paths]
    # hidden files and folders are not the user's images but some program's
    found = [
        (path, parts[0] if len(parts) > 1 else "")
        for path, parts in inside
        if not any(part.startswith(".") for part in parts)
    ]
    if not found:
        raise FileNotFoundError(
            f"{root} holds no images ({', '.join(sorted(ENDINGS))}); "
            "expected them in it, or in one folder for each class"
        )
    return found


def size_and_mode(paths: list[Path], image_size: int) -> tuple[int, str]:
    """The first image's side if not said; and grey where 20 images all over the set are."""
    modes = []
    for path in paths[:: max(1, len(paths) // 20)]:
        with _opened(path) as image:
            modes.append(image.mode)
            image_size = image_size or min(image.size)
    return image_size, "L" if all(mode in ("1", "L") or mode[0] == "I" for mode in modes) else "RGB"


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file; what goes wrong with it names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # PIL raises many kinds
        message = f"{path} can't be read as an image ({error}); mend or remove it"
        raise ValueError(message) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Images of 16 bits, which PIL would cut off at 255 instead of scaling them."""
    if image.mode[0] != "I":
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
