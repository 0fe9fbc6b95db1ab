"""Images of a comparison: draw(result) -> Axes. No global style is touched."""

from typing import Any

import numpy as np


def _axes(ax: Any, width: float, height: float) -> Any:
    import matplotlib.pyplot as plt

    return ax if ax is not None else plt.subplots(figsize=(width, height), layout="constrained")[1]


def _ticks(axis: Any, names: list[str]) -> None:
    """Layer names; when they would overlap, every second, third, ... one."""
    places = np.arange(0, len(names), -(-len(names) // 40))
    axis.set_ticks(
        places,
        [names[i] for i in places],
        fontsize=7 if len(names) > 12 else 9,
        rotation=90 if axis.axis_name == "x" else 0,
    )


def _label(result: Any, measure: str) -> str:
    name, kind = measure.replace("_", " ").replace("cka", "CKA"), result.info["kinds"][measure]
    return name if kind in name else f"{name} ({kind})"


def _title(result: Any, measure: str) -> str:
    estimator = f", {result.info['estimator']}" if measure in result.groups else ""
    return f"{result.info['samples']:,} samples{estimator}"


def _image(
    ax: Any,
    result: Any,
    values: np.ndarray,
    measure: str,
    cmap: str,
    names: tuple[list[str], list[str]],
) -> None:
    """`values` as a heat map with fixed limits; names of columns (x) and rows (y)."""
    import matplotlib as mpl

    low, high = result.info["limits"][measure]
    shown = ax.imshow(
        np.ma.masked_invalid(values),
        vmin=low,
        vmax=high,
        aspect="auto",
        cmap=mpl.colormaps[cmap].with_extremes(bad="0.75"),
        interpolation="nearest",
    )
    finite = values[np.isfinite(values)]
    below, above = (finite < low - 1e-6).any(), (finite > high + 1e-6).any()
    ends = [["neither", "max"], ["min", "both"]][int(below)][int(above)]
    ax.figure.colorbar(shown, ax=ax, extend=ends).set_label(
        _label(result, measure) + "\n(grey: undefined)" * (len(finite) < values.size)
    )
    _ticks(ax.xaxis, names[0])
    _ticks(ax.yaxis, names[1])


def matrix(
    result: Any,
    ax: Any = None,
    a: str | None = None,
    b: str | None = None,
    measure: str | None = None,
    cmap: str = "viridis",
) -> Any:
    """Heat map of model a's layers (y, input at the bottom) by model b's (x), fixed limits."""
    measure, rows, cols = result.measure(measure), result.of(a), result.of(b, -1)
    ax = _axes(ax, 2.6 + 0.13 * min(len(cols), 60), 2.2 + 0.13 * min(len(rows), 60))
    _image(
        ax,
        result,
        result.block(a, b, measure),
        measure,
        cmap,
        ([layer.name for layer in cols], [layer.name for layer in rows]),
    )
    ax.invert_yaxis()
    ax.set(xlabel=cols[0].model, ylabel=rows[0].model, title=_title(result, measure))
    return ax


def depth(result: Any, ax: Any = None, a: str | None = None, measure: str | None = None) -> Any:
    """A curve over the layers of model a for each other model (itself if alone).

    At the layer of the same name where the layers are the same, else at the most alike layer; a
    model alone is compared with its own last layer. Bands are the intervals, given 10 batches.
    """
    measure, rows = result.measure(measure), result.of(a)
    own, distance = rows[0].model, result.info["kinds"][measure] == "distance"
    ax = _axes(ax, 3.5 + 0.12 * min(len(rows), 60), 4.4)
    for number, other in enumerate([m for m in result.models if m != own] or [own]):
        values = result.block(own, other, measure)
        if other == own:
            columns, how = np.full(len(rows), -1), "its last layer"
        elif [r.name for r in rows] == [c.name for c in result.of(other)]:
            columns, how = np.arange(len(rows)), f"{other}, same layer"
        else:
            signed = np.nan_to_num(-values if distance else values, nan=-np.inf)
            columns, how = signed.argmax(1), f"{other}, most alike layer"
        at = np.arange(len(rows)), columns
        (line,) = ax.plot(values[at], marker="osD^vP*X"[number % 8], markersize=4, label=how)
        if measure in result.groups and result.info["batches"] >= 10:
            low, high = result.interval(own, other, measure, resamples=200)
            ax.fill_between(at[0], low[at], high[at], alpha=0.2, color=line.get_color(), lw=0)
    low, high = result.info["limits"][measure]
    ax.set_ylim(min(low, ax.get_ylim()[0]) - 0.02, max(high, ax.get_ylim()[1]) + 0.02)
    _ticks(ax.xaxis, [layer.name for layer in rows])
    ax.set(xlabel=f"layer of {own}", ylabel=_label(result, measure), title=f"{own} compared with")
    ax.legend(fontsize=8)
    return ax


def overview(
    result: Any,
    ax: Any = None,
    layer: str | int = -1,
    measure: str | None = None,
    cmap: str = "viridis",
) -> Any:
    """Heat map of all models by all models at one layer (name or place; -1 is the last)."""
    measure, names = result.measure(measure), result.models
    ax = _axes(ax, 2.8 + 0.25 * min(len(names), 30), 2.2 + 0.25 * min(len(names), 30))
    values = result.overview(layer, measure)
    _image(ax, result, values, measure, cmap, (names, names))
    low, high = ax.images[0].get_clim()
    for (i, j), value in np.ndenumerate(values if len(names) <= 8 else np.empty((0, 0))):
        ax.text(
            j,
            i,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value < (low + high) / 2 else "black",
        )
    ax.set(title=f"{'last layer' if layer == -1 else f'layer {layer}'}, {_title(result, measure)}")
    return ax
