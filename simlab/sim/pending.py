"""The losses of a block's forward passes, which wait on the block until they are taken."""

from __future__ import annotations

import functools
import weakref

import torch
from torch import Tensor


class PendingLosses:
    """Losses of a block that wait to be taken, by the number of the forward pass.

    A loss waits until it is taken or a backward pass has gone through its forward pass. A loss
    without a graph (under `torch.no_grad`) counts only where none with a graph waits. Copies and
    pickles start empty, so that they drag no graph along.
    """

    def __init__(self) -> None:
        self.by_pass: dict[int, Tensor] = {}
        self.num_passes = 0

    def __reduce__(self) -> tuple[type[PendingLosses], tuple[()]]:
        return PendingLosses, ()

    def __len__(self) -> int:
        return len(self.by_pass)

    def add(self, loss: Tensor, y: Tensor) -> None:
        """Add the loss of a forward pass, of which y is the output."""
        with_graph = {number: old for number, old in self.by_pass.items() if old.requires_grad}
        self.num_passes += 1
        if loss.requires_grad or not with_graph:
            self.by_pass = {**with_graph, self.num_passes: loss}
        if y.grad_fn is not None:
            # So that losses which are never taken don't pile up. The reference is weak since a
            # cycle through the graph would leak.
            y.register_hook(functools.partial(_forget, weakref.ref(self), self.num_passes))

    def mean(self) -> Tensor:
        """Mean over the forward passes that wait, a scalar."""
        return torch.stack(list(self.by_pass.values())).mean()

    def clear(self) -> None:
        """Let go of all losses and of their graphs."""
        self.by_pass = {}


def _forget(reference: weakref.ref[PendingLosses], number: int, _grad: Tensor) -> None:
    pending = reference()
    if pending is not None:
        pending.by_pass.pop(number, None)
