"""The figure of an evaluation: a panel for each dataset, a row for each protocol and layer."""

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# colours that stay apart for the colour-blind; each with a marker of its own
STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"))
ROW_HEIGHT = 0.45  # inches
PANEL_WIDTH = 4.6


def draw(summary: pd.DataFrame) -> "Figure":
    """Draw accuracies with their intervals.

    Args:
        summary: Columns data, protocol, layer, encoder, accuracy, low and high.
    """
    from matplotlib.figure import Figure

    datasets = list(dict.fromkeys(summary["data"]))
    encoders = list(dict.fromkeys(summary["encoder"]))
    names = summary["protocol"] + summary["layer"].map(lambda layer: f", {layer}" if layer else "")
    summary = summary.assign(row=names)
    rows = list(dict.fromkeys(names))
    height = 1.6 + ROW_HEIGHT * len(rows)
    figure = Figure((PANEL_WIDTH * len(datasets) + 1.2, height), layout="constrained")
    panels = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
    for ax, data in zip(panels, datasets, strict=True):
        _draw_panel(ax, summary[summary["data"] == data], rows, encoders)
        ax.set(title=data, xlabel="accuracy on the test images, 95 % interval")
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_panel(ax: Any, table: pd.DataFrame, rows: list[str], encoders: list[str]) -> None:
    for number, encoder in enumerate(encoders):
        of_encoder = table[table["encoder"] == encoder]
        colour, marker = STYLES[number % len(STYLES)]
        offset = 0.5 * (number + 0.5) / len(encoders) - 0.25
        y = [rows.index(name) + offset for name in of_encoder["row"]]
        below = (of_encoder["accuracy"] - of_encoder["low"]).clip(lower=0)
        above = (of_encoder["high"] - of_encoder["accuracy"]).clip(lower=0)
        ax.errorbar(
            of_encoder["accuracy"],
            y,
            xerr=[below, above],
            fmt=marker,
            color=colour,
            capsize=3,
            label=encoder,
        )
    # Student's interval of two or three seeds may leave 0 .. 1, where nothing is
    low = max(table["low"].min(), 0)
    high = min(table["high"].max(), 1)
    margin = 0.03 * max(high - low, 0.05)
    ax.set_xlim(low - margin, high + margin)
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
