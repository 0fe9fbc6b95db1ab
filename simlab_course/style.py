"""How the course's figures look, and how they get into a notebook with their text alternative.

The colours are Okabe and Ito's, which people with any colour vision can tell apart; lines differ in
their dashes as well, so that a grey print can be read. Nothing here touches matplotlib's global
state.
"""

import base64
import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito, "Color Universal Design", 2008; black first, yellow left out (too light on white)
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BLACK, BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE = PALETTE
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
FONT = 11  # points; readable from the back of a room at the figures' usual width


def new_figure(
    columns: int = 1, rows: int = 1, width: float = 9.0, height: float = 3.2
) -> tuple[Figure, Any]:
    """Make a white figure with axes, as `plt.subplots` does, in the course's style.

    Lines that are given no colour and dashes get those of the palette.

    Args:
        columns: Number of axes side by side.
        rows: Number of axes on top of each other.
        width: In inches.
        height: In inches.

    Returns:
        The figure; and its axes: one, an array [columns], or an array [rows, columns].
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns)
    for ax in figure.axes:
        ax.set_prop_cycle(color=PALETTE[1:], linestyle=DASHES[:-1])
        ax.tick_params(labelsize=FONT - 2)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(ax: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Set the title and the labels of both axes."""
    ax.set_title(title, fontsize=FONT, loc="left")
    ax.set_xlabel(x, fontsize=FONT)
    ax.set_ylabel(y, fontsize=FONT)


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook with a text alternative: what there is to see in it."""
    from IPython.display import display  # only notebooks need it

    data = {"image/png": png(figure), "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def png(figure: Figure) -> str:
    """Return a figure as a PNG in base64, which notebooks and HTML take."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
