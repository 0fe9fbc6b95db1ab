"""SIM on a finished model: `attach_sim` puts it on blocks, `detach_sim` takes it off again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..layers import CallAxes, Layers, refuse_script, select_layers, unwrap
from .axes import axes_of_run, fact_of, has_time_first
from .blocks import Projection, SimHolder, add_sim, keep_sim_loss
from .options import LossType, ProjectionType, SamplingType, SimOptions


class SIM(nn.Module):
    """The child `sim` of an attached block: its options and projections, see `blocks.SimHolder`.

    As a layer it is the identity, since a Sequential runs all of its children.
    """

    handle: RemovableHandle  # of the block's forward hook
    sim_axes: CallAxes | None
    sim_by_convention: bool
    sim_time_unclear: bool

    def __init__(self, dim_in: int, dim_out: int, options: SimOptions) -> None:
        super().__init__()
        add_sim(self, dim_in, dim_out, options)

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Return x."""
        return x


def attach_sim(
    model: nn.Module,
    layers: Layers,
    sample_input: Any = None,
    sim_cfg: SimOptions | Mapping[str, Any] | None = None,
    *,
    proj_type: ProjectionType = SimOptions.proj_type,
    token_sampling_ratio: float = SimOptions.token_sampling_ratio,
    channel_sampling_ratio: float = SimOptions.channel_sampling_ratio,
    token_sampling_type: SamplingType = SimOptions.token_sampling_type,
    loss_type: LossType = SimOptions.loss_type,
    beta: float = SimOptions.beta,
    proj_hidden: int = SimOptions.proj_hidden,
    proj_dim: int = SimOptions.proj_dim,
) -> list[str]:
    """Put SIM on blocks of a finished model without touching its source.

    The parameters exist at once, as `<block>.sim`, on the block's device: attach before the
    optimizer and DistributedDataParallel are made. If anything is wrong nothing is attached.

    >>> attach_sim(torchvision.models.resnet18(), "layer?.*")

    Args:
        model: The model; its blocks get a child `sim` and a forward hook.
        layers: Which blocks: names, globs, types, ... by the rule of `select_layers`.
        sample_input: An input of the model (a tuple: its positional arguments, a mapping: its
            keywords), run twice in eval mode to see the blocks' dims and where samples and channels
            lie. Without it dims are read off the modules (in_channels, in_features, ... of the
            block or its first layer, out_channels, ... of its last), and where they lie is seen
            at each block's first forward pass in training.
        sim_cfg: Options that override all others ("loss_beta" is "beta"), or `SimOptions`.
        proj_type: See `SimOptions`.
        token_sampling_ratio: See `SimOptions`.
        channel_sampling_ratio: See `SimOptions`.
        token_sampling_type: See `SimOptions`.
        loss_type: See `SimOptions`.
        beta: See `SimOptions`.
        proj_hidden: See `SimOptions`.
        proj_dim: See `SimOptions`.

    Returns:
        Names of the blocks, in the model's order.

    Raises:
        ValueError: If an entry of `layers` matches nothing, an option is wrong, dims cannot be
            seen, or a block has SIM already or cannot have it.
        TypeError: If an entry of `layers` selects nothing by its type.
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
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "attach_sim: attach before DistributedDataParallel is made, which would "
            "not see the new parameters"
        )
    blocks = _select_blocks(model, layers)
    for name, block in blocks.items():
        _refuse_unfit(name, block)
    axes: dict[str, CallAxes] = {}
    if sample_input is None:
        dims = {name: _dims_of_modules(name, block) for name, block in blocks.items()}
    else:
        axes = _axes_from_sample(model, blocks, sample_input)
        dims = {name: _dims_of_run(axes[name]) for name in blocks}
    # all of them before the first is attached
    sims = {name: SIM(*dims[name], options) for name in blocks}
    for name, block in blocks.items():
        sim = sims[name].to(_first_float_tensor(block, model)).train(block.training)
        sim.sim_axes = axes.get(name)
        sim.sim_by_convention = False
        sim.sim_time_unclear = not axes and has_time_first(model) and not has_time_first(block)
        sim.handle = block.register_forward_hook(_after_forward, with_kwargs=True)
        block.add_module("sim", sim)
    return list(blocks)


def detach_sim(model: nn.Module) -> list[str]:
    """Remove what `attach_sim` put on: outputs and state_dict are as before.

    Args:
        model: A model to which SIM is attached.

    Returns:
        Names of the blocks that had it.

    Raises:
        ValueError: If nothing is attached (a decorated block is switched off by ratio 0).
    """
    names = []
    for name, block in list(model.named_modules()):
        sim = block._modules.get("sim")
        if isinstance(sim, SIM):
            sim.handle.remove()
            del block.sim
            names.append(name)
    if not names:
        raise ValueError(
            f"detach_sim: nothing is attached to this {type(model).__name__} "
            "(decorated blocks are switched off by token_sampling_ratio=0)"
        )
    return names


def _after_forward(block: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
    """Forward hook of attached blocks; a function of the module, so that it can be pickled."""
    if block.training:
        keep_sim_loss(block, cast(SimHolder, block.sim), (args, kwargs), output)


def _select_blocks(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """The blocks that `layers` selects, in the model's order; SIM's own layers are none."""
    sim_modules: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, (SIM, Projection)):
            sim_modules.update(module.modules())
    return select_layers(model, layers, exclude=lambda name, module: module in sim_modules)


def _refuse_unfit(name: str, block: nn.Module) -> None:
    refuse_script(name, block)
    if hasattr(block, "sim") or "_sim_pending" in vars(block):
        raise ValueError(f"attach_sim: {name!r} has SIM, or an attribute `sim`, already")
    if isinstance(block, (nn.ModuleList, nn.ModuleDict)):
        raise ValueError(
            f"attach_sim: {name!r} is a {type(block).__name__}, which never runs: name its children"
        )


def _first_float_tensor(block: nn.Module, model: nn.Module) -> Tensor:
    """A parameter of the block, else of the model, whose device and dtype SIM takes over."""
    for module in (block, model):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return parameter
    return torch.empty(0)


# ---- numbers of channels -------------------------------------------------------------------------

# attributes in which torch's and torchvision's modules keep their number of channels, besides
# in_channels, in_features and out_channels, out_features
_WIDTH_NAMES = ("num_features", "num_channels", "normalized_shape", "embed_dim", "hidden_dim")


def _dims_of_modules(name: str, block: nn.Module) -> tuple[int, int]:
    """Dims of the block itself, else of its first and last layer in order of registration."""
    modules = list(block.modules())  # the block comes first
    dim_in = _first_width("in", modules)
    dim_out = _first_width("out", [block, *reversed(modules)])
    if dim_in is None or dim_out is None:
        raise ValueError(
            f"attach_sim: no dims can be read off {name!r} ({type(block).__name__}): "
            "give sample_input="
        )
    return dim_in, dim_out


def _first_width(side: str, modules: list[nn.Module]) -> int | None:
    """The number of channels of the first module that tells one; side is "in" or "out"."""
    names = (f"{side}_channels", f"{side}_features", *_WIDTH_NAMES)
    for module in modules:
        for name in names:
            value = getattr(module, name, None)
            if isinstance(value, tuple) and value:
                value = value[-1]  # LayerNorm's normalized_shape
            if isinstance(value, int) and value > 0:
                return value
    return None


def _axes_from_sample(
    model: nn.Module, blocks: dict[str, nn.Module], sample_input: Any
) -> dict[str, CallAxes]:
    """Where samples and channels lie in the blocks' x and y, seen in runs that leave no trace."""
    axes = axes_of_run(unwrap(model), blocks, sample_input)
    missing = [name for name in blocks if name not in axes]
    if missing:
        raise ValueError(f"attach_sim: no floating tensors of sample_input's run in {missing}")
    for name in blocks:
        for verb, side in (("takes", axes[name].taken), ("gives", axes[name].given)):
            if side.why:
                raise ValueError(f"attach_sim: what {name!r} {verb} {fact_of(side)}")
            if side.width is None:
                raise ValueError(
                    f"attach_sim: which axis of what {name!r} {verb} holds the channels is not "
                    "known: attach to layers inside of it"
                )
    return axes


def _dims_of_run(axes: CallAxes) -> tuple[int, int]:
    """The numbers of channels of a block's x and y."""
    assert axes.taken.width is not None and axes.given.width is not None
    return axes.taken.width, axes.given.width
