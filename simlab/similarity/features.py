"""Stored features in the place of a model: arrays, tables, dicts of layers and .npz files."""

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import one_of
from .reader import as_tensor, refuse_sparse

Ids = Sequence[Hashable]
IDS = "ids"  # the entry of a dict or file that holds the samples' ids
ONE_LAYER = "features"  # the name of a layer that was given without one
MIN_COMMON = 4  # samples


@dataclass(frozen=True)
class Features:
    """The features of n samples in some layers.

    Attributes:
        layers: {name: [n, ...]}, in order.
        ids: of the samples, each another one; None where there are none.
    """

    layers: dict[str, Tensor]
    ids: list[Hashable] | None

    def __len__(self) -> int:
        return len(next(iter(self.layers.values())))

    def with_ids(self, ids: Ids, name: str) -> "Features":
        """The same, with ids for its samples.

        Raises:
            ValueError: there are more or fewer ids than samples, or one stands there twice.
        """
        listed = list_of_ids(ids, name)
        if len(listed) != len(self):
            raise ValueError(f"{name}: {len(listed)} ids for {len(self)} samples")
        return replace(self, ids=listed)


class Stored(nn.Module):
    """A layer whose output was stored: it gives what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        """Give x [n, ...] back."""
        return x


class FeatureTable(nn.Module):
    """Stored features as a model that is called with the samples' numbers.

    Attributes:
        features: what was stored.
        order: rows [N] of the samples.
    """

    def __init__(self, features: Features, order: Tensor) -> None:
        super().__init__()
        self.features = features
        self.order = order
        for name in features.layers:
            self._modules[name] = Stored()  # not by `add_module`: a name may hold dots

    def forward(self, numbers: Tensor) -> None:
        """Show the layers the features of the samples of these numbers [n]."""
        rows = self.order[numbers.cpu()]
        for name, layer in self.named_children():
            x = self.features.layers[name]
            layer(x[rows.to(x.device)])


def is_features(value: Any) -> bool:
    """Whether it may hold features: a tensor, array, table, mapping, list or path."""
    kinds = (Tensor, np.ndarray, Mapping, list, tuple, str, os.PathLike)
    return isinstance(value, kinds) or hasattr(value, "to_numpy")


# ---------------------------------------------------------------------------------------- reading


def read_features(value: Any, name: str) -> Features:
    """Read stored features.

    Args:
        value: a tensor or array [n, ...], a pandas table with the samples' ids as its index, a
            (nested) dict {layer: one of these}, a list of layers, or the path of an .npz file. An
            entry "ids" of a dict or file holds the samples' ids.
        name: of what is read, for messages.

    Returns:
        The features; nested names are joined by dots.

    Raises:
        TypeError: something is no numbers.
        ValueError: the layers have different numbers of samples, or there are none.
        OSError: a file cannot be read.
    """
    if isinstance(value, (str, os.PathLike)):
        value = read_npz(value)
    found_ids: list[tuple[str, list[Hashable]]] = []
    layers: dict[str, Tensor] = {}
    _collect(value, name, "", layers, found_ids)
    if not layers:
        raise ValueError(f"{name}: it holds no layers")
    lengths = {layer: len(x) for layer, x in layers.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{name}: its layers have different numbers of samples: {lengths}")
    features = Features(layers, None)
    for where, ids in found_ids:
        if ids != found_ids[0][1]:
            raise ValueError(f"{name}: {where} has other sample ids than {found_ids[0][0]}")
        features = features.with_ids(ids, name)
    return features


def read_npz(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the arrays of an .npz file; nothing in it can run code.

    Raises:
        ValueError: it is no .npz file, or holds Python objects.
        OSError: it is not there.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: expected the path of an .npz file")
    with np.load(path, allow_pickle=False) as file:
        arrays = {}
        for name in file.files:
            try:
                arrays[name] = file[name]
            except ValueError:
                raise ValueError(
                    f"{path}: {name!r} holds Python objects, which are not loaded since they can "
                    "run code; store arrays of numbers"
                ) from None
    return arrays


def _collect(
    value: Any,
    name: str,
    layer: str,
    layers: dict[str, Tensor],
    ids: list[tuple[str, list[Hashable]]],
) -> None:
    """Add the layers and ids that a value holds, under the layer's name so far."""
    if isinstance(value, (list, tuple)):
        value = {str(number): item for number, item in enumerate(value)}
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == IDS and not layer:
                ids.append((f"the entry {IDS!r}", list_of_ids(item, name)))
            else:
                _collect(item, name, f"{layer}.{key}" if layer else str(key), layers, ids)
        return
    index = getattr(value, "index", None)
    if hasattr(value, "to_numpy") and not _is_numbered(index):
        ids.append((f"layer {layer!r}" if layer else "its index", list_of_ids(index, name)))
    layers[layer or ONE_LAYER] = _numbers(value, f"{name}, layer {layer!r}" if layer else name)


def _numbers(value: Any, where: str) -> Tensor:
    """Features [n, ...] as a floating-point tensor."""
    try:
        x = as_tensor(value)
        refuse_sparse(x)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{where}: expected a tensor, array or table [samples, ...], a dict of these or the "
            f"path of an .npz file, got {type(value).__name__}"
        )
    if not x.dim() or x.is_complex():
        raise TypeError(f"{where}: expected real numbers [samples, ...], got {x.dtype} {x.shape}")
    x = x.detach()
    return x if x.is_floating_point() else x.double()


def _is_numbered(index: Any) -> bool:
    """Whether a table's index only numbers its rows, as it does where nobody has set one."""
    return type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1


def list_of_ids(ids: Any, name: str) -> list[Hashable]:
    """Sample ids as a list.

    Raises:
        ValueError: one of them stands there twice.
    """
    listed: list[Hashable] = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    seen = set()
    for one in listed:
        if one in seen:
            raise ValueError(f"{name}: the sample id {one!r} stands there twice")
        seen.add(one)
    return listed


# --------------------------------------------------------------------------------------- matching


@dataclass(frozen=True)
class Match:
    """Which rows of several tables are the same samples.

    Attributes:
        orders: {name: rows [N] of the N samples in common, in the order of the first}.
        ids: of these samples; None where there are none.
        words: how they were matched.
    """

    orders: dict[str, Tensor]
    ids: list[Hashable] | None
    words: str


def match(sizes: Mapping[str, int], ids: Mapping[str, list[Hashable] | None]) -> Match:
    """Match samples by their ids, or by their order where none has any.

    Args:
        sizes: {name: number of samples}.
        ids: {name: their ids, or None}.

    Raises:
        ValueError: some have ids and others not, the numbers differ without ids, or fewer than
            four samples are in common.
    """
    first = next(iter(sizes))
    without = [name for name in sizes if ids[name] is None]
    counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    if without and len(without) < len(sizes):
        raise ValueError(
            f"{', '.join(without)}: no sample ids, where others have some (rows numbered 0, 1, ... "
            f"are none); give them as ids={{{without[0]!r}: [...]}}"
        )
    if without:
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"different numbers of samples ({counts}) and no sample ids to match them by: "
                "ids={name: [...]}, an entry 'ids' in a dict or .npz file, or a table's index"
            )
        rows = torch.arange(sizes[first])
        return Match(dict.fromkeys(sizes, rows), None, "unchecked: rows in their order, no ids")
    rows_of = {}
    for name in sizes:
        rows_of[name] = {one: row for row, one in enumerate(ids[name] or [])}
    common = [one for one in rows_of[first] if all(one in rows for rows in rows_of.values())]
    if len(common) < MIN_COMMON:
        examples = ", ".join(f"{name} {next(iter(rows), None)!r}" for name, rows in rows_of.items())
        raise ValueError(
            f"{len(common)} sample ids in common, expected at least {MIN_COMMON}; the first ones "
            f"are {examples}"
        )
    orders = {}
    for name, row_of in rows_of.items():
        orders[name] = torch.tensor([row_of[one] for one in common])
    words = f"matched by ids: {len(common)} in common"
    if any(size != len(common) for size in sizes.values()):
        words += f" (of {counts})"
    return Match(orders, common, words)


def ids_of_entries(
    ids: Ids | Mapping[str, Ids] | None, names: Sequence[str]
) -> dict[str, list[Hashable]]:
    """The argument `ids` by the entries' names; one sequence is for all."""
    if ids is None:
        return {}
    if not isinstance(ids, Mapping):
        return dict.fromkeys(names, list_of_ids(ids, "ids"))
    for name in ids:
        one_of(name, names, "ids")
    return {name: list_of_ids(of_one, f"ids of {name}") for name, of_one in ids.items()}
