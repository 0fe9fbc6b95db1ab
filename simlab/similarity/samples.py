"""What is compared on: batches of images, one stream for all models or one for each."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

MIN_BATCH = 4  # below that the unbiased HSIC does not exist
HASHED = 2**16  # samples whose images are remembered to notice a different shuffling


def sources_of(data: Any, models: int, batch_size: int) -> list[Iterable[Any]]:
    """One iterable of batches, or one for each model when `data` is a tuple of that length.

    A tensor is cut into batches; a tuple (images, labels [N]) is one labelled dataset.
    """
    if isinstance(data, Tensor):
        return [data.split(batch_size)]
    if isinstance(data, tuple) and [getattr(d, "ndim", 0) for d in data[1:]] == [1]:
        return [list(zip(*(d.split(batch_size) for d in data), strict=True))]
    if isinstance(data, tuple):
        if len(data) != models:
            raise ValueError(
                f"data is a tuple of {len(data)}: expected one loader for each of the "
                f"{models} models, or one loader for all"
            )
        if all(d is data[0] for d in data):  # the same loader twice is one stream: it may shuffle
            return sources_of(data[0], 1, batch_size)
        return [s for d in data for s in sources_of(d, 1, batch_size)]
    if not isinstance(data, Iterable) or isinstance(data, (str, dict)):
        raise TypeError(
            "data must be a tensor [N, ...], a DataLoader, an iterable of batches or a "
            f"tuple with one of these per model, got {type(data).__name__}"
        )
    return [data]


def unpack(batch: Any, index: int) -> tuple[Tensor, Tensor | None]:
    """X or (X, labels [n], ...) -> X, labels; errors for uint8 and for NaN or infinite values."""
    x, *rest = batch if isinstance(batch, (tuple, list)) and batch else [batch]
    if not isinstance(x, Tensor):
        raise TypeError(
            f"batch {index}: expected a tensor or (tensor, ...), got {type(x).__name__}"
        )
    if x.dtype == torch.uint8:
        raise TypeError(
            f"batch {index}: images are uint8; give them as float, normalised as the "
            "models were trained"
        )
    if (bad := ~x.isfinite()).any():
        first = bad.reshape(len(x), -1).any(1).nonzero()[0].item()
        raise ValueError(
            f"batch {index}: {int(bad.sum())} values of the images are NaN or "
            f"infinite, first in sample {first}"
        )
    return x, rest[0] if rest and getattr(rest[0], "ndim", 0) == 1 else None


class Samples:
    """Iterates over lists of tensors [n >= 4, ...], the same samples for each stream.

    Smaller batches are merged with a neighbour. ValueError for streams of different length or
    order (seen by labels, or by hashes of the images), for values that are not finite, and for
    fewer than four samples altogether.
    """

    def __init__(self, data: Any, models: int, batch_size: int) -> None:
        self.sources = sources_of(data, models, batch_size)
        self.seen: set[int] = set()  # hashes of the first stream's images
        self.alike = self.labelled = True  # until one batch is not
        self.classes: set[float] = set()

    @property
    def correspondence(self) -> str:
        """How it was checked that the streams show the same samples."""
        if len(self.sources) == 1:
            return "one stream"
        # Labels that are all alike prove nothing.
        proofs = ["labels"] * (self.labelled and len(self.classes) > 1) + ["images"] * self.alike
        return "checked by " + " and ".join(proofs) if proofs else "unchecked"

    def __iter__(self) -> Iterator[list[Tensor]]:
        ready, part = [], []  # a batch waits in `ready`: a small tail may have to join it
        for index, raw in enumerate(itertools.zip_longest(*self.sources)):
            if any(r is None for r in raw):
                raise ValueError(
                    f"one loader ends after {index} batches, the other goes on: their "
                    "samples must correspond"
                )
            batch, labels = zip(*(unpack(r, index) for r in raw), strict=True)
            if len(batch) > 1:
                self._check(batch, labels, index)
            part = merged(part, list(batch))
            if len(part[0]) >= MIN_BATCH:
                if ready:
                    yield ready
                ready, part = part, []
        ready = merged(ready, part)
        if (count := len(ready[0]) if ready else 0) < MIN_BATCH:
            raise ValueError(f"at least {MIN_BATCH} samples are needed, got {count}")
        yield ready

    def _check(self, batch: tuple[Tensor, ...], labels: tuple, index: int) -> None:
        sizes = [len(x) for x in batch]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"batch {index}: the loaders give {sizes} samples; they must correspond one to one"
            )
        self.labelled &= all(y is not None for y in labels)
        if self.labelled:
            self.classes.update(labels[0].tolist())
            if wrong := max(int((y.cpu() != labels[0].cpu()).sum()) for y in labels):
                raise ValueError(
                    f"batch {index}: the loaders disagree on {wrong} of {sizes[0]} "
                    "labels: are they shuffled differently?"
                )
        if len(self.seen) < HASHED:
            own, *others = ([hash(p.tobytes()) for p in x.float().cpu().numpy()] for x in batch)
            self.seen.update(own)
            self.alike &= all(codes == own for codes in others)
            for place, (a, *rest) in enumerate(zip(own, *others, strict=True)):
                if any(b != a and b in self.seen for b in rest):
                    raise ValueError(
                        f"batch {index}: sample {place} of one loader stands "
                        "elsewhere in another: they are shuffled differently"
                    )
        if self.correspondence == "unchecked" and any(
            isinstance(getattr(s, "sampler", None), RandomSampler) for s in self.sources
        ):
            raise ValueError(
                "the loaders shuffle, and neither labels nor images show that they "
                "do it alike: use shuffle=False, or one loader for all models"
            )


def merged(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Two batches as one; either may be empty."""
    return [torch.cat(pair) for pair in zip(a, b, strict=True)] if a and b else a or b
