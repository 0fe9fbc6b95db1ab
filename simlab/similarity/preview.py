"""A look at the layers of a model before anything is compared."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..layers import Layers, named_layers, select_layers, tapped

if TYPE_CHECKING:
    import pandas as pd


def preview(model: nn.Module, x: Tensor, layers: Layers | None = None) -> "pd.DataFrame":
    """List the chosen layers in order of execution.

    Args:
        model: the model; it is left as it is.
        x: a batch [n, ...] of at least one sample, as the model expects it.
        layers: see `select_layers`.

    Returns:
        A table with the columns name, type, shape and size (number of values); the last two are
        per sample. Layers that the forward pass does not call stand at the end, without a shape.
    """
    import pandas as pd

    rows = []

    def note(name: str, module: nn.Module, output: Tensor | None) -> None:
        shape = size = None
        if output is not None:
            shape = tuple(output.shape[1:])
            size = output[:1].numel()
        rows.append((name, type(module).__name__, shape, size))

    names = list(select_layers(model, layers))
    with tapped(model, names, note) as forward:
        forward(x)
    called = {row[0] for row in rows}
    modules = named_layers(model)
    for name in names:
        if name not in called:
            rows.append((name, type(modules[name]).__name__, None, None))
    return pd.DataFrame(rows, columns=["name", "type", "shape", "size"])
