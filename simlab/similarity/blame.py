"""Errors that say which model and which of its layers they come from."""

import contextlib
import traceback
from collections.abc import Iterator

from torch import nn

from ..layers import named_layers, unwrap


@contextlib.contextmanager
def blamed(name: str, model: nn.Module, hint: str = "") -> Iterator[None]:
    """Put the model's name, and its layer's, in front of an error's message; its type stays.

    Args:
        name: of the model.
        model: the model that runs inside the block.
        hint: behind the message, where the call itself is at fault.
    """
    try:
        yield
    except Exception as error:
        layer = layer_at_fault(error, model)
        place = f"model {name!r}"
        if layer:
            place += f", layer {layer!r}"
        words = f"{place}: {error}"
        if not layer and isinstance(error, TypeError):
            words += hint
        if len(error.args) == 1 and str(error) == str(error.args[0]):
            error.args = (words,)
        else:  # of a kind that words its message itself
            error.add_note(words)
        raise


def layer_at_fault(error: Exception, model: nn.Module) -> str:
    """The innermost layer that ran when the error was raised; "" where it was the model itself."""
    names: dict[int, str] = {}
    for name, module in named_layers(model).items():
        names.setdefault(id(module), name)
    names[id(unwrap(model))] = ""
    fault = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        fault = names.get(id(owner), fault)
    return fault
