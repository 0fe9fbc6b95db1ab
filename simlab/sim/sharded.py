"""FSDP and SIM: the model may be sharded as a whole, its blocks not apart from it.

FSDP gathers the weights of a part for its forward pass and for the backward pass from its outputs.
SIM's loss is no output of its block, so that its backward pass would find the weights gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

_WHAT_TO_DO = (
    "by itself, and SIM would not find its weights. Shard the whole model alone, "
    "fully_shard(model), or leave SIM off what is sharded"
)
_CLASSES = ("FSDPModule", "FullyShardedDataParallel")  # fully_shard's, and FSDP's older way


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP shards this module; told by names, since importing FSDP takes a second."""
    for cls in type(module).__mro__:
        if cls.__name__ in _CLASSES and cls.__module__.startswith("torch.distributed"):
            return True
    return False


def refuse_sharded_blocks(model: nn.Module, blocks: Iterable[str]) -> None:
    """Refuse FSDP on parts of the model in which blocks have SIM.

    Args:
        model: The model, which may be sharded as a whole.
        blocks: Names of its blocks with SIM.

    Raises:
        RuntimeError: A block is in a part that is sharded by itself.
    """
    units = [name for name, module in model.named_modules() if name and is_sharded(module)]
    for block in blocks:
        for unit in units:
            if block == unit or block.startswith(f"{unit}."):
                raise RuntimeError(f"SIM on {block!r}: FSDP shards {unit!r} {_WHAT_TO_DO}")


def refuse_sharded_block(block: nn.Module, label: str) -> None:
    """Refuse FSDP on a block with SIM itself, when it runs.

    Raises:
        RuntimeError: The block is sharded.
    """
    if is_sharded(block):
        raise RuntimeError(f"{label}: FSDP shards this block {_WHAT_TO_DO}")


def refuse_sharded_model(model: nn.Module) -> None:
    """Refuse to attach to a model that is sharded already.

    Raises:
        ValueError: A module of it is.
    """
    if any(is_sharded(module) for module in model.modules()):
        raise ValueError(
            "attach_sim: attach before the model is sharded by FSDP, which would not see the "
            "new parameters"
        )
