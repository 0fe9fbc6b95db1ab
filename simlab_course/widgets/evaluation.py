"""Nearest neighbours, label budgets and SIM's weight: results of evaluation to explore."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from simlab.data import Dataset
from simlab.evaluate import Features
from simlab.stats import mean_and_interval
from simlab_course import figures

from .explorer import Drawing, Explorer, buttons, require_table, slider, steps


def neighbour_browser(encoded: Mapping[str, Features], data: Dataset) -> Explorer:
    """Show a test image and its nearest training images, a row for every encoder.

    Frames and words tell which are of the query's class; images without a label have no frame.

    Args:
        encoded: What `encode` returns, by the encoder's name; similarity is the cosine.
        data: The images.
    """
    bank = {}
    for name, feats in encoded.items():
        bank[name] = F.normalize(feats.train[: len(data.train)], dim=1)  # the clean images
        if (len(bank[name]), len(feats.test)) != (len(data.train), len(data.test)):
            raise ValueError(
                f"{name}: features of {len(feats.train)} and {len(feats.test)} images, not "
                f"{len(data.train)} and {len(data.test)}"
            )
    names = [*data.classes, "no label"]  # the last is that of -1
    index_of_class = {}
    for label in data.test.labels.unique().tolist():
        index_of_class[names[label]] = (data.test.labels == label).nonzero()[:, 0]

    def draw(kind: str, number: int, neighbours: int) -> Drawing:
        candidates = index_of_class[kind]
        query = int(candidates[number % len(candidates)])
        rows, right, titles, counts = {}, {}, {}, []
        for name, feats in encoded.items():
            similarity = bank[name] @ F.normalize(feats.test[query], dim=0)  # [N]
            nearest = similarity.topk(neighbours).indices
            labels = data.train.labels[nearest].tolist()
            is_right = [_is_right(label, int(data.test.labels[query])) for label in labels]
            query_image = data.test.subset(torch.tensor([query])).images
            rows[name] = torch.cat([query_image, data.train.subset(nearest).images])
            right[name] = [None, *is_right]
            titles[name] = ["query", *(names[label] for label in labels)]
            counts.append(f"{name} {is_right.count(True)} of {neighbours}")
        alt = (
            f"Test image {query}, of the class {kind}, and its {neighbours} nearest training "
            f"images. Of the same class, in a green frame: {'; '.join(counts)}."
        )
        return figures.image_rows(rows, titles, right), alt

    return Explorer(
        draw,
        kind=buttons("class of the query", index_of_class),
        number=slider("number of the query", 0, 0, 49, 1),
        neighbours=slider("neighbours", 7, 1, 9, 1),
    )


def _is_right(label: int, wanted: int) -> bool | None:
    """Tell whether a neighbour is of the query's class; None where one of them has no label."""
    return label == wanted if min(label, wanted) >= 0 else None


def budget_slider(table: pd.DataFrame) -> Explorer:
    """Show how many labels other encoders need for what one of them does with few.

    Args:
        table: `probe_table`'s, with the columns encoder, labels, accuracy and seed.
    """
    require_table(table, ["encoder", "labels", "accuracy"], ["encoder", "labels"])
    means = table.pivot_table("accuracy", "labels", "encoder", sort=False).sort_index()

    def draw(encoder: str, labels: int) -> Drawing:
        target = float(means[encoder][labels])
        needs = "; ".join(_labels_needed(means.drop(columns=encoder), target))
        figure = figures.budget_curves(table)
        ax = figure.axes[0]
        ax.axvline(labels, color="0.5", linestyle=":", zorder=0)
        ax.axhline(target, color="0.5", linestyle=":", zorder=0)
        question = f"{encoder}, {labels:,} labels: {target:.1%}. As good with how many labels?"
        title = f"{question}\n{fill(needs, 70)}"
        figures.label(ax, title, "labelled images", "test accuracy")
        alt = (
            f"Accuracy of {means.shape[1]} encoders over the number of labels. {encoder} with "
            f"{labels:,} labels: {target:.1%}. To be as good need, of the budgets here: {needs}."
        )
        return figure, alt

    options = [(f"{n:,}", n) for n in means.index.tolist()]
    return Explorer(draw, encoder=buttons("encoder", means), labels=steps("labels", options))


def _labels_needed(means: pd.DataFrame, target: Any) -> list[str]:
    """Say for each encoder (column) with which budget (row) it first reaches an accuracy."""
    needs = []
    for name, mean in means.items():
        enough = mean.index[mean >= target]
        if len(enough):
            needs.append(f"{name!s} {enough[0]:,}")
        else:
            needs.append(f"{name!s} more than {mean.dropna().index[-1]:,}")
    return needs


def sim_beta(table: pd.DataFrame) -> Explorer:
    """Show what SIM's weight beta does: a metric over the betas of a sweep, one of them marked.

    Args:
        table: A row a run with the columns beta, seed and numbers to look at, of which those that
            differ are offered; a run without a number (NaN) is left out.
    """
    require_table(table, ["beta", "seed"], ["beta"])
    numbers = table.select_dtypes("number").columns.difference(["beta", "seed"], sort=False)
    metrics = [name for name in numbers if table[name].nunique() > 1]
    if not metrics:
        raise ValueError(f"no column of numbers beside beta and seed: {', '.join(table.columns)}")
    betas = sorted(table["beta"].unique())
    as_text = "{:g}".format

    def draw(beta: float, metric: str) -> Drawing:
        measured = table.dropna(subset=[metric])
        mean, half_width = mean_and_interval(measured.groupby("beta")[metric])
        figure, ax = figures.new_figure(width=8, height=4.2)
        ax.xaxis.update_units([as_text(b) for b in betas])  # words: 0 has no place on a log axis
        ax.plot(measured["beta"].map(as_text), measured[metric], "o", color="0.6", label="one run")
        ax.errorbar(
            mean.index.map(as_text),
            mean,
            yerr=half_width.fillna(0),
            marker="s",
            capsize=4,
            linestyle="-",
            color=figures.BLUE,
            label="mean, 95 % interval",
        )
        ax.axvline(as_text(beta), color=figures.VERMILION, linestyle="--", zorder=0)
        sentence = _describe_beta(measured, mean, half_width, beta, metric)
        figures.label(ax, sentence, r"SIM's weight $\beta$", metric)
        ax.legend(fontsize=figures.FONT - 2, frameon=False)
        alt = f"{metric} over {len(betas)} betas, mean and interval over seeds. {sentence}."
        return figure, alt

    options = [(as_text(b), b) for b in betas]
    return Explorer(draw, beta=steps("beta", options), metric=buttons("metric", metrics))


def _describe_beta(
    measured: pd.DataFrame, mean: pd.Series, half_width: pd.Series, beta: float, metric: str
) -> str:
    n = int((measured["beta"] == beta).sum())
    if n == 0:
        return f"{metric} was not measured at beta {beta:g}"
    interval = f" ± {half_width[beta]:.2g}, {n} seeds" if n > 1 else ", 1 seed"
    sentence = f"{metric} at beta {beta:g}: {mean[beta]:.4g}{interval}"
    lowest = mean.index[0]
    if beta != lowest:
        sentence += f"; {mean[beta] - mean[lowest]:+.3g} against beta {lowest:g}"
    return sentence
