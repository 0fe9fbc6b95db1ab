"""Who is compared, models and stored features, and the streams of samples that they see."""

import os
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import unwrap
from .batches import Batches, Data
from .features import (
    ONE_LAYER,
    Features,
    FeatureTable,
    Ids,
    Match,
    ids_of_entries,
    is_features,
    match,
    read_features,
)
from .inputs import floating_dtype
from .plan import Confounder
from .reader import Reader, Reading, as_tensor

Entry = nn.Module | Tensor | np.ndarray | Mapping[str, Any] | str | os.PathLike[str]
Models = Entry | Iterable[Entry] | Mapping[str, Entry]
DATA = "the data"  # beside the names of stored features
BATCH_SIZE = 128


@dataclass(frozen=True)
class Entries:
    """What is compared, and on what.

    Attributes:
        models: {name: model}, stored features as a `FeatureTable`.
        streams: {name: index of the stream that it sees}.
        batches: the samples.
        match: of the stored features' samples; None where there are none.
        data_rows: numbers of the data's samples that are in common with the features; None for all.
        samples: their number where all are known, that is without models.
    """

    models: dict[str, nn.Module]
    streams: dict[str, int]
    batches: Batches
    match: Match | None = None
    data_rows: Tensor | None = None
    samples: int | None = None

    @property
    def correspondence(self) -> str:
        """How it is known that all see the same samples."""
        if self.match is None:
            return self.batches.correspondence
        if self.samples is not None or len(self.batches.sources) == 1:
            return self.match.words
        return f"{self.match.words}; loaders {self.batches.correspondence}"

    @property
    def inputs(self) -> str:
        """How the models were called, in words, and what was done for some of them."""
        if self.samples is not None:
            return "stored features"
        words = list(dict.fromkeys(reader.words for reader in self.batches.readers))
        for name, model in self.models.items():
            if not isinstance(model, FeatureTable):
                words += done_for(name, model, self.batches.readers[self.streams[name]])
        return "; ".join(words)


def entries_of(
    models: Models,
    data: Data | None,
    batch_size: int | None,
    how: Reading,
    ids: Ids | Mapping[str, Ids] | None,
) -> Entries:
    """Name what is compared and match the samples; see `compare`.

    Raises:
        TypeError: something is neither a model nor features; data is missing.
        ValueError: the samples cannot be matched; an argument has nothing to act on.
    """
    named = named_entries(models)
    modules: dict[str, nn.Module] = {}
    features: dict[str, Features] = {}
    for name, entry in named.items():
        if isinstance(entry, nn.Module):
            modules[name] = entry
        else:
            features[name] = read_features(entry, name)
    if modules and data is None:
        raise TypeError(f"data is missing: {', '.join(modules)} needs samples to run on")
    if ids is not None and not features:
        raise ValueError("ids: there are no stored features to match samples with")
    ids_of = ids_of_entries(ids, list(named))
    for name, table in features.items():
        if name in ids_of and (table.ids is None or isinstance(ids, Mapping)):
            features[name] = table.with_ids(ids_of[name], name)
    if not modules:
        if data is not None or how.inputs is not None or how.forward is not None:
            raise ValueError("data, inputs, forward: all features are stored, no model runs")
        return _of_features(features, batch_size)
    assert data is not None
    size = batch_size or BATCH_SIZE
    if not features:
        batches = Batches(data, len(modules), size, how)
        return Entries(modules, _own_streams(modules, batches), batches)
    data_ids = _ids_of_data(ids_of, modules)
    matched = _match(features, {DATA: data_ids})
    batches = Batches(data, len(modules), size, how, _numbers(matched, len(data_ids)))
    streams = _own_streams(modules, batches) | dict.fromkeys(features, len(batches.sources))
    everyone = modules | _tables(features, matched)
    in_order = {name: everyone[name] for name in named}
    return Entries(in_order, streams, batches, matched, matched.orders[DATA])


def _of_features(features: dict[str, Features], batch_size: int | None) -> Entries:
    matched = _match(features, {})
    tables = _tables(features, matched)
    count = len(next(iter(matched.orders.values())))
    batches = Batches(torch.arange(count), 1, batch_size or count)
    return Entries(tables, dict.fromkeys(tables, 0), batches, matched, samples=count)


def _ids_of_data(ids_of: Mapping[str, list[Hashable]], modules: Iterable[str]) -> list[Hashable]:
    """The ids of the samples that the models see.

    Raises:
        ValueError: there are none, or several.
    """
    given = [ids_of[name] for name in modules if name in ids_of]
    if not given or any(other != given[0] for other in given):
        raise ValueError(
            "ids: features were stored and a model runs: give the ids of the data's samples, in "
            f"their order: ids={{{next(iter(modules))!r}: [...]}} or, where they are those of the "
            "features as well, ids=[...]"
        )
    return given[0]


def _numbers(matched: Match, count: int) -> Tensor:
    """By which tables know the data's samples [N]; -1 for those that they have not."""
    numbers = torch.full([count], -1)
    rows = matched.orders[DATA]
    numbers[rows] = torch.arange(len(rows))
    return numbers


def _match(features: Mapping[str, Features], data: Mapping[str, list[Hashable]]) -> Match:
    """Match the samples of stored features, and of the data in front of them."""
    ids: dict[str, list[Hashable] | None] = dict(data)
    sizes = {name: len(its) for name, its in data.items()}
    for name, table in features.items():
        ids[name] = table.ids
        sizes[name] = len(table)
    return match(sizes, ids)


def _tables(features: Mapping[str, Features], matched: Match) -> dict[str, nn.Module]:
    return {name: FeatureTable(table, matched.orders[name]) for name, table in features.items()}


def _own_streams(modules: Iterable[str], batches: Batches) -> dict[str, int]:
    """The stream of each model: one for all, or each its own."""
    last = len(batches.sources) - 1
    return {name: min(number, last) for number, name in enumerate(modules)}


def named_entries(models: Models) -> dict[str, Any]:
    """Name models and features: {name: one of them} of one, of several or of a mapping.

    Those without a name have their class's, a file's stem or "features".

    Raises:
        TypeError: something is neither, or nothing is given.
    """
    entries: dict[str, Any] = {}
    if isinstance(models, Mapping):
        entries = {str(name): entry for name, entry in models.items()}
    else:
        one = isinstance(models, nn.Module) or _is_one_table(models)
        several: Any = [models] if one else models
        for entry in several:
            kind = name = _name_of(entry)
            number = 1
            while name in entries:
                number += 1
                name = f"{kind} {number}"
            entries[name] = entry
    for name, entry in entries.items():
        if isinstance(entry, str) and Path(entry).suffix != ".npz":
            raise TypeError(f"{name!r}: {entry!r} is no model, and no path of an .npz file")
        if not isinstance(entry, nn.Module) and not is_features(entry):
            raise TypeError(
                f"{name!r}: expected an nn.Module or stored features, got {type(entry).__name__}"
            )
    if not entries:
        raise TypeError("models: none given")
    return entries


def _is_one_table(value: Any) -> bool:
    return is_features(value) and not isinstance(value, (list, tuple, Mapping))


def _name_of(entry: Any) -> str:
    if isinstance(entry, nn.Module):
        return type(unwrap(entry)).__name__
    if isinstance(entry, (str, os.PathLike)):
        return Path(entry).stem
    return ONE_LAYER


def done_for(name: str, model: nn.Module, reader: Reader) -> list[str]:
    """What is done for one model alone, in words: another type of number, labels given to it."""
    words = []
    dtype = floating_dtype(model)
    if dtype and reader.dtype and reader.dtype.is_floating_point and dtype != reader.dtype:
        words.append(f"{_short(reader.dtype)} converted to {_short(dtype)} for {name}")
    taken = reader.labels_of(model)
    if taken:
        words.append(f"{name} takes {', '.join(taken)}")
    return words


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def aligned_confounder(confounder: Any, entries: Entries) -> Confounder | None:
    """Bring a confounder into the order of the samples that are compared.

    Args:
        confounder: f(images), a tensor, array or table [N, ...], or None for the images.
        entries: what is compared; of stored features a table's index may hold ids, otherwise its
            rows are in the order of the first one's.

    Raises:
        ValueError: it has not one row for each sample; stored features have no images.
    """
    if entries.samples is None:
        given: Confounder | None = as_tensor(confounder)
        if isinstance(given, Tensor) and entries.data_rows is not None:
            return given[entries.data_rows]
        return given
    if confounder is None or (callable(confounder) and not isinstance(confounder, Tensor)):
        raise ValueError(
            "confounder: stored features come without images; give a tensor, array or table "
            "[N, ...] of what is regressed out"
        )
    table = read_features(confounder, "confounder")
    if len(table.layers) != 1:
        raise ValueError(f"confounder: expected one table, got {', '.join(table.layers)}")
    (values,) = table.layers.values()
    assert entries.match is not None
    first = next(iter(entries.models.values()))
    assert isinstance(first, FeatureTable)
    if table.ids is not None and entries.match.ids is not None:
        rows_of = {one: row for row, one in enumerate(table.ids)}
        missing = [one for one in entries.match.ids if one not in rows_of]
        if missing:
            raise ValueError(f"confounder: no row for {len(missing)} samples, as {missing[0]!r}")
        return values[[rows_of[one] for one in entries.match.ids]]
    if len(table) != len(first.features):
        raise ValueError(f"confounder: {len(table)} rows for {len(first.features)} samples")
    return values[first.order]
