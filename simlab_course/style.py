"""How the course's figures look, and how they get into a notebook with their text alternative.

The colours are Okabe and Ito's, which people with any colour vision can tell apart; lines differ in
their dashes as well, so that a grey print can be read. A method or a run looks the same in every
figure of the course: `LOOKS` has its colour, dashes and marker. Ten classes of images have ten
colours, `CLASS_COLOURS`. Nothing here touches matplotlib's global state.
"""

import base64
import io
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK = "#000000"
"""The first colour of the palette."""
BLUE = "#0072B2"
"""The second colour of the palette."""
VERMILION = "#D55E00"
"""The third colour of the palette."""
GREEN = "#009E73"
"""The fourth colour of the palette."""
PURPLE = "#CC79A7"
"""The fifth colour of the palette."""
SKY = "#56B4E9"
"""The sixth colour of the palette."""
ORANGE = "#E69F00"
"""The seventh colour of the palette."""
PALETTE = (BLACK, BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
"""Okabe & Ito, "Color Universal Design", 2008, without its yellow, which is too light on white."""
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
"""Of lines, as many as colours."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
"""Of points, as many as classes."""
CLASS_COLOURS = (
    "#332288",
    "#88CCEE",
    "#CC6677",
    "#117733",
    "#DDCC77",
    "#AA4499",
    "#44AA99",
    "#000000",
    "#999933",
    "#882255",
)
"""Paul Tol, "Colour Schemes", 2021, "muted", and black: any two of the ten can be told apart."""
FONT = 11
"""Points; readable from the back of a room at the figures' usual width."""

GREY, BROWN, VIOLET, TEAL = "#777777", "#8B5A2B", "#5E3C99", "#44AA99"
SOLID, DASHED, DASHDOT, DOTTED, DASHDOTDOT, LONG, SPARSE = DASHES


class Look(NamedTuple):
    """How a method's or a run's line is drawn."""

    color: str
    linestyle: Any
    marker: str


# One look for each method and run in all figures of the course. Of a method's variants the colour
# is the method's, and the dashes differ.
LOOKS = {
    "raw pixels": Look(GREY, DOTTED, "s"),
    "raw pixels, augmented": Look(GREY, SPARSE, "D"),
    "untrained": Look(GREY, DASHED, "o"),
    "untrained encoder": Look(GREY, DASHED, "o"),
    "supervised": Look(BLACK, SOLID, "^"),
    "from scratch": Look(BLACK, DASHED, "v"),
    "SimSiam": Look(BLUE, SOLID, "o"),
    "SimSiam, linear probe": Look(BLUE, SOLID, "o"),
    "SimSiam, fine-tuned": Look(BLUE, DASHED, "P"),
    "no predictor": Look(ORANGE, DASHED, "s"),
    "no stop-gradient": Look(VERMILION, DASHDOT, "^"),
    "no stop-gradient, no BatchNorm": Look(VERMILION, DOTTED, "v"),
    "no stop-gradient, no BatchNorm, weight decay x20": Look(PURPLE, DASHDOTDOT, "D"),
    "no augmentation": Look(SKY, DASHDOT, "<"),
    "SimSiam + SIM": Look(SKY, DASHDOT, "X"),
    "SimCLR": Look(GREEN, DASHED, "D"),
    "MoCo": Look(GREEN, DASHDOT, "X"),
    "BYOL": Look(SKY, LONG, "P"),
    "SwAV": Look(ORANGE, SOLID, "*"),
    "DINO": Look(ORANGE, DASHDOT, "<"),
    "BarlowTwins": Look(PURPLE, SOLID, "s"),
    "VICReg": Look(PURPLE, DASHED, "v"),
    "WMSE": Look(PURPLE, DASHDOT, "^"),
    "LeJEPA": Look(PURPLE, DOTTED, ">"),
    "EMPSSL": Look(PURPLE, LONG, "*"),
    "MAE": Look(BROWN, SOLID, "s"),
    "SimMIM": Look(BROWN, DASHED, "D"),
    "IJEPA": Look(BROWN, DASHDOT, "X"),
    "Rotation": Look(TEAL, DOTTED, ">"),
}
OTHER_LOOKS = (
    Look(VIOLET, SOLID, "o"),
    Look(TEAL, DASHED, "s"),
    Look(BROWN, DOTTED, "^"),
    Look(SKY, DOTTED, "D"),
    Look(ORANGE, DASHDOTDOT, "v"),
    Look(GREEN, LONG, "X"),
)


def look_of(name: str) -> dict[str, Any]:
    """Return color, linestyle and marker of a method or run, as keywords of `ax.plot`.

    Raises:
        KeyError: It has none; `looks_of` gives one to any name.
    """
    return LOOKS[name]._asdict()


def looks_of(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the looks of several lines of one figure, by name, as keywords of `ax.plot`.

    Names that `LOOKS` does not know get the looks that it does not use, in their order.
    """
    others = itertools.cycle(OTHER_LOOKS)
    return {name: (LOOKS.get(name) or next(others))._asdict() for name in names}


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
