"""The figures of the lessons: pure functions from results to a matplotlib Figure.

Nothing here computes a result. What is common to all of them is in `style`, and its names are here
as well: `figures.new_figure`, `figures.show`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from simlab.stats import interval_table, mean_and_interval

from .diagrams import simsiam_diagram
from .style import (
    BLUE,
    CLASS_COLOURS,
    DASHES,
    FONT,
    GREEN,
    MARKERS,
    PALETTE,
    SKY,
    VERMILION,
    label,
    look_of,
    looks_of,
    new_figure,
    png,
    show,
)

__all__ = [
    "BLUE",
    "CLASS_COLOURS",
    "DASHES",
    "FONT",
    "GREEN",
    "MARKERS",
    "PALETTE",
    "SKY",
    "VERMILION",
    "accuracy_bars",
    "budget_curves",
    "confusion_matrix",
    "difference_points",
    "feature_map",
    "image_rows",
    "label",
    "look_of",
    "looks_of",
    "new_figure",
    "plot_sweep",
    "png",
    "show",
    "simsiam_diagram",
    "training_curves",
]

SMALLEST_SHARE = 0.05  # cells of a confusion matrix below it are not annotated


def image_rows(
    rows: Mapping[str, Tensor],
    titles: Mapping[str, Sequence[str]] | None = None,
    right: Mapping[str, Sequence[bool | None]] | None = None,
) -> Figure:
    """Draw rows of images.

    Args:
        rows: Images [N, C, H, W] by the row's name, uint8 or float in 0 .. 1.
        titles: A word above each image.
        right: Whether each image is of the right class: solid green frame; wrong: dashed orange
            frame, so that a grey print can be read; None: no frame.
    """
    columns = max(len(images) for images in rows.values())
    figure, grid = new_figure(columns, len(rows), 1.05 * columns + 1.2, 1.2 * len(rows))
    axes = np.reshape(grid, (len(rows), columns))
    for row_axes, (name, images) in zip(axes, rows.items(), strict=True):
        row_axes[0].set_ylabel(name, fontsize=FONT, rotation=0, ha="right", va="center")
        for ax in row_axes[len(images) :]:
            ax.set_axis_off()
        for i, image in enumerate(images.detach().cpu()):
            _draw_image(row_axes[i], image)
            row_axes[i].set_title(titles[name][i] if titles else "", fontsize=FONT - 2)
            _draw_frame(row_axes[i], right[name][i] if right else None)
    return figure


def _draw_image(ax: Axes, image: Tensor) -> None:
    pixels = image.permute(1, 2, 0).numpy()  # [C, H, W] -> [H, W, C]
    brightest = 255 if pixels.dtype == np.uint8 else 1
    ax.imshow(np.clip(pixels / brightest, 0, 1), cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])


def _draw_frame(ax: Axes, is_right: bool | None) -> None:
    color, dashes = (GREEN, "-") if is_right else (VERMILION, (0, (2, 3)))
    ax.spines[:].set(visible=is_right is not None, lw=3, color=color, ls=dashes)


def training_curves(
    histories: Mapping[str, pd.DataFrame],
    baselines: Mapping[str, float],
    loss_axis: str = "loss",
) -> Figure:
    """Draw loss, std of z and kNN accuracy over the epochs, of one run or several.

    Args:
        histories: Each run's history by its name.
        baselines: kNN accuracies of encoders that were not trained, as horizontal lines.
        loss_axis: The loss in words, as `Method.loss_axis` has it.
    """
    figure, (loss, std, knn) = new_figure(3, width=10.5, height=3.0)
    looks = looks_of(histories)
    for name, history in histories.items():
        line = looks[name] | {"marker": ""}
        loss.plot(history["epoch"], history["loss"], label=name, **line)
        std.plot(history["epoch"], history["std_ratio"], **line)
        measured = history.reindex(columns=["epoch", "knn"]).dropna()  # without labels none is
        knn.plot(measured["epoch"], measured["knn"], **looks[name])
    looks_of_baselines = looks_of(baselines)
    for name, accuracy in baselines.items():
        _draw_baseline(knn, name, accuracy, looks_of_baselines[name]["linestyle"])
    std.axhline(1, color="0.45", linestyle=":", linewidth=1)
    std.set_ylim(0, 1.15)
    label(loss, loss_axis, "epoch")
    label(std, "normalised std of z", "epoch")
    label(knn, "kNN accuracy", "epoch")
    if len(histories) > 1:
        loss.legend(fontsize=FONT - 2, frameon=False)
    return figure


def _draw_baseline(ax: Axes, name: str, accuracy: float, dashes: Any) -> None:
    ax.axhline(accuracy, color="0.45", linestyle=dashes, linewidth=1)
    ax.annotate(
        name,
        (0.99, accuracy),
        xycoords=("axes fraction", "data"),
        fontsize=FONT - 2,
        ha="right",
        va="bottom",
        color="0.3",
    )


def feature_map(points: Mapping[str, np.ndarray], labels: Tensor, classes: Sequence[str]) -> Figure:
    """Draw two-dimensional maps [N, 2] side by side, a colour and a marker for every class.

    Images without a label (-1) are small grey dots.
    """
    figure, grid = new_figure(len(points), height=4.2)
    axes = np.atleast_1d(grid)
    classes_of_points = labels.cpu().numpy()
    for ax, (name, xy) in zip(axes, points.items(), strict=True):
        for c, class_name in enumerate(classes):
            x, y = xy[classes_of_points == c].T
            color = CLASS_COLOURS[c % len(CLASS_COLOURS)]
            marker = MARKERS[c % len(MARKERS)]
            ax.scatter(
                x, y, s=14, alpha=0.75, label=class_name, color=color, marker=marker, linewidths=0
            )
        x, y = xy[classes_of_points < 0].T
        if len(x):
            ax.scatter(x, y, s=6, label="no label", color="0.6", linewidths=0)
        label(ax, name)
        ax.set(xticks=[], yticks=[])
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside right center",
        fontsize=FONT - 2,
        frameon=False,
        markerscale=2,
    )
    return figure


def accuracy_bars(
    table: pd.DataFrame, value: str, name: str, title: str = "", half_width: str = ""
) -> Figure:
    """Draw horizontal bars, one for each row of `table`.

    Args:
        table: A row a bar.
        value: The column of the bars' lengths.
        name: The column of their names.
        title: Of the figure.
        half_width: The column of half the intervals' widths; empty: no intervals.
    """
    figure, ax = new_figure(width=8, height=0.45 * len(table) + 1.1)
    error = table[half_width] if half_width else None
    bars = ax.barh(table[name], table[value], xerr=error, color=SKY, ecolor="0.2", height=0.65)
    ax.bar_label(bars, fmt="{:.1%}", padding=4, fontsize=FONT - 1)
    ax.invert_yaxis()  # the first row is on top
    ax.margins(x=0.12)
    ax.xaxis.set_major_formatter("{x:.0%}")
    label(ax, title, "accuracy on the test images")
    return figure


def difference_points(table: pd.DataFrame, x: str, title: str = "") -> Figure:
    """Draw differences as dots with their intervals, around a line at none.

    Args:
        table: A row a difference, by its name: points, and half, half the interval's width.
        x: What the differences are of.
        title: Of the figure.
    """
    figure, ax = new_figure(width=8, height=0.4 * len(table) + 1.1)
    names = list(table.index)
    ax.errorbar(
        table["points"], range(len(names)), xerr=table["half"], fmt="o", capsize=4, color=BLUE
    )
    ax.axvline(0, color="0.3", linewidth=1)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()  # the first row is on top
    ax.margins(y=0.08)
    label(ax, title, x)
    return figure


def budget_curves(
    table: pd.DataFrame, title: str = "linear probe: mean and 95 % interval"
) -> Figure:
    """Draw accuracy over the number of labels, a line an encoder with its 95 % t-interval."""
    figure, ax = new_figure(width=8, height=4.2)
    groups = {str(name): rows for name, rows in table.groupby("encoder", sort=False)}
    looks = looks_of(groups)
    for name, rows in groups.items():
        mean, half_width = mean_and_interval(rows.groupby("labels")["accuracy"])
        ax.errorbar(mean.index, mean, yerr=half_width, label=name, capsize=3, **looks[name])
    ax.set_xscale("log")
    ax.set_xticks(sorted(table["labels"].unique()), minor=False)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:.0%}")
    label(ax, title, "labelled images", "test accuracy")
    figure.legend(loc="outside right center", fontsize=FONT - 1, frameon=False)
    return figure


def confusion_matrix(truth: Tensor, predicted: Tensor, classes: Sequence[str]) -> Figure:
    """Draw the percentage of each true class (rows) that was predicted as each class (columns)."""
    from sklearn.metrics import ConfusionMatrixDisplay

    figure, ax = new_figure(width=6.6, height=5.6)
    display = ConfusionMatrixDisplay.from_predictions(
        truth.cpu(),
        predicted.cpu(),
        labels=range(len(classes)),
        display_labels=classes,
        normalize="true",
        values_format=".0%",
        cmap="Blues",
        xticks_rotation=45,
        ax=ax,
        im_kw={"vmin": 0, "vmax": 1},
    )
    display.im_.colorbar.ax.yaxis.set_major_formatter("{x:.0%}")
    for share, text in zip(display.confusion_matrix.flat, display.text_.flat, strict=True):
        percent = f"{100 * share:.0f}" if share >= SMALLEST_SHARE else ""
        text.set(text=percent, fontsize=FONT - 2)
    label(ax, "per cent of each true class", "predicted label", "true label")
    return figure


def plot_sweep(table: pd.DataFrame, x: str, y: str, group: str | None = None) -> Figure:
    """Draw `simlab.stats.interval_table`; a single seed is a point without a bar."""
    rows = interval_table(table, x, y, group)
    figure, ax = new_figure(width=6.0, height=4.0)
    groups = rows.groupby(group) if group else [("", rows)]
    for i, (name, members) in enumerate(groups):
        ax.errorbar(
            members[x],
            members["mean"],
            members["high"] - members["mean"],
            color=PALETTE[i % len(PALETTE)],
            marker=MARKERS[i % len(MARKERS)],
            capsize=3,
            label=f"{group} = {name!s}",
        )
    label(ax, f"mean, 95 % t interval; {rows['n'].min()} or more seeds", x, y)
    if group:
        ax.legend()
    return figure
