"""SIM on a finished model: `attach_sim` puts it on blocks by forward hooks, `detach_sim` removes it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .blocks import Projection, SimHolder, add_sim, first_tensor, keep_sim_loss
from .options import SimOptions


class SIM(nn.Module):
    """The child `sim` of an attached block: its options and projections, see `blocks.SimHolder`.

    As a layer it is the identity, since a Sequential runs all of its children.
    """

    handle: RemovableHandle  # of the block's forward hook

    def __init__(self, dim_in: int, dim_out: int, options: SimOptions) -> None:
        super().__init__()
        add_sim(self, dim_in, dim_out, options)

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Return x."""
        return x


def attach_sim(
    model: nn.Module,
    layers: Any,
    sample_input: Any = None,
    sim_cfg: SimOptions | Mapping[str, Any] | None = None,
    **options: Any,
) -> list[str]:
    """Put SIM on blocks of a finished model without touching its source.

    The parameters exist at once, as `<block>.sim`, on the block's device: attach before the
    optimizer and DistributedDataParallel are made. If anything is wrong nothing is attached.

    >>> attach_sim(torchvision.models.resnet18(), "layer?.*")

    Args:
        model: The model; its blocks get a child `sim` and a forward hook.
        layers: Which blocks, in the terms of `layers.select`: names, globs, types, ...
        sample_input: An input of the model (a tuple: its positional arguments), run once in eval
            mode to see the blocks' dims. Without it they are read off the modules: in_channels,
            in_features, ... of the block or its first layer, out_channels, ... of its last.
        sim_cfg: Options that override those below ("loss_beta" is "beta"), or `SimOptions`.
        **options: Fields of `SimOptions`.

    Returns:
        Names of the blocks, in the model's order.

    Raises:
        ValueError: If an entry of `layers` matches nothing, an option is wrong, dims cannot be
            seen, or a block has SIM already or cannot have it.
    """
    sim_options = SimOptions.read(options, sim_cfg)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "attach_sim: attach before DistributedDataParallel is made, which would "
            "not see the new parameters"
        )
    blocks = _select_blocks(model, layers)
    for name, block in blocks.items():
        _refuse_unfit(name, block)
    if sample_input is None:
        dims = {name: _dims_of_modules(name, block) for name, block in blocks.items()}
    else:
        dims = _dims_of_run(model, blocks, sample_input)
    # all of them before the first is attached
    sims = {name: SIM(*dims[name], sim_options) for name in blocks}
    for name, block in blocks.items():
        sim = sims[name].to(_first_float_tensor(block, model)).train(block.training)
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
    for name, block in model.named_modules():
        sim = block._modules.get("sim")
        if isinstance(sim, SIM):
            sim.handle.remove()
            del block._modules["sim"]
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
