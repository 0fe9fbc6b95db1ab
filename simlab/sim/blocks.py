"""SIM on a block: its projections, the loss of a forward pass, and two decorators.

A block that you write gets SIM so:

    class Block(nn.Module):
        @init_proj("in_channels", "out_channels")
        def __init__(self, in_channels, out_channels):
            ...

        @forward_with_sim_cache()
        def forward(self, x):
            ...

`sim_loss` is the method on one screen.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..layers import CallAxes, nearest
from . import fast
from .axes import axes_of_block, channels_second, tensor_in
from .loss import compute_sim_loss, fewest_tokens
from .options import LossType, ProjectionType, SamplingType, SimOptions
from .pending import PendingLosses
from .sampling import count_channels, pair_positions, sample_tokens


class SimHolder(Protocol):
    """What a module with SIM carries: a decorated block itself, an attached block's child `sim`.

    The names of the options and of the four projections are those of the published code, and so are
    the keys of its state_dict.
    """

    training: bool
    token_sampling_ratio: float
    channel_sampling_ratio: float
    token_sampling_type: SamplingType
    loss_type: LossType
    loss_beta: float
    loss_sim: Tensor | None  # the latest loss, detached: for logging
    sim_dims: tuple[int, int]  # channels that are taken of x and of y
    sim_axes: CallAxes | None  # where samples and channels lie; None before the first pass
    sim_by_convention: bool  # unknown axes are [B, C, H, W], [B, N, C]: a decorated block
    sim_time_unclear: bool  # sequences may be [B, N, C] or [N, B, C]
    pre_proj: nn.Sequential
    proj_x: nn.Sequential
    proj_y: nn.Sequential
    predictor: nn.Sequential
    _sim_pending: PendingLosses


class Projection(nn.Sequential):
    """Layers of SIM, which are no layers of the model: `attach_sim` passes them over."""


# ---- the projections -----------------------------------------------------------------------------


def add_sim(holder: Any, dim_in: int, dim_out: int, options: SimOptions) -> None:
    """Set options and projections as attributes of a module.

    Args:
        holder: The module, see `SimHolder`.
        dim_in: Channels of x.
        dim_out: Channels of y.
        options: Options of SIM.
    """
    holder.proj_type = options.proj_type
    holder.token_sampling_ratio = options.token_sampling_ratio
    holder.channel_sampling_ratio = options.channel_sampling_ratio
    holder.token_sampling_type = options.token_sampling_type
    holder.loss_type = options.loss_type
    holder.loss_beta = options.beta
    holder.proj_hidden = options.proj_hidden
    holder.proj_dim = options.proj_dim
    holder.loss_sim = None
    holder.sim_axes = None
    holder.sim_by_convention = True
    holder.sim_time_unclear = False
    holder._sim_pending = PendingLosses()
    if options.token_sampling_ratio == 0:
        return  # parameters that never get a gradient would stop DistributedDataParallel
    k_in = count_channels(options.channel_sampling_ratio, dim_in)
    k_out = count_channels(options.channel_sampling_ratio, dim_out)
    holder.sim_dims = (k_in, k_out)
    # the order in which they are made fixes the random numbers of their weights
    holder.pre_proj = Projection()
    if k_in != k_out:
        holder.pre_proj.append(nn.Linear(k_out, k_in, bias=False))
    holder.proj_x = Projection(
        nn.Linear(k_in, options.proj_hidden),
        nn.ReLU(inplace=True),
        nn.Linear(options.proj_hidden, options.proj_dim),
        nn.ReLU(inplace=True),
        nn.Linear(options.proj_dim, options.proj_dim),
    )
    holder.proj_y = holder.proj_x
    holder.predictor = Projection(nn.Linear(options.proj_dim, options.proj_dim))


# ---- the loss of a forward pass ------------------------------------------------------------------


def sim_loss(sim: SimHolder, x: Tensor, y: Tensor, label: str) -> Tensor:
    """Compute beta * L(predictor(proj_y(pre_proj(y))), stop_gradient(proj_x(x))).

    x and y are brought onto one grid, and the same tokens of both are sampled.

    Args:
        sim: Options and projections.
        x: The block's input, detached: [B, C, *positions].
        y: Its output, likewise.
        label: Name of the block, for error messages.

    Returns:
        The loss, a scalar.
    """
    x, y = pair_positions(x, y, sim.sim_dims, sim.channel_sampling_ratio, label)  # [B, K, N]
    x, y = sample_tokens(
        x,
        y,
        ratio=sim.token_sampling_ratio,
        sampling_type=sim.token_sampling_type,
        at_least=fewest_tokens(sim.loss_type),
        label=label,
    )  # [B, n, K]
    few_tokens = y.shape[1] < fast.FEW_TOKENS
    if few_tokens:  # half precision's rounding may be all the difference between them
        dtype = next(sim.predictor.parameters()).dtype
        x = x.to(dtype)
        y = y.to(dtype)
    with _without_autocast(y.device.type) if few_tokens else contextlib.nullcontext():
        # y before x: older versions of torch cache a weight as autocast first cast it, and in
        # no_grad that is without a graph
        if few_tokens:
            prediction = sim.predictor(sim.proj_y(sim.pre_proj(y)))  # [B, n, proj_dim]
        else:  # the same in less time
            prediction = fast.predict(sim.pre_proj, sim.proj_y, sim.predictor, y)
        with torch.no_grad():
            target = sim.proj_x(x)  # [B, n, proj_dim]
    return compute_sim_loss(prediction, target, sim.loss_type) * sim.loss_beta


def _without_autocast(device_type: str) -> contextlib.AbstractContextManager[Any]:
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


@torch._disable_dynamo  # compiled code calls it as it is (torch.compiler.disable: 4 s of imports)
def keep_sim_loss(block: nn.Module, sim: SimHolder, inputs: Any, output: Any) -> None:
    """Compute the loss of a forward pass and keep it on the block until it is taken.

    Args:
        block: The block that ran.
        sim: What holds its SIM: the block itself or its child `sim`.
        inputs: The block's inputs; x is the first floating tensor among them.
        output: The block's output; y is the first floating tensor in it.

    Raises:
        TypeError: If there is no floating tensor.
        ValueError: If x and y cannot be compared.
    """
    if sim.token_sampling_ratio == 0:
        return
    label = f"SIM on {type(block).__name__}"
    if sim.sim_axes is None:  # the first forward pass
        sim.sim_axes = axes_of_block(block, *inputs)
    taken, given = sim.sim_axes.taken, sim.sim_axes.given
    x = tensor_in(inputs, taken, label)
    y = tensor_in(output, given, label)
    if x is None or y is None:
        side = "inputs" if x is None else "outputs"
        raise TypeError(f"{label}: no floating tensor in {side}")
    if sim.sim_time_unclear and x.dim() == 3:
        raise ValueError(
            f"{label}: layers of this model take sequences as [T, N, D] (batch_first=False), and "
            "whether this block does cannot be told: give attach_sim(sample_input=)"
        )
    k_in, k_out = sim.sim_dims
    loss = sim_loss(
        sim,
        channels_second(x.detach(), taken, k_in, sim, label),
        channels_second(y, given, k_out, sim, label),
        label,
    )
    if torch._C._current_graph_task_id() != -1:
        return  # inside a backward pass: activation checkpointing repeats a forward pass
    sim._sim_pending.add(loss, y)
    sim.loss_sim = sim._sim_pending.mean().detach()


# ---- the decorators ------------------------------------------------------------------------------


def init_proj(
    input_dim_name: str | int,
    output_dim_name: str | int | None = None,
    proj_type: ProjectionType = SimOptions.proj_type,
    token_sampling_ratio: float = SimOptions.token_sampling_ratio,
    channel_sampling_ratio: float = SimOptions.channel_sampling_ratio,
    token_sampling_type: SamplingType = SimOptions.token_sampling_type,
    loss_type: LossType = SimOptions.loss_type,
    sim_cfg: SimOptions | Mapping[str, Any] | None = None,
    beta: float = SimOptions.beta,
    proj_hidden: int = SimOptions.proj_hidden,
    proj_dim: int = SimOptions.proj_dim,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a block's `__init__`: SIM's projections are created after it.

    Args:
        input_dim_name: Channels of the block's input: an int, or the name of an attribute that
            `__init__` sets.
        output_dim_name: Channels of its output, likewise; those of the input if left out.
        proj_type: See `SimOptions`.
        token_sampling_ratio: See `SimOptions`.
        channel_sampling_ratio: See `SimOptions`.
        token_sampling_type: See `SimOptions`.
        loss_type: See `SimOptions`.
        sim_cfg: Options that override all others ("loss_beta" is "beta"), or `SimOptions`.
        beta: See `SimOptions`.
        proj_hidden: See `SimOptions`.
        proj_dim: See `SimOptions`.

    Returns:
        A decorator of `__init__`. When a block is built it raises AttributeError if it has no such
        attribute and TypeError if the attribute is no positive int.

    Raises:
        ValueError: If an option's value or a name in `sim_cfg` is wrong.
    """
    options = SimOptions(
        proj_type=proj_type,
        token_sampling_ratio=token_sampling_ratio,
        channel_sampling_ratio=channel_sampling_ratio,
        token_sampling_type=token_sampling_type,
        loss_type=loss_type,
        beta=beta,
        proj_hidden=proj_hidden,
        proj_dim=proj_dim,
    ).override(sim_cfg)

    def decorator(init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            dim_in = _read_dim(self, "input_dim_name", input_dim_name)
            dim_out = dim_in
            if output_dim_name is not None:
                dim_out = _read_dim(self, "output_dim_name", output_dim_name)
            add_sim(self, dim_in, dim_out, options)

        return wrapper

    return decorator


def forward_with_sim_cache() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a block's `forward`: in training mode its SIM loss is kept until it is taken.

    The output is left alone, and the block's random draws come before SIM's.

    Returns:
        A decorator of `forward`. A pass raises AttributeError if `__init__` lacks `init_proj`.
    """

    def decorator(forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            output = forward(self, *args, **kwargs)
            if "_sim_pending" not in vars(self):
                raise AttributeError(
                    f"{type(self).__name__}.forward has @forward_with_sim_cache() "
                    "but its __init__ lacks @init_proj(...)"
                )
            if self.training:
                keep_sim_loss(self, self, (args, kwargs), output)
            return output

        return wrapper

    return decorator


def _read_dim(block: nn.Module, argument: str, dim: str | int) -> int:
    """Read a number of channels which is given as an int or as the name of an attribute."""
    if isinstance(dim, str) and not hasattr(block, dim):
        names = [name for name, value in vars(block).items() if isinstance(value, int)]
        raise AttributeError(
            f"init_proj: {argument}={dim!r}, but {type(block).__name__} has no "
            f"attribute {dim!r} after its __init__" + nearest(dim, names)
        )
    value = getattr(block, dim) if isinstance(dim, str) else dim
    if not isinstance(value, int) or value < 1:
        raise TypeError(f"init_proj: {argument}={dim!r} gives {value!r}, expected a positive int")
    return value
