"""The figures of the notebooks: pure functions from results to a matplotlib Figure.

Nothing here computes a result or touches matplotlib's global state. The colours are Okabe and
Ito's, which people with any colour vision can tell apart; lines differ in their dashes as well, so
that a grey print can be read. `show` puts a figure into a notebook with its text alternative.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from simlab.stats import interval_table, mean_and_interval

# Okabe & Ito, "Color Universal Design", 2008; black first, yellow left out (too light on white)
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
FONT = 11  # points; readable from the back of a room at the figures' usual width


def show(figure: Figure, alt: str):
    """Display a figure in a notebook with a text alternative: what to see in it."""
    from IPython.display import display  # only notebooks need it

    data = {"image/png": png(figure), "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def png(figure: Figure) -> str:
    """A figure as a PNG in base64, which notebooks and HTML take."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def new_figure(
    columns: int = 1, rows: int = 1, width: float = 9.0, height: float = 3.2
) -> tuple[Figure, np.ndarray]:
    """A white figure of `width` x `height` inches and its axes [rows, columns].

    Lines that are given no colour and dashes get those of the palette.
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_prop_cycle(color=PALETTE[1:], linestyle=DASHES[:-1])
        ax.tick_params(labelsize=FONT - 2)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(ax: Axes, title: str = "", x: str = "", y: str = ""):
    ax.set_title(title, fontsize=FONT, loc="left")
    ax.set_xlabel(x, fontsize=FONT)
    ax.set_ylabel(y, fontsize=FONT)


def image_rows(
    rows: Mapping[str, Tensor],
    titles: Mapping[str, Sequence[str]] | None = None,
    right: Mapping[str, Sequence[bool | None]] | None = None,
) -> Figure:
    """Rows of images, each a tensor [N, C, H, W] under its name, uint8 or float in 0 .. 1.

    titles: a word above each. right: what is right gets a green frame, what is wrong an orange one
    with gaps, for grey prints; None gets no frame.
    """
    columns = max(map(len, rows.values()))
    figure, axes = new_figure(columns, len(rows), 1.05 * columns + 1.2, 1.2 * len(rows))
    for own, (name, images) in zip(axes, rows.items(), strict=True):
        own[0].set_ylabel(name, fontsize=FONT, rotation=0, ha="right", va="center")
        for ax in own[len(images) :]:
            ax.set_axis_off()
        for i, image in enumerate(images.detach().cpu()):
            image = image.permute(1, 2, 0).numpy()  # [H, W, C]
            top = 255 if image.dtype == np.uint8 else 1
            own[i].imshow(np.clip(image / top, 0, 1), cmap="gray", vmin=0, vmax=1)
            own[i].set(xticks=[], yticks=[])
            own[i].set_title(titles[name][i] if titles else "", fontsize=FONT - 2)
            verdict = right[name][i] if right else None
            color, dashes = ("#009E73", "-") if verdict else ("#D55E00", (0, (2, 3)))
            own[i].spines[:].set(visible=verdict is not None, lw=3, color=color, ls=dashes)
    return figure


def training_curves(
    histories: Mapping[str, pd.DataFrame], baselines: Mapping[str, float], loss_axis: str = "loss"
) -> Figure:
    """Loss, std of z and kNN accuracy over the epochs, of one run or several.

    `loss_axis` names the loss, as `Method.loss_axis` does.
    `baselines` are kNN accuracies of what was not trained, drawn as horizontal lines.
    """
    figure, ((loss, std, knn),) = new_figure(3, height=3.0)
    for i, (name, history) in enumerate(histories.items()):
        loss.plot(history["epoch"], history["loss"], label=name)
        std.plot(history["epoch"], history["std_ratio"])
        measured = history.dropna(subset=["knn"])
        knn.plot(measured["epoch"], measured["knn"], marker=MARKERS[i])
    for i, (name, accuracy) in enumerate(baselines.items()):
        knn.axhline(accuracy, color="0.45", linestyle=DASHES[i + 1], linewidth=1)
        knn.annotate(
            name,
            (0.99, accuracy),
            xycoords=("axes fraction", "data"),
            fontsize=FONT - 2,
            ha="right",
            va="bottom",
            color="0.3",
        )
    std.axhline(1, color="0.45", linestyle=":", linewidth=1)
    std.set_ylim(0, 1.15)
    label(loss, loss_axis, "epoch")
    label(std, r"std of z, in units of $1/\sqrt{d}$", "epoch")
    label(knn, "kNN accuracy", "epoch")
    if len(histories) > 1:
        loss.legend(fontsize=FONT - 2, frameon=False)
    return figure


def feature_map(points: Mapping[str, np.ndarray], labels: Tensor, classes: Sequence[str]) -> Figure:
    """Two-dimensional maps [N, 2] side by side, a colour and a marker for every class."""
    figure, (axes,) = new_figure(len(points), height=4.2)
    labels = labels.cpu().numpy()
    for ax, (name, xy) in zip(axes, points.items(), strict=True):
        for c, word in enumerate(classes):
            style = {"color": PALETTE[c % 7], "marker": MARKERS[c % 10], "linewidths": 0}
            ax.scatter(*xy[labels == c].T, s=14, alpha=0.75, label=word, **style)
        label(ax, name)
        ax.set(xticks=[], yticks=[])
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside right center",
        fontsize=FONT - 2,
        frameon=False,
        markerscale=2,
    )
    return figure


def accuracy_bars(table: pd.DataFrame, value: str, name: str, title: str = "") -> Figure:
    """Horizontal bars, a row of `table` each."""
    figure, ((ax,),) = new_figure(width=8, height=0.45 * len(table) + 1.1)
    bars = ax.barh(table[name], table[value], color=PALETTE[5], height=0.65)
    ax.bar_label(bars, fmt="{:.1%}", padding=4, fontsize=FONT - 1)
    ax.invert_yaxis()  # the first row is on top
    ax.margins(x=0.12)
    ax.xaxis.set_major_formatter("{x:.0%}")
    label(ax, title, "accuracy on the test images")
    return figure


def budget_curves(table: pd.DataFrame) -> Figure:
    """Accuracy over the number of labels, a line an encoder with its 95 % t-interval over seeds."""
    figure, ((ax,),) = new_figure(width=8, height=4.2)
    for i, (name, own) in enumerate(table.groupby("encoder", sort=False)):
        mean, half = mean_and_interval(own.groupby("labels")["accuracy"])
        ax.errorbar(mean.index, mean, yerr=half, label=name, capsize=3, marker=MARKERS[i % 10])
    ax.set_xscale("log")
    ax.set_xticks(sorted(table["labels"].unique()), minor=False)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:.0%}")
    label(ax, "linear probe: mean and 95 % interval", "labelled images", "test accuracy")
    figure.legend(loc="outside right center", fontsize=FONT - 1, frameon=False)
    return figure


def confusion_matrix(truth: Tensor, predicted: Tensor, classes: Sequence[str]) -> Figure:
    """Per cent of each true class (rows) that were given each class (columns)."""
    from sklearn.metrics import ConfusionMatrixDisplay

    figure, ((ax,),) = new_figure(width=6.6, height=5.6)
    shown = ConfusionMatrixDisplay.from_predictions(
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
    for share, text in zip(shown.confusion_matrix.flat, shown.text_.flat, strict=True):
        text.set(text=f"{100 * share:.0f}" if share >= 0.05 else "", fontsize=FONT - 2)
    label(ax, "per cent of each true class", "said", "true")
    return figure


def plot_sweep(table: pd.DataFrame, x: str, y: str, group: str | None = None) -> Figure:
    """:func:`interval_table` as a matplotlib Figure; a single seed is a point without a bar."""
    rows = interval_table(table, x, y, group)
    figure, [[axes]] = new_figure(width=6.0, height=4.0)
    for i, (name, part) in enumerate(rows.groupby(group) if group else [("", rows)]):
        axes.errorbar(
            part[x],
            part["mean"],
            part["high"] - part["mean"],
            color=PALETTE[i % 7],
            marker=MARKERS[i % 10],
            capsize=3,
            label=f"{group} = {name}",
        )
    label(axes, f"mean, 95 % t interval; {rows['n'].min()} or more seeds", x, y)
    if group:
        axes.legend()
    return figure
