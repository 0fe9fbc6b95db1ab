"""Runs the models batch by batch and numbers the layers that are watched."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Layers, one_of, select_layers, tapped, unwrap
from .info import Layer

Models = nn.Module | Iterable[nn.Module] | Mapping[str, nn.Module]
Pool = str | Callable[[Tensor], Tensor]
Pick = Callable[[str, Any], Tensor]
Use = Callable[[int, Tensor], Any]


def named_models(models: Models) -> dict[str, nn.Module]:
    """Name models: {name: model} of one, of several (by their classes) or of a mapping.

    Raises:
        TypeError: something is no nn.Module, or nothing is given.
    """
    if isinstance(models, nn.Module):
        models = [models]
    named: dict[str, nn.Module] = {}
    if isinstance(models, Mapping):
        named = {str(name): model for name, model in models.items()}
    else:
        for model in models:
            kind = name = type(unwrap(model)).__name__
            number = 1
            while name in named:
                number += 1
                name = f"{kind} {number}"
            named[name] = model
    wrong = [name for name, model in named.items() if not isinstance(model, nn.Module)]
    if wrong or not named:
        raise TypeError(f"models must be nn.Modules: {', '.join(wrong) or 'none given'}")
    return named


def pooled(x: Tensor, pool: Pool) -> Tensor:
    """Pool an output over its positions or tokens.

    Args:
        x: [n, C, H, W], [n, tokens, D], [n, D] or [n].
        pool: "flatten": as it is; "mean": over the positions of a map (global average) or over
            tokens; "cls": the first token; or a function of the output.

    Returns:
        [n, ...], with at least two dimensions unless a function says otherwise.

    Raises:
        ValueError: an unknown name, or "cls" for a map.
    """
    if callable(pool):
        return pool(x.contiguous())  # it may use `view`
    one_of(pool, ("flatten", "mean", "cls"), "pool")
    if x.dim() == 1:
        return x[:, None]
    if pool == "flatten" or x.dim() == 2:
        return x
    if pool == "mean":
        return x.mean(1) if x.dim() == 3 else x.flatten(2).mean(2)
    if x.dim() > 3:
        raise ValueError(
            f'pool="cls" takes the first token of [n, tokens, D], got {tuple(x.shape)}; '
            'give each model its own: pool={"vit": "cls", "resnet": "mean"}'
        )
    return x[:, 0]


@dataclass
class Row:
    """A watched layer and its row in the arrays [T, T].

    Attributes:
        index: of the row, by first execution.
        type: the module's class.
        shape: of the output, without the batch.
        size: number of features after pooling.
    """

    index: int
    type: str
    shape: tuple[int, ...] = ()
    size: int = 0


@dataclass(frozen=True)
class WatchedModel:
    """A model, the stream of images that it sees, how it is pooled and its watched layers."""

    model: nn.Module
    stream: int
    pool: Pool
    names: list[str]


class Passes:
    """Forward passes of all models; each watched layer gets a row when it is first executed.

    A model that is given twice with the same images, pooling and layers runs once.

    Attributes:
        watched: the models that run.
        watched_as: {model's name: its index in `watched`}.
        rows: {(index in `watched`, layer): row}, in the order of the rows.
        notes: {(index in `watched`, layer): what went wrong with it}.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        layers: Layers | Mapping[str, Layers] | None,
        streams: int,
        pool: Pool | Mapping[str, Pool],
    ) -> None:
        self.watched: list[WatchedModel] = []
        self.watched_as: dict[str, int] = {}
        self.rows: dict[tuple[int, str], Row] = {}
        self.notes: dict[tuple[int, str], str] = {}
        self.batches = 0
        self._formats: list[torch.memory_format] | None = None
        self._forwards: list[Callable[..., None]] = []
        for number, (name, model) in enumerate(models.items()):
            watched = WatchedModel(
                unwrap(model),
                stream=min(number, streams - 1),
                pool=_of_model(pool, name, models, "pool"),
                names=list(select_layers(model, _of_model(layers, name, models, "layers"))),
            )
            if watched not in self.watched:
                self.watched.append(watched)
            self.watched_as[name] = self.watched.index(watched)
        for index, watched in enumerate(self.watched):
            for layer in watched.names:
                self.notes[index, layer] = "not called in the forward pass"

    @contextlib.contextmanager
    def attached(self, device: torch.device | str | None, pick: Pick | None) -> Iterator[None]:
        """Attach to all models inside the block; see `tapped`."""
        with contextlib.ExitStack() as stack:
            self._forwards.clear()
            for index, watched in enumerate(self.watched):
                sink = partial(self._watch, index)
                tap = tapped(watched.model, watched.names, sink, device=device, pick=pick)
                self._forwards.append(stack.enter_context(tap))
            if pick is not None:
                # What a user's function does with outputs is unknown: it gets them as they come.
                self._formats = [torch.preserve_format] * len(self.watched)
            yield

    def forward(self, batch: list[Tensor], use: Use) -> list[Any]:
        """Run one batch through all models.

        Args:
            batch: images [n, ...] of each stream.
            use: called with (row, output [n, ...]) while the output is as the module left it.

        Returns:
            What `use` returned, by row; None where there is no output.

        Raises:
            ValueError: none of the watched layers was called.
        """
        self._use = use
        self._batch_size = len(batch[0])
        self._results: dict[int, Any] = {}
        images = [in_type_of(w.model, batch[w.stream]) for w in self.watched]
        if self._formats is None:
            self._formats = []
            for watched, x, forward in zip(self.watched, images, self._forwards, strict=True):
                self._formats.append(quickest_format(watched.model, x, forward))
        for x, forward, memory_format in zip(images, self._forwards, self._formats, strict=True):
            forward(x.to(memory_format=memory_format))
        if not self.rows:
            raise ValueError("no selected layer was called in the forward pass")
        results = self._results
        self._results = {}  # nothing is held until the next batch
        for key, row in self.rows.items():
            if row.index not in results:
                self.notes.setdefault(key, f"not called in batch {self.batches}")
        self.batches += 1
        return [results.get(row.index) for row in self.rows.values()]

    def _watch(self, index: int, name: str, module: nn.Module, output: Tensor | None) -> None:
        """Number the layer and use its output; the sink of `tapped`."""
        key = index, name
        if key not in self.rows:
            if self.batches:
                self.notes[key] = f"left out: first called in batch {self.batches}"
                return
            self.notes.pop(key, None)
            self.rows[key] = Row(len(self.rows), type(module).__name__)
        if output is None:
            self.notes.setdefault(
                key,
                "its output holds no float tensor with the batch of "
                f"{self._batch_size} as first dimension; choose one with pick=",
            )
            return
        row = self.rows[key]
        row.shape = tuple(output.shape[1:])
        output = pooled(output, self.watched[index].pool)
        row.size = output[0].numel()
        self._results[row.index] = self._use(row.index, output)

    def layers(self) -> list[Layer]:
        """One entry for each model and layer, in order of first execution."""
        layers = []
        for model, watched in self.watched_as.items():
            for (index, name), row in self.rows.items():
                if index == watched:
                    layers.append(Layer(model, name, row.type, row.shape, row.size, row.index))
        return layers

    def reasons(self) -> dict[str, str]:
        """By "model/layer": why a layer has no row or no values."""
        reasons = {}
        for model, watched in self.watched_as.items():
            for (index, name), note in self.notes.items():
                if index == watched:
                    reasons[f"{model}/{name}"] = note
        return reasons


def in_type_of(model: nn.Module, x: Tensor) -> Tensor:
    """Convert floats to the type of the model's parameters, if they all have the same one."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(types) == 1 and x.is_floating_point():
        return x.to(types.pop())
    return x


def _of_model(value: Any, name: str, models: Mapping[str, nn.Module], what: str) -> Any:
    """An option's value for one model: {model name: value}, or the same for all."""
    if not isinstance(value, Mapping):
        return value
    for key in value:
        one_of(key, models, what)
    return value[one_of(name, value, what)]


def quickest_format(
    model: nn.Module, x: Tensor, forward: Callable[..., None]
) -> torch.memory_format:
    """Choose channels last for images on a CPU, which spares convolutions a fifth of their time.

    Not where the model cannot take them so, as where it uses `view`: one image tells.
    """
    if x.dim() == 4 and all(p.device.type == "cpu" for p in model.parameters()):
        with contextlib.suppress(Exception):  # whatever a module may raise
            forward(x[:1].to(memory_format=torch.channels_last), watched=False)
            return torch.channels_last
    return torch.preserve_format
