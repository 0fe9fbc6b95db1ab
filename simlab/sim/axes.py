"""Where samples and channels lie in what a block takes and gives.

With a `sample_input` it is seen in a run of the model when SIM is attached. Without one the block
alone is run on a few samples at its first forward pass in training: in eval mode, without a graph,
with the random numbers left as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Axes, CallAxes, SamplesAsTimeError, axes_of, tensors_in
from .sampling import count_channels


def axes_of_run(
    model: nn.Module, blocks: Mapping[str, nn.Module], inputs: Any
) -> dict[str, CallAxes]:
    """The axes of what blocks take and give in a run of the model, or {} for those not called.

    The samples are the first axis of the inputs; or the second one, where a layer built with
    batch_first=False would take them for the time.
    """
    try:
        return axes_of(model, blocks, inputs)
    except SamplesAsTimeError:
        return axes_of(model, blocks, inputs, samples=1)


def axes_of_block(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CallAxes:
    """The axes of what a block takes and gives, from a run of the block alone.

    Nothing is known where it cannot be run so, as while it is traced.
    """
    if torch.jit.is_tracing():
        return CallAxes(Axes(), Axes())
    with _without_autocast_cache(), contextlib.suppress(Exception):  # what a block may raise
        return axes_of_run(_Run(block), {"": block}, (args, dict(kwargs)))[""]
    return CallAxes(Axes(), Axes())


class _Run(nn.Module):
    """A block as a model that takes its arguments and keywords."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.block(*args, **kwargs)


@contextlib.contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """A weight that autocast casts here, without a graph, must not be the one of the next pass."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


def tensor_in(value: Any, axes: Axes, label: str) -> Tensor | None:
    """Find the tensor that SIM compares, in what a block takes or gives.

    Args:
        value: What it takes or gives.
        axes: Of that, as far as they are known.
        label: Name of the block, for error messages.

    Returns:
        The first floating tensor with an axis of samples, as it is; None where there is none.

    Raises:
        ValueError: If it is known that there are no samples.
    """
    if axes.why:
        raise ValueError(f"{label}: what it takes or gives {fact_of(axes)}")
    tensors = list(tensors_in(value))
    if axes.rank == 0:  # the block could not be run alone
        return next((x for x in tensors if x.is_floating_point()), None)
    return tensors[axes.index] if axes.index < len(tensors) else None


def channels_second(x: Tensor, axes: Axes, k: int, sim: Any, label: str) -> Tensor:
    """Bring a tensor into the layout that SIM works on.

    Args:
        x: What the block takes or gives.
        axes: Of x, as far as they are known.
        k: The number of channels that are sampled, an entry of `sim_dims`.
        sim: What holds the block's SIM, see `SimHolder`.
        label: Name of the block, for error messages.

    Returns:
        [B, C, *positions], a view.

    Raises:
        ValueError: If it is not known which axis holds the channels.
    """
    if axes.samples is not None and axes.rank == x.dim():
        x = x.movedim(axes.samples, 0)
    if x.dim() < 3:
        return x
    if axes.channels is None:
        return x.movedim(_channels_by_length(x, k, sim, label), 1)
    return x.movedim(axes.channels, 1)


def _channels_by_length(x: Tensor, k: int, sim: Any, label: str) -> int:
    """The published layouts [B, C, H, W] and [B, N, C], unless the lengths fit others as well."""
    last = x.dim() - 1
    widths = [count_channels(sim.channel_sampling_ratio, x.shape[axis]) for axis in (1, last)]
    if widths == [k, k] and not sim.sim_by_convention:
        raise ValueError(
            f"{label}: which axis of {list(x.shape)} holds the channels is not known: give "
            "attach_sim(sample_input=), or attach to layers inside of the block"
        )
    return last if last == 2 else 1


def fact_of(axes: Axes) -> str:
    """What is wrong with a tensor, without the advice to those who compare layers."""
    return axes.why.partition(";")[0]


def has_time_first(module: nn.Module) -> bool:
    """Whether a recurrent layer or an attention in it takes sequences as [T, N, D]."""
    return any(getattr(part, "batch_first", True) is False for part in module.modules())
