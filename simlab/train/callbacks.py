"""Callbacks: what looks on while a run is trained, such as a logger.

    class Print(Callback):
        def on_epoch(self, run, row):
            print(run.name, row["epoch"], row["loss"])

    pretrain(config, callbacks=[Print(), "tensorboard", "mine:Logger"])

A callback sees every epoch of a run, whether it is trained now or was trained before: the history
of a stored or resumed run is replayed. It is no part of what a run is known by, and changes
nothing: it may draw random numbers. Of several processes the first one calls it.
"""

import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from simlab._checks import near
from simlab.compute import distributed
from simlab.runs import Run

from .progress import Row

OnEpoch = Callable[[list[Row]], None]  # the argument `on_epoch` of `pretrain`
NAMED = {"tensorboard": "simlab.train.tensorboard:TensorBoard"}


class Callback:
    """Looks on while a run is trained. Override what is wanted; each method does nothing."""

    def on_start(self, run: Run) -> None:
        """See the run ahead of its first epoch: one that is new, resumes, or was stored."""

    def on_step(self, run: Run, step: int, loss: Tensor, lr: float) -> None:
        """See an optimizer step, which are not stored and not replayed.

        Args:
            run: The run.
            step: From 1, over all epochs.
            loss: float32 [], what was minimised, in this process and of the last part of a batch
                that is accumulated. Reading it waits for the device.
            lr: The learning rate that was used.
        """

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """See a row of the run's history: epoch (from 1), loss, lr, seconds, and what was measured.

        A row is seen when its epoch is over, its checkpoint stored; or replayed.
        """

    def on_end(self, run: Run) -> None:
        """See the finished run, with `run.result` and `run.encoder`."""


def make_callbacks(callbacks: Sequence[Callback | str]) -> list[Callback]:
    """Make the callbacks that are given by name.

    Raises:
        TypeError: One is neither a Callback nor a name.
        ValueError: There is no callback of that name.
        ImportError: Its module can't be imported.
    """
    if isinstance(callbacks, str | Callback):
        raise TypeError(f"callbacks={callbacks!r}: expected a list of them")
    made = []
    for callback in callbacks:
        if isinstance(callback, str):
            callback = find_callback(callback)()
        if isinstance(callback, type):
            raise TypeError(f"callbacks: {callback.__name__} is a class: did you mean to call it?")
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks: {callback!r} is no simlab.Callback")
        made.append(callback)
    return made


def find_callback(name: str) -> Any:
    """Find "tensorboard" or "module:Class", which is called without arguments.

    The module may lie in the current folder.

    Raises:
        ValueError: There is none of that name.
        ImportError: The module imports what is missing.
    """
    module, colon, attribute = NAMED.get(name, name).partition(":")
    if not colon:
        raise ValueError(f"there is no callback {name!r}{near(name, NAMED)}; or module:Class")
    if os.getcwd() not in sys.path:  # last, so that it hides no installed module
        sys.path.append(os.getcwd())
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ValueError(f"callback {name!r}: there is no module {module!r}") from None
    if not hasattr(imported, attribute):
        raise ValueError(
            f"callback {name!r}: {module} has no {attribute!r}{near(attribute, dir(imported))}"
        )
    return getattr(imported, attribute)


class Watchers:
    """All that looks on while one run is trained.

    Args:
        run: The run.
        callbacks: Called in the first process alone.
        on_epoch: Called in every process, for the epochs that are trained now.
    """

    def __init__(
        self, run: Run, callbacks: Sequence[Callback] = (), on_epoch: OnEpoch | None = None
    ) -> None:
        self.run = run
        self.callbacks = callbacks if distributed.rank() == 0 else ()
        self.on_epoch = on_epoch

    def start(self) -> None:
        """Show the run."""
        for callback in self.callbacks:
            callback.on_start(self.run)

    def step(self, step: int, loss: Tensor, lr: float) -> None:
        """Show an optimizer step. What a callback draws doesn't shift training's random numbers."""
        if not self.callbacks:
            return
        with torch.random.fork_rng([loss.device] if loss.is_cuda else []):
            for callback in self.callbacks:
                callback.on_step(self.run, step, loss.detach(), lr)

    def epoch(self, history: list[Row]) -> None:
        """Show the epoch that is the history's last."""
        self.replay(history[-1:])
        if self.on_epoch:
            self.on_epoch(history)

    def replay(self, history: list[Row]) -> None:
        """Show epochs to the callbacks; the next epoch is seeded anew, whatever they draw."""
        for row in history:
            for callback in self.callbacks:
                callback.on_epoch(self.run, dict(row))

    def replay_stored(self) -> None:
        """Show the epochs of a finished run, as metrics.csv has them."""
        if self.callbacks:
            for row in self.run.history.to_dict("records"):
                measured = {str(name): x for name, x in row.items() if not math.isnan(x)}
                self.replay([measured])

    def end(self) -> None:
        """Show the finished run."""
        for callback in self.callbacks:
            callback.on_end(self.run)
