"""The losses of a block's forward passes, which wait on the block until they are taken."""

from __future__ import annotations

import functools
import warnings
import weakref

import torch
from torch import Tensor
from torch.utils.hooks import unserializable_hook

MANY_PASSES = 16  # more forward passes than anybody's views


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

    def add(self, loss: Tensor, y: Tensor, label: str) -> None:
        """Add the loss of a forward pass, of which y is the output; warn where many wait.

        Args:
            loss: The loss.
            y: The block's output.
            label: Name of the block, for the warning.
        """
        with_graph = {number: old for number, old in self.by_pass.items() if old.requires_grad}
        self.num_passes += 1
        if loss.requires_grad or not with_graph:
            self.by_pass = {**with_graph, self.num_passes: loss}
        if y.grad_fn is not None:
            # So that losses which are never taken don't pile up. The reference is weak since a
            # cycle through the graph would leak.
            y.register_hook(functools.partial(_forget, weakref.ref(self), self.num_passes))
        if len(with_graph) == MANY_PASSES:  # once, when one more comes
            warnings.warn(
                f"{label}: {MANY_PASSES} forward passes in training mode wait for "
                "compute_loss_sim or for a backward pass, and each keeps its graph in memory. "
                "Where no loss is wanted use torch.no_grad() or eval()",
                stacklevel=2,
            )

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


def number_for_logging(loss: Tensor) -> Tensor:
    """A copy of a loss without its graph, which refuses to be trained with.

    The graph would be alive until the next forward pass, and the model could not be copied. So that
    nobody trains with a constant in its place, a backward pass through it raises RuntimeError.
    """
    number = loss.detach()
    if loss.requires_grad:
        number.requires_grad_().register_hook(_refuse_backward)
    return number


@unserializable_hook  # copies and pickles do without it, and say nothing
def _refuse_backward(_grad: Tensor) -> None:
    raise RuntimeError(
        "block.loss_sim is a number to log and has no graph, so that nothing would learn from it: "
        "add compute_loss_sim(model) to the loss"
    )
