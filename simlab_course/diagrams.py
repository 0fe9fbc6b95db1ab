"""Diagrams of methods: what goes through which network, and where no gradient flows."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from .style import BLUE, FONT, GREEN, ORANGE, VERMILION, new_figure

BOX = 0.92  # height of a box; arrows start and end at the boxes' sides
UP, DOWN = 2.0, 0.0  # where the two views' rows are


def simsiam_diagram() -> Figure:
    """Draw SimSiam: images, two views, one encoder, projector, predictor and stop-gradient."""
    figure, ax = new_figure(width=11, height=3.6)
    ax.set(xlim=(-1.0, 13.9), ylim=(-1.25, 3.0))
    ax.set_axis_off()
    middle = (UP + DOWN) / 2
    _box(ax, 0, middle, "images\nx", "0.35", 1.5)
    for y, view in ((UP, 1), (DOWN, 2)):
        _box(ax, 2.4, y, f"view\nx{view}", "0.35", 1.3)
        _arrow(ax, (0.75, middle), (1.75, y))
        _arrow(ax, (3.05, y), (4.0, y))
        _arrow(ax, (5.6, y), (6.3, y), f"h{view}")
        _arrow(ax, (7.9, y), (8.6, y))
        _box(ax, 9.0, y, f"z{view}", BLUE, 0.8)
    _box(ax, 4.8, middle, "encoder\n[N, D]\n\nthe same\nweights", BLUE, 1.6, UP - DOWN + BOX)
    _box(ax, 7.1, middle, "projector\n[N, d]\n\nthe same\nweights", GREEN, 1.6, UP - DOWN + BOX)
    _box(ax, 10.8, UP, "predictor", ORANGE, 1.5)
    _arrow(ax, (9.4, UP), (10.05, UP))
    _arrow(ax, (11.55, UP), (12.25, UP))
    _box(ax, 12.65, UP, "p1", ORANGE, 0.8)
    _box(ax, 12.65, DOWN, "target", VERMILION, 1.3)
    _arrow(ax, (9.4, DOWN), (12.0, DOWN), "stop-gradient", VERMILION, "--")
    ax.annotate(
        "",
        (12.65, UP - BOX / 2),
        (12.65, DOWN + BOX / 2),
        arrowprops={"arrowstyle": "<->", "color": "black", "linewidth": 1.5},
    )
    ax.text(12.5, middle, "loss\n-cosine", fontsize=FONT, ha="right", va="center")
    words = "and the same once more with the views swapped: p2 predicts z1"
    ax.text(6.45, -1.05, words, fontsize=FONT, ha="center", style="italic")
    return figure


def _box(
    ax: Axes, x: float, y: float, text: str, color: str, width: float, height: float = BOX
) -> None:
    """Draw a box around (x, y) with a word in it."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.12"
    ax.add_patch(
        FancyBboxPatch(corner, width, height, style, facecolor="white", edgecolor=color, lw=2)
    )
    ax.text(x, y, text, fontsize=FONT, ha="center", va="center")


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str = "",
    color: str = "0.3",
    dashes: str = "-",
) -> None:
    """Draw an arrow with a word above its middle."""
    look = {"arrowstyle": "->", "color": color, "linewidth": 1.5, "linestyle": dashes}
    ax.annotate("", end, start, arrowprops=look)
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    ax.text(x, y + 0.12, text, fontsize=FONT, ha="center", va="bottom", color=color)
