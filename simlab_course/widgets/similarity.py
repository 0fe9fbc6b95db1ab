"""What CKA sees, and the layers of two models compared cell by cell."""

from functools import partial
from itertools import product
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from simlab.similarity import Result, cka_similarity
from simlab_course import figures

from .explorer import Drawing, Explorer, buttons, slider, steps

MOUSE_CELLS = 900  # cells of a heat map that can be clicked; each is a button
LONGEST_NAME = 16  # characters of a layer's name beside the map


def cka_playground() -> Explorer:
    """Show what CKA sees and what it does not: a cloud X, a second one Y made of it, and their CKA.

    X are n Gaussian points in d dimensions (the first twice as wide). Y is X rotated in the plane
    of its first two axes, scaled, stretched along the first axis, with a fraction of noise in its
    variance; with a fraction of 1 the two have nothing in common, and the truth is a CKA of 0.
    """

    def draw(
        rotate: int, scale: float, stretch: float, noise: float, n: int, d: int, seed: int
    ) -> Drawing:
        x, y = _two_clouds(rotate, scale, stretch, noise, n, d, seed)
        biased = cka_similarity(x, y, debiased=False)
        debiased = cka_similarity(x, y, debiased=True)
        figure, (x_ax, y_ax, value_ax) = figures.new_figure(3, height=3.6)
        for ax, cloud, name in ((x_ax, x, "X"), (y_ax, y, "Y")):
            ax.scatter(cloud[:, 0], cloud[:, 1], c=x[:, 0], cmap="cividis", s=18)
            ax.set(xlim=(-9, 9), ylim=(-9, 9), aspect="equal")
            figures.label(ax, f"{name}: {n} points, 2 of {d} dimensions", "axis 1", "axis 2")
        colours = [figures.SKY, figures.BLUE]
        bars = value_ax.bar(["biased", "debiased"], [biased, debiased], color=colours)
        value_ax.bar_label(bars, fmt="%.3f", fontsize=figures.FONT + 2, padding=2)
        value_ax.axhline(0, color="0.3", linestyle="-", linewidth=1)
        value_ax.set_ylim(-0.3, 1.15)
        figures.label(value_ax, "linear CKA of X and Y")
        alt = (
            f"CKA of X and Y: biased {biased:.3f}, debiased {debiased:.3f}. X: {n} points in {d} "
            f"dimensions (draw {seed}). Y: X rotated by {rotate} degrees, scaled by {scale:g}, "
            f"stretched {stretch:g} times along an axis, a fraction of {noise:.2f} of its variance "
            "noise. Two scatter plots show both clouds, two bars the values."
        )
        return figure, alt

    return Explorer(
        draw,
        rotate=slider("rotate (degrees)", 0, 0, 180, 15),
        scale=slider("scale", 1.0, 0.25, 2.0, 0.25),
        stretch=slider("stretch", 1.0, 1.0, 5.0, 0.5),
        noise=slider("noise (fraction)", 0.0, 0.0, 1.0, 0.05),
        n=steps("n, points", (5, 10, 20, 50, 100, 200, 500), 4),
        d=steps("d, dimensions", (2, 5, 10, 30, 100, 300, 1000)),
        seed=slider("draw", 0, 0, 20, 1),
    )


def _two_clouds(
    rotate: int, scale: float, stretch: float, noise: float, n: int, d: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw X [n, d] and make Y [n, d] of it."""
    rng = np.random.default_rng(seed)
    angle = np.deg2rad(rotate)
    widths = np.where(np.arange(d) == 0, 2, 1)
    x = rng.standard_normal((n, d)) * widths
    y = x.copy()
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    y[:, :2] = x[:, :2] @ rotation
    y[:, 0] *= stretch
    # axis by axis as wide as Y, so that its fraction is the same everywhere
    unrelated = rng.standard_normal((n, d)) * y.std(0)
    y = scale * ((1 - noise) ** 0.5 * y + noise**0.5 * unrelated)
    return x, y


def layer_heatmap(result: Result) -> Explorer:
    """Show the layers of a comparison's first model by those of its last; pick a cell to read it.

    The cell is picked by two sliders, or clicked. Beside the map stand the values along its row and
    its column, above it the pair's shapes and its value, with the 95 % interval over batches where
    the result has ten of them.

    Args:
        result: What `simlab.similarity.compare` returns.
    """
    rows = result.layers_of(result.models[0])
    columns = result.layers_of(result.models[-1])
    blocks = {name: result.block(measure=name) for name in result.values}
    intervals = {
        name: result.interval(measure=name) for name in blocks if result.has_interval(name)
    }

    def draw(row: int, column: int, measure: str) -> Drawing:
        a, b, block = rows[row], columns[column], blocks[measure]
        figure, (heat, line) = figures.new_figure(2, height=5.0)
        result.plot("matrix", ax=heat, measure=measure)
        _shorten_names(heat)
        _mark_cell(heat, row, column)
        line.plot(block[row], marker="o", label=f"{a.name} with all of {b.model}")
        line.plot(block[:, column], marker="s", label=f"{b.name} with all of {a.model}")
        marked = [block[row, column]] * 2
        line.plot([column, row], marked, "o", markersize=13, fillstyle="none", color="black")
        line.xaxis.get_major_locator().set_params(integer=True)
        for limit in result.limits_of(measure):
            line.axhline(limit, color="0.8", linestyle=":", zorder=0)
        words = measure.replace("_", " ")
        figures.label(line, "along the row and the column", "layer, counted from the input", words)
        figure.legend(loc="outside lower right", fontsize=figures.FONT - 1, frameon=False)
        value = f"{words} {block[row, column]:.3f}"
        if measure in intervals:
            low, high = intervals[measure]
            value += f" (95 % interval {low[row, column]:.3f} to {high[row, column]:.3f})"
        pair = f"{a.label} ({_shape_of(a)}) and {b.label} ({_shape_of(b)})"
        figure.suptitle(f"{pair}\n{value}", fontsize=figures.FONT + 1)
        alt = f"Heat map of {words}, {len(rows)} by {len(columns)} layers. {pair}: {value}."
        return figure, alt

    explorer = Explorer(
        draw,
        row=steps("row", [(layer.name, i) for i, layer in enumerate(rows)]),
        column=steps("column", [(layer.name, i) for i, layer in enumerate(columns)]),
        measure=buttons("measure", blocks),
    )
    if len(rows) * len(columns) <= MOUSE_CELLS:
        _make_clickable(explorer, len(rows), len(columns))
    return explorer


def _shape_of(layer: Any) -> str:
    return " x ".join(str(side) for side in layer.shape)


def _shorten_names(heat: Axes) -> None:
    """Cut the layers' names beside the map: long ones would leave no room for it."""
    heat.tick_params(labelsize=figures.FONT - 2)
    for axis in (heat.xaxis, heat.yaxis):
        axis.set_ticklabels([text.get_text()[-LONGEST_NAME:] for text in axis.get_ticklabels()])
    figures.label(heat, "", heat.get_xlabel(), heat.get_ylabel())  # keeps its title


def _mark_cell(heat: Axes, row: int, column: int) -> None:
    corner = (column - 0.5, row - 0.5)
    for width, color in ((5, "black"), (2.5, "white")):
        frame = Rectangle(corner, 1, 1, fill=False, linewidth=width, edgecolor=color)
        heat.add_patch(frame)


def _make_clickable(explorer: Explorer, rows: int, columns: int) -> None:
    """Lay transparent buttons over the cells of the heat map, the figure's first axes."""
    flat = ipywidgets.Layout(width="auto", height="auto", min_width="0", margin="0", padding="0")
    clear = ipywidgets.ButtonStyle(button_color="transparent")
    for_the_mouse = {}  # the Tab key passes the cells over, since two sliders do the same
    if "tabbable" in ipywidgets.Button.class_trait_names():  # from ipywidgets 8 on
        for_the_mouse["tabbable"] = False

    def pick(row: int, column: int, button: Any) -> None:
        explorer.move(row=row, column=column)

    cells = []
    for row, column in product(reversed(range(rows)), range(columns)):  # the first layer is below
        cell = ipywidgets.Button(layout=flat, style=clear, **for_the_mouse)
        cell.on_click(partial(pick, row, column))
        cells.append(cell)
    here = "1 / 1 / 2 / 2"  # image and buttons share one cell of a grid
    layout = {
        "grid_template_columns": f"repeat({columns}, 1fr)",
        "grid_template_rows": f"repeat({rows}, 1fr)",
        "grid_area": here,
        "grid_gap": "0",
        "overflow": "hidden",
        "width": "auto",
    }
    overlay = ipywidgets.GridBox(cells, layout=layout)

    def cover_map(change: Any = None) -> None:
        overlay.layout.margin = _margins_of_map(explorer)

    cover_map()
    explorer.image.observe(cover_map, "value")
    explorer.image.layout = {"grid_area": here, "margin": "0", "width": "auto"}
    both = ipywidgets.GridBox([explorer.image, overlay], layout={"max_width": "990px"})
    explorer.children = [explorer.children[0], both]


def _margins_of_map(explorer: Explorer) -> str:
    """Return the margins around the figure's first axes: top, right, bottom, left."""
    width, height = explorer.figure.get_size_inches()
    box = explorer.figure.axes[0].get_position()
    aspect = height / width  # margins in CSS are percentages of the width, vertical ones too
    margins = (aspect * (1 - box.y1), 1 - box.x1, aspect * box.y0, box.x0)
    return " ".join(f"{100 * margin:.2f}%" for margin in margins)
