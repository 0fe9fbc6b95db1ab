"""What is compared on: batches of pictures, one stream for all models or one for each."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

MIN_BATCH = 4  # below that the unbiased HSIC does not exist
HASHED = 2**16  # samples whose pictures are remembered to notice a different shuffling
END = object()


def sources_of(data: Any, models: int, batch_size: int) -> list[Iterable[Any]]:
    """One iterable of batches, or one for each model when `data` is a tuple of that length.

    A tensor is cut into batches; a tuple (pictures, labels [N]) is one labelled data set.
    """
    if isinstance(data, list) and data and all(hasattr(d, "batch_sampler") for d in data):
        data = tuple(data)  # of loaders
    if isinstance(data, tuple):
        if len(data) == 2 and all(isinstance(d, Tensor) for d in data) and data[1].dim() == 1:
            if len(data[0]) != len(data[1]):
                raise ValueError(f"{len(data[0])} pictures, {len(data[1])} labels")
            return [list(zip(*(d.split(batch_size) for d in data), strict=True))]
        if len(data) != models:
            raise ValueError(f"data is a tuple of {len(data)}: expected one loader for each of the "
                             f"{models} models, or one loader for all")
        if any(d is not data[0] for d in data):
            return [s for d in data for s in sources_of(d, 1, batch_size)]
        data = data[0]  # the same loader twice is one stream: it may shuffle
    if isinstance(data, Tensor):
        return [data.split(batch_size)]
    if not isinstance(data, Iterable) or isinstance(data, (str, dict)):
        raise TypeError("data must be a tensor [N, ...], a DataLoader, an iterable of batches or a "
                        f"tuple with one of these per model, got {type(data).__name__}")
    return [data]


def unpack(batch: Any, index: int) -> tuple[Tensor, Tensor | None]:
    """X or (X, labels [n], ...) -> X, labels; errors for uint8 and for NaN or infinite values."""
    labels = None
    if isinstance(batch, (tuple, list)) and batch:
        labels = batch[1] if len(batch) > 1 else None
        labels = labels if isinstance(labels, Tensor) and labels.dim() == 1 else None
        batch = batch[0]
    if not isinstance(batch, Tensor):
        raise TypeError(f"batch {index}: expected a tensor or (tensor, ...), got "
                        f"{type(batch).__name__}")
    if batch.dtype == torch.uint8:
        raise TypeError(f"batch {index}: pictures are uint8; give them as float, normalised as the "
                        "models were trained")
    bad = ~batch.isfinite()
    if bad.any():
        first = bad.flatten(1).any(1).nonzero()[0].item()
        raise ValueError(f"batch {index}: {int(bad.sum())} values of the pictures are NaN or "
                         f"infinite, first in sample {first}")
    return batch, labels


class Samples:
    """Iterates over lists of tensors [n >= 4, ...], the same samples for each stream.

    Smaller batches are merged with a neighbour. ValueError for streams of different length or
    order (seen by labels, or by hashes of the pictures), for values that are not finite, and for
    fewer than four samples altogether.
    """

    def __init__(self, data: Any, models: int, batch_size: int) -> None:
        self.sources = sources_of(data, models, batch_size)
        self.seen: list[set[int]] = [set() for _ in self.sources]
        self.count = 0
        self.proofs = {"labels", "pictures"}  # that the streams correspond, until one fails

    @property
    def correspondence(self) -> str:
        """How it was checked that the streams show the same samples."""
        if len(self.sources) == 1:
            return "one stream"
        return "checked by " + " and ".join(sorted(self.proofs)) if self.proofs else "unchecked"

    def __iter__(self) -> Iterator[list[Tensor]]:
        ready: list[Tensor] = []  # a batch waits here: a small tail may have to join it
        part: list[Tensor] = []
        for index, raw in enumerate(itertools.zip_longest(*self.sources, fillvalue=END)):
            if any(r is END for r in raw):
                raise ValueError(f"one loader ends after {index} batches, the other goes on: their "
                                 "samples must correspond")
            batch, labels = zip(*(unpack(r, index) for r in raw), strict=True)
            if len(batch) > 1:
                self._check(batch, labels, index)
            part = merged(part, list(batch))
            if len(part[0]) >= MIN_BATCH:
                if ready:
                    yield ready
                ready, part = part, []
        ready = merged(ready, part)
        if not ready or len(ready[0]) < MIN_BATCH:
            raise ValueError(f"at least {MIN_BATCH} samples are needed, got "
                             f"{len(ready[0]) if ready else 0}")
        yield ready

    def _check(self, batch: tuple[Tensor, ...], labels: tuple, index: int) -> None:
        sizes = [len(x) for x in batch]
        if len(set(sizes)) > 1:
            raise ValueError(f"batch {index}: the loaders give {sizes} samples; they must "
                             "correspond one to one")
        if any(y is None for y in labels):
            self.proofs.discard("labels")
        elif wrong := sum(int((y.cpu() != labels[0].cpu()).sum()) for y in labels[1:]):
            raise ValueError(f"batch {index}: the loaders disagree on {wrong} of {sizes[0]} "
                             "labels: are they shuffled differently?")
        elif len(labels[0].unique()) == 1:
            self.proofs.discard("labels")  # all alike: no evidence
        if self.count < HASHED:
            codes = [[hash(p.contiguous().numpy().tobytes()) for p in x.cpu()] for x in batch]
            for seen, own in zip(self.seen, codes, strict=True):
                seen.update(own)
            if any(own != codes[0] for own in codes):
                self.proofs.discard("pictures")
            for place, here in enumerate(zip(*codes, strict=True), self.count):
                # A picture of one stream that stands at another place in the others.
                if any(a != b and a in seen for a in here
                       for b, seen in zip(here, self.seen, strict=True)):
                    raise ValueError(f"batch {index}: sample {place} of one loader stands "
                                     "elsewhere in another: they are shuffled differently")
        self.count += sizes[0]
        if not self.proofs and any(isinstance(getattr(s, "sampler", None), RandomSampler)
                                   for s in self.sources):
            raise ValueError("the loaders shuffle, and neither labels nor pictures show that they "
                             "do it alike: use shuffle=False, or one loader for all models")


def merged(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Two batches as one; either may be empty."""
    return [torch.cat(pair) for pair in zip(a, b, strict=True)] if a and b else a or b
