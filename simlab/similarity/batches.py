"""What is compared on: batches of images, one stream for all models or one for each."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

Data = Tensor | Iterable[Any]
MIN_BATCH = 4  # samples: below that the unbiased HSIC does not exist
MAX_HASHES = 2**16  # images that are remembered to notice a different shuffling


class Batches:
    """Iterates over lists of tensors [n >= 4, ...], one for each stream, of the same samples.

    Smaller batches are merged with a neighbour.

    Attributes:
        sources: the streams, each an iterable of batches.
    """

    def __init__(self, data: Data, models: int, batch_size: int) -> None:
        """Take data as `compare` does, for that many models.

        Raises:
            TypeError: `data` holds no batches.
            ValueError: a tuple has not one entry for each model.
        """
        self.sources = sources_of(data, models, batch_size)
        self._check = _CorrespondenceCheck(self.sources)

    @property
    def correspondence(self) -> str:
        """How it was checked that the streams show the same samples."""
        return "one stream" if len(self.sources) == 1 else self._check.verdict

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield batches.

        Raises:
            ValueError: streams of different length or order (seen by labels, or by hashes of the
                images), values that are not finite, fewer than four samples altogether.
            TypeError: a batch holds no float images.
        """
        ready: list[Tensor] = []  # waits, since a small last batch may have to join it
        small: list[Tensor] = []
        for index, items in enumerate(itertools.zip_longest(*self.sources)):
            if any(item is None for item in items):
                raise ValueError(
                    f"one loader ends after {index} batches, the other goes on: their "
                    "samples must correspond"
                )
            batch, labels = zip(*(unpack(item, index) for item in items), strict=True)
            if len(batch) > 1:
                self._check(batch, labels, index)
            small = _merged(small, list(batch))
            if len(small[0]) >= MIN_BATCH:
                if ready:
                    yield ready
                ready = small
                small = []
        ready = _merged(ready, small)
        count = len(ready[0]) if ready else 0
        if count < MIN_BATCH:
            raise ValueError(f"at least {MIN_BATCH} samples are needed, got {count}")
        yield ready

    def first(self, count: int) -> list[Tensor]:
        """The first `count` samples of each stream (all, if there are fewer) as one batch."""
        batches: list[list[Tensor]] = []
        total = 0
        for batch in self:
            batches.append(batch)
            total += len(batch[0])
            if total >= count:
                break
        return [torch.cat(stream)[:count] for stream in zip(*batches, strict=True)]


def sources_of(data: Data, models: int, batch_size: int) -> list[Iterable[Any]]:
    """Make one iterable of batches, or one for each model if `data` is a tuple of that length.

    A tensor is cut into batches; a tuple (images, labels [N]) is one labelled dataset.
    """
    if isinstance(data, Tensor):
        return [data.split(batch_size)]
    if isinstance(data, tuple) and [getattr(entry, "ndim", 0) for entry in data[1:]] == [1]:
        images, labels = data
        return [list(zip(images.split(batch_size), labels.split(batch_size), strict=True))]
    if isinstance(data, tuple):
        if len(data) != models:
            raise ValueError(
                f"data is a tuple of {len(data)}: expected one loader for each of the "
                f"{models} models, or one loader for all"
            )
        if all(entry is data[0] for entry in data):  # one stream: then it may shuffle
            return sources_of(data[0], 1, batch_size)
        sources = []
        for entry in data:
            sources += sources_of(entry, 1, batch_size)
        return sources
    if not isinstance(data, Iterable) or isinstance(data, (str, dict)):
        raise TypeError(
            "data must be a tensor [N, ...], a DataLoader, an iterable of batches or a "
            f"tuple with one of these per model, got {type(data).__name__}"
        )
    return [data]


def unpack(batch: Any, index: int) -> tuple[Tensor, Tensor | None]:
    """Split a batch X or (X, labels [n], ...) into images and labels (or None).

    Raises:
        TypeError: X is no tensor, or of uint8.
        ValueError: X holds NaN or infinite values.
    """
    x, labels = batch, None
    if isinstance(batch, (tuple, list)) and batch:
        x = batch[0]
        if len(batch) > 1 and getattr(batch[1], "ndim", 0) == 1:
            labels = batch[1]
    if not isinstance(x, Tensor):
        raise TypeError(
            f"batch {index}: expected a tensor or (tensor, ...), got {type(x).__name__}"
        )
    if x.dtype == torch.uint8:
        raise TypeError(
            f"batch {index}: images are uint8; give them as float, normalised as the "
            "models were trained"
        )
    invalid = ~x.isfinite()
    if invalid.any():
        sample = invalid.reshape(len(x), -1).any(1).nonzero()[0].item()
        raise ValueError(
            f"batch {index}: {int(invalid.sum())} values of the images are NaN or "
            f"infinite, first in sample {sample}"
        )
    return x, labels


def _merged(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Two batches as one; either may be empty."""
    if not a or not b:
        return a or b
    return [torch.cat(pair) for pair in zip(a, b, strict=True)]


class _CorrespondenceCheck:
    """Checks batch by batch that several streams show the same samples in the same order."""

    def __init__(self, sources: list[Iterable[Any]]) -> None:
        self.shuffled = any(
            isinstance(getattr(source, "sampler", None), RandomSampler) for source in sources
        )
        self.all_labelled = True  # until one batch is not
        self.all_identical = True  # the images
        self.classes: set[float] = set()
        self.hashes: set[int] = set()  # of the first stream's images

    @property
    def verdict(self) -> str:
        proofs = []
        if self.all_labelled and len(self.classes) > 1:  # labels that are all equal prove nothing
            proofs.append("labels")
        if self.all_identical:
            proofs.append("images")
        return "checked by " + " and ".join(proofs) if proofs else "unchecked"

    def __call__(
        self, batch: Sequence[Tensor], labels: Sequence[Tensor | None], index: int
    ) -> None:
        sizes = [len(images) for images in batch]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"batch {index}: the loaders give {sizes} samples; they must correspond one to one"
            )
        self._compare_labels(labels, index)
        if len(self.hashes) < MAX_HASHES:
            self._compare_images(batch, index)
        if self.shuffled and self.verdict == "unchecked":
            raise ValueError(
                "the loaders shuffle, and neither labels nor images show that they "
                "do it alike: use shuffle=False, or one loader for all models"
            )

    def _compare_labels(self, labels: Sequence[Tensor | None], index: int) -> None:
        given = [stream.cpu() for stream in labels if stream is not None]
        self.all_labelled &= len(given) == len(labels)
        if not self.all_labelled:
            return
        first = given[0]
        self.classes.update(first.tolist())
        different = max(int((stream != first).sum()) for stream in given)
        if different:
            raise ValueError(
                f"batch {index}: the loaders disagree on {different} of {len(first)} "
                "labels: are they shuffled differently?"
            )

    def _compare_images(self, batch: Sequence[Tensor], index: int) -> None:
        first, *others = [_hashes(images) for images in batch]
        self.hashes.update(first)
        for other in others:
            self.all_identical &= other == first
            for sample, (code, expected) in enumerate(zip(other, first, strict=True)):
                if code != expected and code in self.hashes:
                    raise ValueError(
                        f"batch {index}: sample {sample} of one loader stands "
                        "elsewhere in another: they are shuffled differently"
                    )


def _hashes(images: Tensor) -> list[int]:
    return [hash(image.tobytes()) for image in images.float().cpu().numpy()]
