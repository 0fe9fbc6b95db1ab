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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from simlab.augment import Normalize

from .dataset import Dataset
from .file_digests import file_digests
from .files import THREADS, ImageFiles, image_files, image_paths
from .images import DIGEST_LENGTH, UNLABELLED, Images

FITS = 2 * 2**30  # bytes of decoded images that are kept in memory
AHEAD = 4  # batches decoded ahead of the training, which may take as many at once
MOMENTS_SAMPLE = 2000  # images from which a streamed split's mean and std are estimated
HOLD_OUT = 5  # every fifth image is a test image where there is no test split

LabelledPath = tuple[Path, str]  # an image file and the name of its class


def load_folder(
    folder: str, image_size: int = 0, device: torch.device | str = "cpu", fits: int = FITS
) -> Dataset:
    """Load the images below `folder`; see the module's head.

    Args:
        folder: the path.
        image_size: side in pixels; 0 takes the first image's shorter side.
        device: where the images, or the streamed batches of them, shall be.
        fits: bytes of decoded images up to which all are kept in memory.

    Raises:
        FileNotFoundError: for no folder, or none with images.
        ValueError: that names an image that can't be decoded; for too few images to hold some out,
            and for a test split with classes that the training split lacks.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    train, test = _split_paths(root)
    classes = tuple(sorted({name for _, name in train} - {""}))
    label_of = {name: label for label, name in enumerate(classes)} | {"": UNLABELLED}

    train_files = image_files([path for path, _ in train], image_size)
    test_files = replace(train_files, paths=tuple(path for path, _ in test))
    is_streamed = train_files.decoded_bytes + test_files.decoded_bytes > fits
    train_labels = torch.tensor([label_of[name] for _, name in train])
    test_labels = torch.tensor([label_of[name] for _, name in test])
    train_split: Images
    test_split: Images
    if is_streamed:
        train_split = StreamedImages(train_files, train_labels, classes)
        test_split = StreamedImages(test_files, test_labels, classes)
    else:
        train_split = Images(train_files.read_all("reading train"), train_labels, classes)
        test_split = Images(test_files.read_all("reading test"), test_labels, classes)
    return Dataset(str(root), train_split, test_split).to(device)


def _split_paths(root: Path) -> tuple[list[LabelledPath], list[LabelledPath]]:
    """The files of the training and of the test split below `root`."""
    if not (root / "train").is_dir():
        return _hold_out(root, image_paths(root))
    train = image_paths(root / "train")
    for name in ("test", "val"):
        if (root / name).is_dir():
            test = image_paths(root / name)
            _check_classes(root, name, train, test)
            return train, test
    return _hold_out(root, train)


def _hold_out(
    root: Path, paths: list[LabelledPath]
) -> tuple[list[LabelledPath], list[LabelledPath]]:
    if len(paths) < HOLD_OUT:
        raise ValueError(
            f"{root} has {len(paths)} images: expected at least {HOLD_OUT}, to hold a fifth out"
        )
    train = [path for i, path in enumerate(paths) if i % HOLD_OUT != HOLD_OUT - 1]
    return train, paths[HOLD_OUT - 1 :: HOLD_OUT]


def _check_classes(
    root: Path, name: str, train: list[LabelledPath], test: list[LabelledPath]
) -> None:
    unknown = {c for _, c in test} - {c for _, c in train} - {""}
    if unknown:
        raise ValueError(
            f"{root / name} has classes that {root / 'train'} has not: {', '.join(sorted(unknown))}"
        )


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
        pool = ThreadPoolExecutor(THREADS)
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
        images = replace(self.files, paths=paths).read_all()
        labels = self.labels.cpu()[index.cpu()]
        return Images(images, labels, self.classes, normalize=self.normalize).to(self.device)

    def moments(self) -> tuple[Tensor, Tensor]:
        """As `Images.moments`, from 2,000 images evenly spread over all."""
        number = min(MOMENTS_SAMPLE, len(self))
        return self.subset(torch.linspace(0, len(self) - 1, number).long()).moments()

    def digest(self) -> str:
        """SHA-256 of the files' content, their labels, and how they are read.

        Files are read once: see `file_digests`.
        """
        reading = replace(self.files, paths=())
        h = hashlib.sha256(repr((reading, self.classes, self.labels.tolist())).encode())
        for digest in file_digests(self.files.paths):
            h.update(digest.encode())
        return h.hexdigest()[:DIGEST_LENGTH]

    def with_normalize(self, normalize: Normalize) -> "StreamedImages":
        """The same images, to be normalised by `normalize`."""
        return StreamedImages(self.files, self.labels, self.classes, normalize)

    def to(self, device: torch.device | str) -> "StreamedImages":
        """The same images, whose batches and labels are on `device`."""
        normalize = self.normalize.to(device) if self.normalize else None
        return StreamedImages(self.files, self.labels.to(device), self.classes, normalize)
