"""What a model is called with: some samples, by position and by name."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..layers import like, map_tensors, nearest, tensors_in

Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class Batch:
    """n samples as models are called with them: model(*args) or model(**keywords).

    Attributes:
        args: given by position; a user's `forward` gets the first, the batch as it came.
        keywords: given by name, if there are no args.
        labels: by name; for a model that takes them by that name, and no other.
    """

    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        """All inputs [n, ...]."""
        return list(tensors_in([self.args, self.keywords]))

    @property
    def first(self) -> Tensor:
        """The first input [n, ...]."""
        return self.tensors[0]

    @property
    def call(self) -> str:
        """How a model is called, in words."""
        if len(self.args) == 1:
            return "model(batch)"
        given = [f"entry {index}" for index in range(len(self.args))]
        given += [f"{name}=" for name in self.keywords]
        return f"model({', '.join(given)})"

    @property
    def is_images(self) -> bool:
        """Whether there is one input alone, of the shape [n, C, H, W]."""
        alone = len(self.args) == 1 and not self.keywords and isinstance(self.args[0], Tensor)
        return alone and self.first.dim() == 4

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Some of the samples; with `forward`, what has another length than n is left as it is."""
        n = len(self)
        args, keywords, labels = _rows_of((self.args, self.keywords, self.labels), rows, n)
        return replace(self, args=args, keywords=keywords, labels=labels)

    def to(
        self,
        device: torch.device | str | None = None,
        memory_format: torch.memory_format = torch.preserve_format,
        copy: bool = False,
    ) -> Self:
        """On a device or in a layout; see `Tensor.to`."""
        return self._changed(lambda x: x.to(device, memory_format=memory_format, copy=copy))

    def inputs_of(self, model: nn.Module) -> Any:
        """What the model is called with, floating-point inputs in the type of its parameters.

        Returns:
            A tensor, a tuple of positional arguments, or a dict of keywords.

        Raises:
            TypeError: the model does not take a keyword.
        """
        dtype = floating_dtype(model)
        typed = self._changed(lambda x: x.to(dtype) if dtype and x.is_floating_point() else x)
        if len(typed.args) == 1:
            return typed.args[0]
        if typed.args:
            return typed.args
        keywords = dict(typed.keywords)
        for name in labels_taken(model, self.labels):
            keywords[name] = typed.labels[name]
        check_keywords(model, keywords)
        return keywords

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(
            self,
            args=map_tensors(self.args, change),
            keywords=map_tensors(self.keywords, change),
            labels=map_tensors(self.labels, change),
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one.

    Raises:
        ValueError: their samples have different shapes.
    """
    trees = [(batch.args, batch.keywords, batch.labels) for batch in batches]
    return Batch(*_joined(trees))


def _rows_of(tree: Any, rows: slice | Tensor, n: int) -> Any:
    """Some rows of all that has n of them."""
    if isinstance(tree, Tensor):
        return tree[rows] if tree.dim() and len(tree) == n else tree
    if isinstance(tree, Mapping):
        return like(tree, {name: _rows_of(value, rows, n) for name, value in tree.items()})
    if _is_by_sample(tree):
        indices = torch.arange(len(tree))[rows].tolist() if len(tree) == n else range(len(tree))
        return like(tree, [tree[row] for row in indices])
    if isinstance(tree, (tuple, list)):
        return like(tree, [_rows_of(value, rows, n) for value in tree])
    return tree


def _is_by_sample(tree: Any) -> bool:
    """Whether it is a list of words or numbers, one for each sample."""
    return isinstance(tree, list) and all(isinstance(item, (str, int, float)) for item in tree)


def _joined(trees: Sequence[Any]) -> Any:
    """Put trees of one structure together, sample after sample."""
    first = trees[0]
    if isinstance(first, Tensor):
        return _concatenated(trees)
    if isinstance(first, Mapping):
        return like(first, {name: _joined([tree[name] for tree in trees]) for name in first})
    if _is_by_sample(first):
        return [item for tree in trees for item in tree]
    if isinstance(first, (tuple, list)):
        return like(first, [_joined(values) for values in zip(*trees, strict=True)])
    return first


def _concatenated(tensors: Sequence[Tensor]) -> Tensor:
    shapes = dict.fromkeys(tuple(tensor.shape[1:]) for tensor in tensors)
    if len(shapes) > 1:
        raise ValueError(
            f"samples of the shapes {' and '.join(map(str, shapes))} can't be put into one batch"
        )
    return torch.cat(list(tensors)) if tensors[0].dim() else tensors[0]


# ----------------------------------------------------------------------------------- one model


def floating_dtype(model: nn.Module) -> torch.dtype | None:
    """The floating-point type of the parameters; None where they have none or several."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


def labels_taken(model: nn.Module, labels: Iterable[str]) -> list[str]:
    """Those names of labels that the model's `forward` takes."""
    names, _ = _parameters(model)
    return [name for name in labels if name in names]


def check_keywords(model: nn.Module, keywords: Mapping[str, Any]) -> None:
    """Refuse inputs that the model does not take, before it is called.

    Raises:
        TypeError: with the nearest name that it takes.
    """
    names, takes_any = _parameters(model)
    unknown = [] if takes_any else [name for name in keywords if name not in names]
    if unknown:
        raise TypeError(
            f"it takes {', '.join(names) or 'nothing'}, and no {unknown[0]!r}"
            f"{nearest(unknown[0], names)}; inputs=[...] says which entries of a batch are given, "
            f"inputs={{{names[0] if names else 'x'!r}: {unknown[0]!r}}} under which name"
        )


def _parameters(model: nn.Module) -> tuple[list[str], bool]:
    """Names that `forward` takes, and whether it takes any other as well (or does not tell)."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return [], True
    kinds = {parameter.kind for parameter in parameters}
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind not in several]
    return names, inspect.Parameter.VAR_KEYWORD in kinds
