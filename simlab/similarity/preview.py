"""A look at the layers of a model before anything is compared."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..layers import Axes, Layers, named_layers, select_layers, tapped

if TYPE_CHECKING:
    import pandas as pd


def preview(model: nn.Module, x: Tensor, layers: Layers | None = None) -> "pd.DataFrame":
    """List the chosen layers in order of execution.

    Args:
        model: the model; it is left as it is.
        x: a batch [n, ...] of at least one sample, as the model expects it.
        layers: see `select_layers`.

    Returns:
        A table with the columns name, type, shape, size (number of values) and channels (their
        number, None where it is not known which axis they are); all but the first two are per
        sample. Layers that the forward pass does not call stand at the end, without a shape.
    """
    import pandas as pd

    rows = []

    def note(name: str, module: nn.Module, output: Tensor | None, axes: Axes) -> None:
        shape = size = channels = None
        if output is not None:
            shape = tuple(output.shape[1:])
            size = output[:1].numel()
            channels = None if axes.channels is None else output.shape[axes.channels]
        rows.append((name, type(module).__name__, shape, size, channels))

    names = list(select_layers(model, layers))
    with tapped(model, names, note) as forward:
        forward(x)
    called = {row[0] for row in rows}
    modules = named_layers(model)
    for name in names:
        if name not in called:
            rows.append((name, type(modules[name]).__name__, None, None, None))
    return pd.DataFrame(rows, columns=["name", "type", "shape", "size", "channels"])
