"""Figures of a comparison: draw(result) -> Axes. No global style is touched."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from .result import Result

MAX_TICKS = 40  # layer names on an axis
MANY_TICKS = 12  # from there on they are smaller
MAX_NUMBERS = 8  # models, up to which an overview's values are written into its cells
MARKERS = "osD^vP*X"


def matrix(
    result: "Result",
    ax: "Axes | None" = None,
    a: str | None = None,
    b: str | None = None,
    measure: str | None = None,
    cmap: str = "viridis",
) -> "Axes":
    """Draw a heat map of two models' layers with fixed limits.

    Args:
        result: of `compare`.
        ax: where to draw; None makes a new figure.
        a: the model on y, its input at the bottom; by default the first.
        b: the model on x; by default the last.
        measure: by default the first.
        cmap: name of a colour map.

    Returns:
        The axes drawn on.
    """
    measure = result.measure_name(measure)
    rows = result.layers_of(result.models[0] if a is None else a)
    columns = result.layers_of(result.models[-1] if b is None else b)
    if ax is None:
        ax = _new_axes(2.6 + 0.13 * min(len(columns), 60), 2.2 + 0.13 * min(len(rows), 60))
    values = result.block(a, b, measure)
    _heat_map(ax, result, values, measure, cmap)
    _name_ticks(ax.xaxis, [layer.name for layer in columns], rotation=90)
    _name_ticks(ax.yaxis, [layer.name for layer in rows])
    ax.invert_yaxis()
    ax.set(xlabel=columns[0].model, ylabel=rows[0].model, title=_title(result, measure))
    return ax


def depth(
    result: "Result", ax: "Axes | None" = None, a: str | None = None, measure: str | None = None
) -> "Axes":
    """Draw a curve over the layers of one model for each other model.

    Where both have the same layers it shows the layer of the same name, else the most alike one. A
    model alone is compared with its own last layer. Bands are intervals, given ten batches.

    Args:
        result: of `compare`.
        ax: where to draw; None makes a new figure.
        a: the model whose layers are on x; by default the first.
        measure: by default the first.

    Returns:
        The axes drawn on.
    """
    measure = result.measure_name(measure)
    a = result.models[0] if a is None else a
    names = [layer.name for layer in result.layers_of(a)]
    if ax is None:
        ax = _new_axes(3.5 + 0.12 * min(len(names), 60), 4.4)
    others = [model for model in result.models if model != a] or [a]
    rows = np.arange(len(names))
    for number, other in enumerate(others):
        columns, label = _columns_of_curve(result, a, other, measure)
        values = result.block(a, other, measure)[rows, columns]
        marker = MARKERS[number % len(MARKERS)]
        (line,) = ax.plot(values, marker=marker, markersize=4, label=label)
        if result.has_interval(measure):
            low, high = result.interval(a, other, measure, resamples=200)
            band = low[rows, columns], high[rows, columns]
            ax.fill_between(rows, *band, alpha=0.2, color=line.get_color(), lw=0)
    bottom, top = result.limits_of(measure)
    ax.set_ylim(min(bottom, ax.get_ylim()[0]) - 0.02, max(top, ax.get_ylim()[1]) + 0.02)
    _name_ticks(ax.xaxis, names, rotation=90)
    ax.set(xlabel=f"layer of {a}", ylabel=_label(result, measure), title=f"{a} compared with")
    ax.legend(fontsize=8)
    return ax


def overview(
    result: "Result",
    ax: "Axes | None" = None,
    layer: str | int = -1,
    measure: str | None = None,
    cmap: str = "viridis",
) -> "Axes":
    """Draw a heat map of all models by all models at one layer.

    Args:
        result: of `compare`.
        ax: where to draw; None makes a new figure.
        layer: its name, or its index; -1 is the last.
        measure: by default the first.
        cmap: name of a colour map.

    Returns:
        The axes drawn on.
    """
    measure = result.measure_name(measure)
    names = result.models
    count = min(len(names), 30)
    if ax is None:
        ax = _new_axes(2.8 + 0.25 * count, 2.2 + 0.25 * count)
    values = result.overview(layer, measure)
    _heat_map(ax, result, values, measure, cmap)
    _name_ticks(ax.xaxis, names, rotation=90)
    _name_ticks(ax.yaxis, names)
    if len(names) <= MAX_NUMBERS:
        _write_numbers(ax, values, result.limits_of(measure))
    where = "last layer" if layer == -1 else f"layer {layer}"
    ax.set(title=f"{where}, {_title(result, measure)}")
    return ax


def save(ax: "Axes", path: str | Path) -> None:
    """Write the figure that the axes are in to a file."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(path)


def _columns_of_curve(result: "Result", a: str, other: str, measure: str) -> tuple[np.ndarray, str]:
    """The other model's layer [layers of a] to show for each of a's, and how it was chosen."""
    rows = result.layers_of(a)
    if other == a:
        return np.full(len(rows), -1), "its last layer"
    same_names = [r.name for r in rows] == [c.name for c in result.layers_of(other)]
    if same_names:
        return np.arange(len(rows)), f"{other}, same layer"
    values = result.block(a, other, measure)
    alike = -values if result.is_distance(measure) else values
    return np.nan_to_num(alike, nan=-np.inf).argmax(1), f"{other}, most alike layer"


def _new_axes(width: float, height: float) -> "Axes":
    """Make a figure of that size, in inches, and its axes."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _heat_map(ax: "Axes", result: "Result", values: np.ndarray, measure: str, cmap: str) -> None:
    """Draw `values` with the measure's limits; undefined cells are grey."""
    import matplotlib as mpl

    low, high = result.limits_of(measure)
    image = ax.imshow(
        np.ma.masked_invalid(values),
        vmin=low,
        vmax=high,
        aspect="auto",
        cmap=mpl.colormaps[cmap].with_extremes(bad="0.75"),
        interpolation="nearest",
    )
    finite = values[np.isfinite(values)]
    label = _label(result, measure)
    if len(finite) < values.size:
        label += "\n(grey: undefined)"
    extend = _extend((finite < low - 1e-6).any(), (finite > high + 1e-6).any())
    ax.figure.colorbar(image, ax=ax, extend=extend).set_label(label)


def _extend(below: bool, above: bool) -> str:
    """Which ends of the colour bar are pointed, since there are values outside its limits."""
    if below and above:
        return "both"
    if below:
        return "min"
    return "max" if above else "neither"


def _write_numbers(ax: "Axes", values: np.ndarray, limits: tuple[float, float]) -> None:
    """Write the values into their cells, in a colour that stands out."""
    middle = sum(limits) / 2
    for (row, column), value in np.ndenumerate(values):
        ax.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value < middle else "black",
        )


def _name_ticks(axis: "Axis", names: list[str], rotation: float = 0) -> None:
    """Write names; when they would overlap, every second, third, ... one."""
    step = -(-len(names) // MAX_TICKS)  # rounded up
    positions = np.arange(0, len(names), step)
    axis.set_ticks(
        positions,
        [names[position] for position in positions],
        fontsize=7 if len(names) > MANY_TICKS else 9,
        rotation=rotation,
    )


def _label(result: "Result", measure: str) -> str:
    """The measure in words; its kind too, where the name does not tell it."""
    words = measure.replace("_", " ").replace("cka", "CKA")
    kind = result.info.kinds[measure]
    return words if kind in words else f"{words} ({kind})"


def _title(result: "Result", measure: str) -> str:
    """The number of samples; the estimator too, for the CKA family."""
    title = f"{result.info.samples:,} samples"
    return f"{title}, {result.info.estimator}" if measure in result.group_sums else title
