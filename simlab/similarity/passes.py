"""Runs the models batch by batch and numbers the layers that are watched."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import (
    Axes,
    Layers,
    Pick,
    left_out_layers,
    one_of,
    select_layers,
    tapped,
    unwrap,
    why_not_called,
)
from .blame import blamed
from .features import FeatureTable
from .info import Layer
from .inputs import Batch, Forward
from .pooling import (
    NEEDS_CHANNELS,
    Pool,
    PositionsPool,
    pooled,
    read_pool,
    refuse_mixed_positions,
    unknown_channels,
)

Use = Callable[[int, Tensor], Any]
MAX_LISTED = 5  # layers in an error


@dataclass
class Row:
    """A watched layer and its row in the arrays [T, T].

    Attributes:
        index: of the row, by first execution.
        type: the module's class.
        shape: of the output, without the batch.
        size: number of features after pooling.
        channels: the axis of channels of the output [n, ...]; None if not known.
    """

    index: int
    type: str
    shape: tuple[int, ...] = ()
    size: int = 0
    channels: int | None = None


@dataclass(frozen=True)
class WatchedModel:
    """A model, the stream of images that it sees, how it is pooled and its watched layers.

    `left_out` says of the modules that are not among them by default why: {name: reason}.
    """

    model: nn.Module
    stream: int
    pool: Pool
    names: list[str]
    left_out: dict[str, str] | None


class Passes:
    """Forward passes of all models; each watched layer gets a row when it is first executed.

    A model that is given twice with the same images, pooling and layers runs once.

    Attributes:
        watched: the models that run.
        watched_as: {model's name: its index in `watched`}.
        rows: {(index in `watched`, layer): row}, in the order of the rows.
        notes: {(index in `watched`, layer): what went wrong with it}.
        positions: how many rows of features each sample has: 1, or its positions where each of them
            is a sample; None before the first layer has told.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        layers: Layers | Mapping[str, Layers] | None,
        streams: Mapping[str, int],
        pool: Pool | Mapping[str, Pool],
    ) -> None:
        self.watched: list[WatchedModel] = []
        self.watched_as: dict[str, int] = {}
        self.rows: dict[tuple[int, str], Row] = {}
        self.notes: dict[tuple[int, str], str] = {}
        self._uncalled: set[tuple[int, str]] = set()
        self.batches = 0
        self.positions: int | None = None
        self._formats: list[torch.memory_format] = []
        self._forwards: list[Callable[..., None]] = []
        for name, model in models.items():
            of_model = _of_model(layers, name, models, "layers")
            with blamed(name, model):
                names = list(select_layers(model, of_model))
            watched = WatchedModel(
                unwrap(model),
                stream=streams[name],
                pool=read_pool(_of_model(pool, name, models, "pool")),
                names=names,
                left_out=left_out_layers(model) if of_model is None else None,
            )
            if watched not in self.watched:
                self.watched.append(watched)
            self.watched_as[name] = self.watched.index(watched)
        refuse_mixed_positions({name: self.watched[i].pool for name, i in self.watched_as.items()})
        for index, watched in enumerate(self.watched):
            for layer in watched.names:
                self.notes[index, layer] = why_not_called(watched.model, layer)
                self._uncalled.add((index, layer))

    @contextlib.contextmanager
    def attached(
        self,
        device: torch.device | str | None,
        pick: Pick | None,
        forward: Forward | None = None,
        *,
        one_set: bool = False,
    ) -> Iterator[None]:
        """Attach to all models inside the block; see `tapped`.

        Args:
            device: where to run.
            pick: see `compare`.
            forward: see `compare`.
            one_set: the batches' features are put together, so they must have one size.
        """
        self._one_set = one_set
        with contextlib.ExitStack() as stack:
            self._forwards.clear()
            for index, watched in enumerate(self.watched):
                sink = partial(self._watch, index)
                run = None if isinstance(watched.model, FeatureTable) else forward
                tap = tapped(watched.model, watched.names, sink, device=device, pick=pick, run=run)
                self._forwards.append(stack.enter_context(tap))
            if pick is not None:
                # What a user's function does with outputs is unknown: it gets them as they come.
                self._formats = [torch.preserve_format] * len(self.watched)
            yield

    def forward(self, batch: list[Batch], use: Use) -> list[Any]:
        """Run one batch through all models.

        Args:
            batch: n samples of each stream.
            use: called with (row, output [n, ...]) while the output is as the module left it.

        Returns:
            What `use` returned, by row; None where there is no output.

        Raises:
            ValueError: none of the watched layers was called, or none has an output to be used.
        """
        self._use = use
        self._batch_size = len(batch[0])
        self._results: dict[int, Any] = {}
        for index, watched in enumerate(self.watched):
            samples = batch[watched.stream]
            hint = f" (called as {samples.call}; inputs= or forward= say it otherwise)"
            with blamed(self._name_of(index), watched.model, hint):
                self._run(index, samples)
        results = self._results
        self._refuse_nothing(results)
        self._results = {}  # nothing is held until the next batch
        for key, row in self.rows.items():
            if row.index not in results:
                self.notes.setdefault(key, f"not called in batch {self.batches}")
        self.batches += 1
        return [results.get(row.index) for row in self.rows.values()]

    def _run(self, index: int, samples: Batch) -> None:
        """Run one model on its own copy of the samples, which it may edit in place."""
        model = self.watched[index].model
        forward = self._forwards[index]
        if index == len(self._formats):
            self._formats.append(quickest_format(model, samples, forward))
        copied = samples.to(memory_format=self._formats[index], copy=True)
        forward(copied.inputs_of(model))

    def _name_of(self, index: int) -> str:
        """The name, or names, of a model that runs."""
        names = [name for name, watched in self.watched_as.items() if watched == index]
        return " = ".join(names)

    def _refuse_nothing(self, results: Mapping[int, Any]) -> None:
        """Raise ValueError where no layer has an output in the first batch."""
        if self.batches or results:
            return
        what = "has an output that can be used" if self.rows else "was called"
        notes = [f"{name or 'the model'!r}: {note}" for (_, name), note in self.notes.items()]
        listed = "; ".join(notes[:MAX_LISTED])
        if len(notes) > MAX_LISTED:
            listed += f"; and {len(notes) - MAX_LISTED} more"
        raise ValueError(f"no selected layer {what}: {listed}")

    def _watch(
        self, index: int, name: str, module: nn.Module, output: Tensor | None, axes: Axes
    ) -> None:
        """Number the layer and use its output; the sink of `tapped`."""
        key = index, name
        self._uncalled.discard(key)
        if key not in self.rows:
            if self.batches:
                self.notes[key] = f"left out: first called in batch {self.batches}"
                return
            self.notes.pop(key, None)
            self.rows[key] = Row(len(self.rows), type(module).__name__)
        if output is None:
            self.notes.setdefault(key, f"its output {axes.why}")
            return
        row = self.rows[key]
        row.shape = tuple(output.shape[1:])
        row.channels = axes.channels
        pool = self.watched[index].pool
        if isinstance(pool, PositionsPool):
            note = pool.unsuited(output, axes.channels)
            if note:
                self.notes.setdefault(key, note)
                return
        elif axes.channels is None and output.dim() > 2 and pool in NEEDS_CHANNELS:
            self.notes.setdefault(key, unknown_channels(pool, output))
            return
        samples = len(output)
        output = pooled(output, pool, axes.channels)
        self._count_positions(len(output) // samples, pool)
        size = output[0].numel()
        if self._one_set and row.size not in (0, size):
            raise ValueError(
                f"its outputs have different sizes in different batches, {row.size} and {size} "
                'features: pool="mean" or a function can make them alike'
            )
        row.size = size
        self._results[row.index] = self._use(row.index, output)

    def _count_positions(self, positions: int, pool: Pool) -> None:
        """Refuse a layer with other positions than the layers before it, or with too many."""
        if not isinstance(pool, PositionsPool):
            return
        if self.positions is None:
            self.positions = positions
        pool.check(positions, self.positions, self._batch_size)

    @property
    def takes_positions(self) -> bool:
        """Whether each position of a map is a sample."""
        return any(isinstance(watched.pool, PositionsPool) for watched in self.watched)

    def rows_of(self, samples: int) -> int:
        """How many rows of features that many samples have."""
        return samples * (self.positions or 1)

    def layers(self) -> list[Layer]:
        """One entry for each model and layer, in order of first execution."""
        layers = []
        for model, watched in self.watched_as.items():
            for (index, name), row in self.rows.items():
                if index == watched:
                    layers.append(Layer(model, name, row.type, row.shape, row.size, row.index))
        return layers

    def reasons(self) -> dict[str, str]:
        """By "model/layer": why a chosen layer has no row or no values."""
        reasons = {}
        for model, watched in self.watched_as.items():
            by_default = self.watched[watched].left_out is not None
            for (index, name), note in self.notes.items():
                if index == watched and not (by_default and (index, name) in self._uncalled):
                    reasons[f"{model}/{name}"] = note
        return reasons

    def left_out(self) -> dict[str, str]:
        """By "model/layer": why `layers=None` left a module out, or did not see it run."""
        left_out = {}
        for model, watched in self.watched_as.items():
            reasons = self.watched[watched].left_out
            if reasons is None:
                continue
            for name, reason in reasons.items():
                left_out[f"{model}/{name}"] = reason
            for (index, name), note in self.notes.items():
                if index == watched and (index, name) in self._uncalled:
                    left_out[f"{model}/{name}"] = note
        return left_out


def _of_model(value: Any, name: str, models: Mapping[str, nn.Module], what: str) -> Any:
    """An option's value for one model: {model name: value}, or the same for all."""
    if not isinstance(value, Mapping):
        return value
    for key in value:
        one_of(key, models, what)
    return value[one_of(name, value, what)]


def quickest_format(
    model: nn.Module, samples: Batch, forward: Callable[..., None]
) -> torch.memory_format:
    """Choose channels last for images on a CPU, which spares convolutions a fifth of their time.

    Not where the model cannot take them so, as where it uses `view`: one image tells.
    """
    if samples.is_images and all(p.device.type == "cpu" for p in model.parameters()):
        one = samples[:1].to(memory_format=torch.channels_last, copy=True)
        with contextlib.suppress(Exception):  # whatever a module may raise
            forward(one.inputs_of(model), watched=False)
            return torch.channels_last
    return torch.preserve_format
