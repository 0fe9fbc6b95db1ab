"""Runs the models batch by batch and numbers the layers that are watched."""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import one_of, select_layers, tapped, unwrap
from .result import Layer


def pooled(x: Tensor, pool: str | Callable[[Tensor], Tensor]) -> Tensor:
    """[n, ...] -> [n, ...]. "flatten": as it is; "mean" over the positions of [n, C, H, W] (global
    average) or the tokens of [n, T, D]; "cls", the first token of [n, T, D]; or a function."""
    if callable(pool):
        return pool(x.contiguous())  # it may use `view`
    if one_of(pool, ("flatten", "mean", "cls"), "pool") == "flatten" or x.dim() < 3:
        return x[:, None] if x.dim() == 1 else x
    if pool == "mean":
        return x.mean(1) if x.dim() == 3 else x.flatten(2).mean(2)
    if x.dim() > 3:
        raise ValueError(
            f'pool="cls" takes the first token of [n, T, D], got {tuple(x.shape)}; '
            'give each model its own: pool={"vit": "cls", "resnet": "mean"}'
        )
    return x[:, 0]


def per_model(value: Any, name: str, models: Mapping[str, Any], what: str) -> Any:
    """An option's value for one model: {model name: value}, or the same for all."""
    if not isinstance(value, Mapping):
        return value
    for key in value:
        one_of(key, models, what)
    return value[one_of(name, value, what)]


def named_models(models: Any) -> dict[str, nn.Module]:
    """{name: model} of a model, a sequence (named by class) or a mapping."""
    named = {str(k): m for k, m in models.items()} if isinstance(models, Mapping) else {}
    for model in [] if named else [models] if isinstance(models, nn.Module) else models:
        name = kind = type(unwrap(model)).__name__
        while name in named:
            name = f"{kind} {int(name[len(kind) :] or 1) + 1}"
        named[name] = model
    wrong = [n for n, model in named.items() if not isinstance(model, nn.Module)]
    if wrong or not named:
        raise TypeError(f"models must be nn.Modules: {', '.join(wrong) or 'none given'}")
    return named


def quickest_format(
    model: nn.Module, x: Tensor, forward: Callable[..., None]
) -> torch.memory_format:
    """Channels last for images on a CPU, whose convolutions it spares a fifth of their time.

    Not where the model cannot take them so, as where it uses `view`: one image tells.
    """
    if x.dim() == 4 and all(p.device.type == "cpu" for p in model.parameters()):
        with contextlib.suppress(Exception):  # whatever a module may raise
            forward(x[:1].to(memory_format=torch.channels_last), watched=False)
            return torch.channels_last
    return torch.preserve_format


class Pass:
    """Forward passes of all models; each watched layer gets a row, as first executed."""

    def __init__(self, models: dict[str, nn.Module], layers: Any, streams: int, pool: Any) -> None:
        self.rows: dict[tuple[int, str], tuple] = {}  # (run, layer) -> type, shape, size, row
        self.notes: dict[tuple[int, str], str] = {}  # what went wrong with a layer
        self.runs: list[tuple[nn.Module, int, Any, list[str]]] = []
        self.run_of: dict[str, int] = {}  # the same model twice runs once
        self.batches = 0
        known: dict[tuple, int] = {}
        for i, (name, model) in enumerate(models.items()):
            names = list(select_layers(model, per_model(layers, name, models, "layers")))
            kind, stream = per_model(pool, name, models, "pool"), min(i, streams - 1)
            key = id(unwrap(model)), stream, kind, *names
            run = self.run_of[name] = known.setdefault(key, len(known))
            if run == len(self.runs):
                self.runs.append((model, stream, kind, names))
                self.notes |= {(run, n): "not called in the forward pass" for n in names}

    def open(self, stack: contextlib.ExitStack, device: Any, pick: Any) -> None:
        """Attach to all models until `stack` closes."""
        self.forwards = [
            stack.enter_context(
                tapped(model, names, partial(self._watch, run), device=device, pick=pick)
            )
            for run, (model, _, _, names) in enumerate(self.runs)
        ]
        # what a function of the user's does with outputs is not known: it gets them as they come
        self.formats = [torch.preserve_format] * len(self.runs) if pick else []

    def __call__(self, batch: list[Tensor], use: Callable[[int, Tensor], Any]) -> list[Any]:
        """Run one batch -> use(row, output [n, ...]) by row, called while the output is as the
        module left it; None where there is no output."""
        self.use, self.size, self.found = use, len(batch[0]), {}
        pairs = [
            (batch[stream], forward)
            for (_, stream, _, _), forward in zip(self.runs, self.forwards, strict=True)
        ]
        if not self.formats:
            self.formats = [
                quickest_format(run[0], *pair) for run, pair in zip(self.runs, pairs, strict=True)
            ]
        for (x, forward), form in zip(pairs, self.formats, strict=True):
            forward(x.to(memory_format=form))
        if not self.rows:
            raise ValueError("no selected layer was called in the forward pass")
        found, self.found = self.found, {}  # nothing is held until the next batch
        for row, key in enumerate(self.rows):
            if row not in found:
                self.notes.setdefault(key, f"not called in batch {self.batches}")
        self.batches += 1
        return [found.get(row) for row in range(len(self.rows))]

    def _watch(self, run: int, name: str, module: nn.Module, output: Tensor | None) -> None:
        key = run, name
        if key not in self.rows:
            if self.batches:
                self.notes[key] = f"left out: first called in batch {self.batches}"
                return
            self.notes.pop(key, None)
            self.rows[key] = type(module).__name__, (), 0, len(self.rows)
        kind, *_, row = self.rows[key]
        if output is None:
            self.notes.setdefault(
                key,
                "its output holds no float tensor with the batch of "
                f"{self.size} as first dimension; choose one with pick=",
            )
            return
        shape, output = tuple(output.shape[1:]), pooled(output, self.runs[run][2])
        self.rows[key] = kind, shape, output[0].numel(), row
        self.found[row] = self.use(row, output)

    def layers(self) -> list[Layer]:
        """One entry for each model and layer, in order of first execution."""
        return [
            Layer(model, name, *info)
            for model, run in self.run_of.items()
            for (r, name), info in self.rows.items()
            if r == run
        ]

    def reasons(self) -> dict[str, str]:
        """By "model/layer": why a layer has no row or no values."""
        return {
            f"{model}/{n}": note
            for model, run in self.run_of.items()
            for (r, n), note in self.notes.items()
            if r == run
        }
