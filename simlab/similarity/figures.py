"""Pictures of a comparison: draw(result) -> Axes. No global style is touched."""

from typing import Any

import numpy as np

BAD = "0.75"  # cells without a value


def _axes(ax: Any, width: float, height: float) -> Any:
    import matplotlib.pyplot as plt

    return ax if ax is not None else plt.subplots(figsize=(width, height), layout="constrained")[1]


def _ticks(axis: Any, names: list[str], room: int = 40) -> None:
    """Layer names; when they would overlap, every second, third, ... one."""
    step = -(-len(names) // room)
    places = np.arange(0, len(names), step)
    axis.set_ticks(places, [names[i] for i in places], fontsize=7 if len(names) > 12 else 9)


def _label(result: Any, measure: str) -> str:
    name, kind = measure.replace("_", " "), result.info["kinds"][measure]
    return name if kind in name else f"{name} ({kind})"


def _title(result: Any, measure: str) -> str:
    estimator = f", {result.info['estimator']}" if measure in result.groups else ""
    return f"{result.info['samples']:,} samples{estimator}"


def _image(ax: Any, result: Any, values: np.ndarray, measure: str, cmap: str, limits: Any) -> None:
    import matplotlib as mpl

    low, high = limits or result.info["limits"][measure]
    shown = ax.imshow(np.ma.masked_invalid(values), cmap=mpl.colormaps[cmap].with_extremes(bad=BAD),
                      vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    finite = values[np.isfinite(values)]
    ends = (finite < low - 1e-6).any(), (finite > high + 1e-6).any()
    bar = ax.figure.colorbar(shown, ax=ax, extend={(0, 0): "neither", (1, 0): "min", (0, 1): "max",
                                                   (1, 1): "both"}[ends])
    bar.set_label(_label(result, measure) + "\n(grey: undefined)" * (len(finite) < values.size))


def matrix(result: Any, ax: Any = None, a: str | None = None, b: str | None = None,
           measure: str | None = None, cmap: str = "viridis",
           limits: tuple[float, float] | None = None, title: str | None = None) -> Any:
    """Heat map of model a's layers (y, input at the bottom) by model b's (x), fixed limits."""
    measure, rows, cols = result._measure(measure), result.of(a), result.of(b, -1)
    ax = _axes(ax, 2.6 + 0.13 * min(len(cols), 60), 2.2 + 0.13 * min(len(rows), 60))
    _image(ax, result, result.block(a, b, measure), measure, cmap, limits)
    ax.invert_yaxis()
    _ticks(ax.xaxis, [layer.name for layer in cols])
    _ticks(ax.yaxis, [layer.name for layer in rows])
    ax.tick_params(axis="x", rotation=90)
    ax.set(xlabel=cols[0].model, ylabel=rows[0].model,
           title=title or _title(result, measure))
    return ax


def depth(result: Any, ax: Any = None, a: str | None = None, measure: str | None = None,
          title: str | None = None) -> Any:
    """A curve over the layers of model a for each other model (itself if alone).

    At the layer of the same name where the layers are the same, else at the most alike layer; a
    model alone is compared with its own last layer. Bands are the intervals, given 10 batches.
    """
    measure, rows = result._measure(measure), result.of(a)
    own, distance = rows[0].model, result.info["kinds"][measure] == "distance"
    others = [m for m in result.models if m != own] or [own]
    ax = _axes(ax, 3.5 + 0.12 * min(len(rows), 60), 4.4)
    for number, other in enumerate(others):
        values = result.block(own, other, measure)
        if other == own:
            columns, how = np.full(len(rows), -1), "its last layer"
        elif [r.name for r in rows] == [c.name for c in result.of(other)]:
            columns, how = np.arange(len(rows)), f"{other}, same layer"
        else:
            filled = np.where(np.isnan(values), np.inf if distance else -np.inf, values)
            columns = filled.argmin(1) if distance else filled.argmax(1)
            how = f"{other}, most alike layer"
        at = np.arange(len(rows)), columns
        (line,) = ax.plot(values[at], marker="osD^vP*X"[number % 8], markersize=4, label=how)
        if measure in result.groups and result.info["batches"] >= 10:
            low, high = result.interval(own, other, measure, resamples=200)
            ax.fill_between(at[0], low[at], high[at], alpha=0.2, color=line.get_color(), lw=0)
    low, high = result.info["limits"][measure]
    ax.set_ylim(min(low, ax.get_ylim()[0]) - 0.02, max(high, ax.get_ylim()[1]) + 0.02)
    _ticks(ax.xaxis, [layer.name for layer in rows])
    ax.tick_params(axis="x", rotation=90)
    ax.set(xlabel=f"layer of {own}", ylabel=_label(result, measure),
           title=title or f"{own} compared with")
    ax.legend(fontsize=8)
    return ax


def overview(result: Any, ax: Any = None, layer: str | int = -1, measure: str | None = None,
             cmap: str = "viridis", limits: tuple[float, float] | None = None,
             title: str | None = None) -> Any:
    """Heat map of all models by all models at one layer (name or place; -1 is the last)."""
    measure, names = result._measure(measure), result.models
    ax = _axes(ax, 2.8 + 0.25 * min(len(names), 30), 2.2 + 0.25 * min(len(names), 30))
    values = result.overview(layer, measure)
    _image(ax, result, values, measure, cmap, limits)
    _ticks(ax.xaxis, names)
    _ticks(ax.yaxis, names)
    ax.tick_params(axis="x", rotation=90)
    if len(names) <= 8:
        low, high = limits or result.info["limits"][measure]
        for (i, j), value in np.ndenumerate(values):
            dark = value < (low + high) / 2
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8,
                    color="white" if dark else "black")
    place = "last layer" if layer == -1 else f"layer {layer}"
    ax.set(title=title or f"{place}, {_title(result, measure)}")
    return ax
