"""Layer-wise learning rates: the nearer a block is to the image, the less it is changed.

The last block has the rate itself, the one before it `decay` times as much, and so on (ULMFiT,
arXiv 1801.06146; BEiT, arXiv 2106.08254). A block is an element of a Sequential, a ModuleList or a
ModuleDict that holds a matrix or a kernel, and so is such a layer outside of them; what stands
between blocks belongs to the block before it. So the stem of a ResNet is one block, and then each
residual block.
"""

from collections.abc import Iterator

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def depths(module: nn.Module) -> dict[str, int]:
    """Tell which block each parameter belongs to, from the image on: {name: 0, 1, ...}.

    The order is that in which the layers were made part of the module.
    """
    depth_of: dict[str, int] = {}
    depth = 0
    for names in _blocks(module, ""):
        opens = any(module.get_parameter(name).dim() > 1 for name in names)
        has_started = any(module.get_parameter(name).dim() > 1 for name in depth_of)
        if opens and has_started:
            depth += 1
        for name in names:
            depth_of.setdefault(name, depth)
    return depth_of


def rate_factors(module: nn.Module, decay: float) -> dict[str, float]:
    """The learning rate of each parameter, as a multiple of that of the last block.

    Args:
        module: The encoder.
        decay: Rate of a block as a multiple of the next one's.
    """
    depth_of = depths(module)
    last = max(depth_of.values(), default=0)
    return {name: decay ** (last - depth) for name, depth in depth_of.items()}


def _blocks(module: nn.Module, prefix: str) -> Iterator[list[str]]:
    """Yield the names of each block's parameters; those that stand alone as blocks of their own."""
    direct = [prefix + name for name, _ in module.named_parameters(recurse=False)]
    if direct:
        yield direct
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        is_element = isinstance(module, CONTAINERS) and not isinstance(child, CONTAINERS)
        if is_element:
            yield [path + inner for inner, _ in child.named_parameters()]
        else:
            yield from _blocks(child, path)
