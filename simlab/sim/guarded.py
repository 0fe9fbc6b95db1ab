"""The class of an attached block, by which torch.compile tells it from a block without SIM.

torch.compile reuses what it compiled for one module for every other of the same class, and by
default doesn't look whether they have the same forward hooks. So a model with SIM would run the
code of a model without it, and its loss would be missing. The class is what it always looks at:
an attached block is of a subclass of its own class, with the same name and nothing else in it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}  # with SIM, by the class without


def guard(block: nn.Module) -> None:
    """Make the block an instance of the subclass that stands for "has SIM"."""
    block.__class__ = _class_with_sim(type(block))


def unguard(block: nn.Module) -> None:
    """Give the block its own class back.

    Where others have put a subclass of theirs on top (parametrizations, FSDP) theirs stays.
    """
    original = vars(type(block)).get("_class_without_sim")
    if original is not None:
        block.__class__ = original


def _class_with_sim(cls: type[nn.Module]) -> type[nn.Module]:
    """The one subclass for all blocks of a class, so that they share compiled code."""
    if cls in _CLASSES:
        return _CLASSES[cls]
    members = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": _reduce,
        "_class_without_sim": cls,
    }
    _CLASSES[cls] = type(cls.__name__, (cls,), members)
    return _CLASSES[cls]


def _reduce(block: Any, protocol: Any) -> tuple[Any, ...]:
    """Pickle and copy the block by its own class, since nobody can import the other."""
    original = type(block)._class_without_sim
    rebuild, arguments, *state = original.__reduce_ex__(block, protocol)
    arguments = tuple(original if value is type(block) else value for value in arguments)
    return _rebuild, (rebuild, arguments), *state


def _rebuild(rebuild: Any, arguments: tuple) -> nn.Module:
    """Make an empty block again; its state follows."""
    block: nn.Module = rebuild(*arguments)
    guard(block)
    return block
