"""What is compared on: batches of samples, one stream for all models or one for each."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .correspondence import OrderCheck
from .inputs import Batch, joined
from .reader import Reader, Reading, as_tensor, is_number, refuse_sparse

Data = Tensor | np.ndarray | Mapping[str, Any] | Iterable[Any]
MIN_BATCH = 4  # samples: below that the unbiased HSIC does not exist


class Batches:
    """Iterates over lists of `Batch` with n >= 4, one for each stream, of the same samples.

    Smaller batches are merged with a neighbour.

    Attributes:
        sources: the streams, each an iterable of batches.
        readers: of each stream.
    """

    def __init__(
        self,
        data: Data,
        models: int,
        batch_size: int,
        how: Reading | None = None,
        numbers: Tensor | None = None,
    ) -> None:
        """Take data as `compare` does, for that many models.

        Args:
            data: see `compare`.
            models: their number.
            batch_size: where tensors are cut.
            how: they are read.
            numbers: [N], by which stored features know the data's samples: they are one stream
                more, at the end. Samples of the number -1 are left out.

        Raises:
            TypeError: `data` holds no batches.
            ValueError: a tuple has not one entry for each model.
        """
        self.sources = sources_of(data, models, batch_size)
        how = how or Reading()
        self.readers = [Reader(how) for _ in self.sources]
        self.check_order = how.check_order and len(self.sources) > 1
        self.numbers = numbers
        self._check = OrderCheck(self.sources)

    @property
    def correspondence(self) -> str:
        """How it was checked that the streams show the same samples."""
        if len(self.sources) == 1:
            return "one stream"
        return self._check.verdict if self.check_order else "not checked: check_order=False"

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield batches.

        Raises:
            ValueError: streams of different length or order (seen by labels, or by hashes of the
                images), values that are not finite, fewer than four samples altogether.
            TypeError: a batch holds no float images.
        """
        ready: list[Batch] = []  # waits, since a small last batch may have to join it
        small: list[Batch] = []
        for index, batch in enumerate(self._read()):
            small = _merged(small, batch, index)
            if len(small[0]) >= MIN_BATCH:
                if ready:
                    yield ready
                ready = small
                small = []
        ready = _merged(ready, small, -1)
        _check_count(len(ready[0]) if ready else 0)
        yield ready

    def first(self, count: int) -> list[list[Batch]]:
        """The first `count` samples (all, if there are fewer), in batches as they come."""
        batches: list[list[Batch]] = []
        total = 0
        for batch in self._read(count):
            left = count - total
            total += len(batch[0])
            if left < len(batch[0]):
                batch = [samples[:left] for samples in batch]
            batches.append(batch)
        _check_count(total)
        return batches

    def _read(self, count: int | None = None) -> Iterator[list[Batch]]:
        """Read and check one batch of each stream after another, up to `count` samples."""
        total = 0
        seen = 0
        for index, items in enumerate(itertools.zip_longest(*self.sources)):
            if any(item is None for item in items):
                raise ValueError(
                    f"one loader ends after {index} batches, the other goes on: their "
                    "samples must correspond"
                )
            batch = []
            labels = []
            for reader, item in zip(self.readers, items, strict=True):
                samples, its_labels = reader.read(item, index)
                batch.append(samples)
                labels.append(its_labels)
            self._check_correspondence(batch, labels, index)
            seen += len(batch[0])
            if self.numbers is not None:
                batch = self._numbered(batch, seen)
            if len(batch[0]):
                yield batch
            total += len(batch[0])
            if count is not None and total >= count:
                break
        else:
            if self.numbers is not None and seen < len(self.numbers):
                raise ValueError(f"ids: {len(self.numbers)} for {seen} samples of the data")
        if self.check_order:
            self._check.finish()

    def _numbered(self, batch: list[Batch], stop: int) -> list[Batch]:
        """Leave out samples that have no stored features, and add the numbers of the others."""
        assert self.numbers is not None
        if stop > len(self.numbers):
            raise ValueError(f"ids: {len(self.numbers)} for {stop} samples of the data or more")
        numbers = self.numbers[stop - len(batch[0]) : stop]
        has_features = numbers >= 0
        if not has_features.all():
            batch = [samples[has_features] for samples in batch]
        return [*batch, Batch((numbers[has_features],))]

    def _check_correspondence(
        self, batch: Sequence[Batch], labels: Sequence[Tensor | None], index: int
    ) -> None:
        sizes = [len(samples) for samples in batch]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"batch {index}: the loaders give {sizes} samples; they must correspond one to one"
            )
        if self.check_order:
            self._check.add([samples.first for samples in batch], labels, index)


def regrouped(batches: list[list[Batch]], batch_size: int) -> list[list[Batch]]:
    """Cut batches anew to one size; they stay as they are where their samples differ in shape."""
    shapes = set()
    for batch in batches:
        shapes.add(tuple(x.shape[1:] for samples in batch for x in samples.tensors))
    if len(shapes) > 1:
        return batches
    streams = [joined(stream) for stream in zip(*batches, strict=True)]
    starts = range(0, len(streams[0]), batch_size)
    return [[stream[start : start + batch_size] for stream in streams] for start in starts]


def sources_of(data: Data, models: int, batch_size: int) -> list[Iterable[Any]]:
    """Make one iterable of batches, or one for each model if `data` is a tuple of that length.

    A tensor, array or table is cut into batches, and so is a mapping of these; a tuple (images,
    labels [N]) is one labelled dataset. What has `normalized_batches(batch_size)`, as simlab's
    datasets have, gives them itself.
    """
    if hasattr(data, "normalized_batches"):
        return [data.normalized_batches(batch_size)]
    data = as_tensor(data)
    refuse_sparse(data)
    if isinstance(data, Tensor):
        return [data.split(batch_size)]
    if isinstance(data, Mapping):
        return [_cut(data, batch_size)]
    if isinstance(data, tuple) and [getattr(entry, "ndim", 0) for entry in data[1:]] == [1]:
        images, labels = map(as_tensor, data)
        return [list(zip(images.split(batch_size), labels.split(batch_size), strict=True))]
    if isinstance(data, tuple):
        if len(data) != models:
            raise ValueError(
                f"data is a tuple of {len(data)}: expected one loader for each of the "
                f"{models} models, or one loader for all; the inputs of one model are given as "
                "TensorDataset(*tensors) and inputs=[0, 1], or as {name: tensor}"
            )
        return _sources_of_each(data, batch_size)
    if isinstance(data, Dataset) or (isinstance(data, list) and _is_sample(data[:1])):
        dataset: Any = data  # a list has all that a loader asks of a dataset
        return [DataLoader(dataset, batch_size)]
    if not isinstance(data, Iterable) or isinstance(data, str):
        raise TypeError(
            "data must be a tensor or array [N, ...], a DataLoader, a Dataset, an iterable of "
            f"batches or a tuple with one of these per model, got {type(data).__name__}"
        )
    return [data]


def _sources_of_each(data: tuple[Any, ...], batch_size: int) -> list[Iterable[Any]]:
    """One iterable for each entry; a single one if all are the same, which may then shuffle."""
    if all(entry is data[0] for entry in data):
        return sources_of(data[0], 1, batch_size)
    sources = []
    for entry in data:
        sources += sources_of(entry, 1, batch_size)
    return sources


def _cut(data: Mapping[str, Any], batch_size: int) -> list[dict[str, Any]]:
    """Cut {name: tensor [N, ...]} into batches.

    Raises:
        TypeError: a value is no tensor, array or table.
        ValueError: they have different lengths.
    """
    tensors = {name: as_tensor(value) for name, value in data.items()}
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or not value.dim():
            raise TypeError(f"data[{name!r}]: expected a tensor, got {type(value).__name__}")
    lengths = {name: len(value) for name, value in tensors.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"data: expected tensors of the same number of samples, got {lengths}")
    pieces = zip(*(value.split(batch_size) for value in tensors.values()), strict=True)
    return [dict(zip(tensors, piece, strict=True)) for piece in pieces]


def _is_sample(start: list[Any]) -> bool:
    """Whether a list begins with one sample of a dataset, which has a label that is one number."""
    if not start or not isinstance(start[0], (tuple, list, Mapping)):
        return False
    entries = start[0].values() if isinstance(start[0], Mapping) else start[0]
    return any(is_number(entry) for entry in entries)


def _merged(a: list[Batch], b: list[Batch], index: int) -> list[Batch]:
    """Two batches as one; either may be empty."""
    if not a or not b:
        return a or b
    try:
        return [joined(pair) for pair in zip(a, b, strict=True)]
    except ValueError as error:
        name = "the last batch" if index < 0 else f"batch {index}"
        raise ValueError(
            f"{name} can't join the one before it, and one of them has fewer than {MIN_BATCH} "
            f"samples: {error}. Give larger batches (drop_last=True), samples of one shape, or "
            'samples=N with pool="mean", which takes batches as they come'
        ) from None


def _check_count(count: int) -> None:
    if count < MIN_BATCH:
        raise ValueError(f"at least {MIN_BATCH} samples are needed, got {count}")
