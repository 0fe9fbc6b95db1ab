"""What a loader's batch holds: the inputs of the models, told apart from labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import like, nearest, tensors_in
from .inputs import Batch, Forward, labels_taken

Key = int | str  # of an entry in a batch: its index in a tuple, its name in a mapping
Wanted = Key | Sequence[Key] | Mapping[str, Key]
LABELS = ("label", "labels", "label_ids", "target", "targets", "y")  # of mappings


@dataclass(frozen=True)
class Reading:
    """How batches are read: the arguments of `compare` with these names.

    Raises:
        ValueError: both inputs and forward are given.
    """

    inputs: Wanted | None = None
    forward: Forward | None = None
    check_order: bool = True

    def __post_init__(self) -> None:
        if self.inputs is not None and self.forward is not None:
            raise ValueError("inputs and forward exclude each other: forward gets the whole batch")


class Reader:
    """Reads the batches of a loader.

    Attributes:
        words: how the models are called, and what of a batch they do not see.
        dtype: of the first batch's first input.
        label_names: of a mapping.
    """

    def __init__(self, how: Reading) -> None:
        self.how = how
        self.words = ""
        self.dtype: torch.dtype | None = None
        self.label_names: list[str] = []

    def read(self, raw: Any, index: int) -> tuple[Batch, Tensor | None]:
        """Split a batch into what the models see and its labels [n], or None.

        Args:
            raw: a tensor or array [n, ...], a tuple of several, or a mapping; with `forward`
                anything that holds a tensor.
            index: of the batch, for messages.

        Raises:
            TypeError: it holds no inputs, or images of uint8.
            ValueError: it is one sample; what is an input is not clear; NaN or infinite values.
        """
        where = f"batch {index}"
        if self.how.forward is not None:
            batch = Batch((_with_tensors(raw),))
            labels = None
            words = "forward(model, batch)"
            if next(tensors_in(batch.args), None) is None:
                raise TypeError(f"{where}: it holds no tensor that tells the number of samples")
        else:
            entries = _entries_of(raw, where)
            by_name = isinstance(raw, Mapping)
            batch, words = _inputs_of(entries, by_name, where, self.how.inputs)
            labels = _labels_among(entries, batch)
            _check_values(batch, where)
        if not self.words:
            self.words = words
            self.dtype = batch.first.dtype
            self.label_names = list(batch.labels)
        return batch, labels

    def labels_of(self, model: nn.Module) -> list[str]:
        """Names of the labels that the model takes."""
        return labels_taken(model, self.label_names)


def _inputs_of(
    entries: Mapping[Key, Any], by_name: bool, where: str, wanted: Wanted | None
) -> tuple[Batch, str]:
    """What of a batch's entries is given to the models, and that in words."""
    names: dict[Key, Any]  # what is given: by position under a number, or by name
    if wanted is None:
        keys = _inputs_by_rule(entries, by_name, where)
        names = {key: entries[key] for key in entries if key in keys}
    elif isinstance(wanted, Mapping):
        keys = set(wanted.values())
        names = {name: _entry(entries, key, where) for name, key in wanted.items()}
    else:
        listed = [wanted] if isinstance(wanted, (int, str)) else list(wanted)
        keys = set(listed)
        names = {key: _entry(entries, key, where) for key in listed}
    keywords = {name: x for name, x in names.items() if isinstance(name, str)}
    args = tuple(x for name, x in names.items() if not isinstance(name, str))
    if len(args) == 1 and isinstance(args[0], Mapping):  # (mapping, labels)
        batch, words = _inputs_of(_entries_of(args[0], where), True, where, None)
        return batch, words + _left_out_in_words(entries, keys, wanted)
    for name, x in names.items():
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{where}: expected a tensor or (tensor, ...), got {type(x).__name__} as "
                f"{name!r}; inputs= says which entries are given to the models"
            )
    sizes = {name: len(x) for name, x in names.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"{where}: its inputs have different numbers of samples: {sizes}")
    labels = {}
    for key, entry in entries.items():
        if wanted is None and key in LABELS and isinstance(entry, Tensor):
            labels[key] = entry
    return Batch(args, keywords, labels), _in_words(
        names, _left_out_in_words(entries, keys, wanted)
    )


def _in_words(names: Mapping[Key, Any], left_out: str) -> str:
    """How the models are called, and what of a batch they do not see."""
    if not left_out and list(names) == [0]:
        return "model(batch)"
    given = []
    for name in names:
        given.append(f"{name}=" if isinstance(name, str) else f"entry {name}")
    return f"model({', '.join(given)}){left_out}"


def _left_out_in_words(entries: Mapping[Key, Any], keys: set[Key], wanted: Wanted | None) -> str:
    """What of a batch the models do not see, and why: `wanted` may leave out a mask as well."""
    words = ""
    for key, entry in entries.items():
        if key in keys:
            continue
        kind = "not an input"
        if key in LABELS or (wanted is None and isinstance(entry, Tensor)):
            kind = "labels"
        elif wanted is not None:
            kind = "by inputs="
        words += f"; {f'entry {key}' if isinstance(key, int) else key} left out ({kind})"
    return words


def _entry(entries: Mapping[Key, Any], key: Key, where: str) -> Any:
    if key in entries:
        return entries[key]
    names = [name for name in entries if isinstance(name, str)]
    raise ValueError(
        f"{where}: inputs={key!r} is none of its entries{nearest(key, names)}; "
        f"expected some of: {', '.join(map(repr, entries))}"
    )


def _entries_of(raw: Any, where: str) -> dict[Key, Any]:
    """The entries of a batch by index or name, arrays as tensors."""
    entries: dict[Key, Any]
    if isinstance(raw, Mapping):
        entries = {str(name): as_tensor(value) for name, value in raw.items()}
    elif isinstance(raw, (tuple, list)):
        entries = {index: as_tensor(value) for index, value in enumerate(raw)}
    else:
        entries = {0: as_tensor(raw)}
    if not entries:
        raise TypeError(f"{where}: it is empty")
    for key, entry in entries.items():
        if is_number(entry):
            raise ValueError(
                f"{where}: entry {key!r} is a single number: this looks like one sample of a "
                "dataset and not like a batch; give DataLoader(dataset, batch_size=128)"
            )
    return entries


def _inputs_by_rule(entries: Mapping[Key, Any], by_name: bool, where: str) -> set[Key]:
    """Keys of the inputs where `inputs` does not say: all but labels, which must be clear.

    Raises:
        ValueError: an entry of a tuple may be an input as well as a label.
    """
    if by_name:
        return {key for key in entries if key not in LABELS}
    x = entries[0]
    for key, entry in entries.items():
        if key == 0 or not isinstance(entry, Tensor) or not isinstance(x, Tensor):
            continue
        same_shape = entry.dim() > 1 and entry.shape == x.shape
        of_tokens = entry.dim() > 1 and not x.is_floating_point()
        if entry.is_floating_point() or same_shape or of_tokens:
            raise ValueError(
                f"{where}: entry {key} {list(entry.shape)} of {entry.dtype} may be a second "
                f"input (a mask, a time) or a label: inputs=[0, {key}] gives it to the models, "
                "inputs=0 leaves it out"
            )
    return {0}


def _labels_among(entries: Mapping[Key, Any], batch: Batch) -> Tensor | None:
    """The first entry [n] that is no input."""
    given = {id(x) for x in tensors_in([batch.args, batch.keywords])}
    for entry in entries.values():
        if isinstance(entry, Tensor) and entry.dim() == 1 and id(entry) not in given:
            return entry
    return None


def _check_values(batch: Batch, where: str) -> None:
    x = batch.first
    if x.dtype == torch.uint8:
        raise TypeError(
            f"{where}: images are uint8; give them as float, normalised as the models were trained"
        )
    invalid = ~x.isfinite()
    if invalid.any():
        sample = invalid.reshape(len(x), -1).any(1).nonzero()[0].item()
        raise ValueError(
            f"{where}: {int(invalid.sum())} values of the images are NaN or infinite, first in "
            f"sample {sample}"
        )


# ------------------------------------------------------------------------------------- arrays


def as_tensor(value: Any) -> Any:
    """A NumPy array or table as a tensor; anything else as it is.

    Raises:
        TypeError: it does not hold numbers.
    """
    if hasattr(value, "to_numpy") and not isinstance(value, Tensor):  # pandas
        value = value.to_numpy()
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind not in "biufc":
        raise TypeError(f"expected numbers, got an array of {value.dtype}")
    return torch.from_numpy(np.require(value, requirements=["C", "W"]))


def refuse_sparse(value: Any) -> None:
    """Raise TypeError for a sparse tensor, whose samples cannot be taken apart."""
    if isinstance(value, Tensor) and value.layout != torch.strided:
        raise TypeError("expected a dense tensor, got a sparse one: give tensor.to_dense()")


def is_number(value: Any) -> bool:
    """Whether it is one number, as the label of one sample is."""
    if isinstance(value, Tensor):
        return value.dim() == 0
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _with_tensors(tree: Any) -> Any:
    """A batch with arrays as tensors; other containers than tuple, list and mapping as they are."""
    if isinstance(tree, Mapping):
        return like(tree, {name: _with_tensors(value) for name, value in tree.items()})
    if isinstance(tree, (tuple, list)):
        return like(tree, [_with_tensors(value) for value in tree])
    return as_tensor(tree)
