"""The exchange of gradients between processes, by torch or by us.

On GPUs it is torch's `DistributedDataParallel` (DDP): gradients are put into buckets, and a bucket
is averaged as soon as the backward pass has filled it, while that pass goes on. On CPUs all of them
are averaged at once, after the backward pass, in an order that never changes.

    SIMLAB_DDP=1        DDP on CPUs as well
    SIMLAB_DDP=0        never DDP, not even on GPUs
"""

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from . import distributed

SWITCH = "SIMLAB_DDP"


class Loss(nn.Module):
    """A loss as the forward pass of a module, which is what DDP wraps.

    Args:
        network: What is trained.
        function: Computes the loss, by means of the network.
    """

    def __init__(self, network: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        """Call the function."""
        return self.function(*arguments)


def data_parallel(
    network: nn.Module, function: Callable[..., Any], device: torch.device
) -> nn.Module:
    """Let DDP carry the gradients of a loss, where it is to carry them.

    Args:
        network: What is trained.
        function: Computes what `backward` is called on, by means of the network.
        device: Where that is computed.

    Returns:
        A module with the function as its forward pass, wrapped by DDP where that is used.

    Raises:
        ValueError: The switch in the environment says neither yes nor no.
    """
    loss = Loss(network, function)
    if not _ddp_is_used(device) or distributed.world() == 1:
        return loss
    with warnings.catch_warnings():  # torch 2.14 has another name for broadcast_buffers, 2.6 not
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            loss,
            # the buffers are those of all processes already: `with_global_batch_norm`
            broadcast_buffers=False,
            # which stay without a gradient: prototypes that are frozen for a while, a layer that is
            # left out. (Where all are used in the first step torch remarks on it, once)
            find_unused_parameters=True,
            gradient_as_bucket_view=True,  # no second copy of all gradients
        )


def _ddp_is_used(device: torch.device) -> bool:
    """Read the switch; where it is not set, the device decides."""
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "0", "1"):
        raise ValueError(f"{SWITCH}={switch!r}: expected 1 (on CPUs as well) or 0 (never)")
    return switch == "1" if switch else device.type == "cuda"


def exchange(loss: nn.Module, is_due: bool) -> AbstractContextManager[object]:
    """Return the context of a forward and backward pass, in which DDP exchanges what is due.

    Args:
        loss: What `data_parallel` returned.
        is_due: Whether this is the last part of a batch; of the others gradients are added up.
    """
    if isinstance(loss, DistributedDataParallel) and not is_due:
        return loss.no_sync()
    return nullcontext()


def average_gradients(loss: nn.Module) -> None:
    """Average the gradients of losses whose mean over the processes is minimised.

    A missing gradient stays missing. Of DDP they are averaged already.
    """
    if distributed.world() > 1 and not isinstance(loss, DistributedDataParallel):
        distributed.average([p.grad for p in loss.parameters() if p.grad is not None])
