"""The collapse lab: its tables, and what the embeddings of its runs are like over the epochs."""

import copy
from collections.abc import Mapping

import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from simlab.data import Dataset
from simlab.evaluate import collapse_metrics, diagnose, has_labels, knn
from simlab.methods import MethodModule, parse_method
from simlab.runs import Run
from simlab.stats import mean_and_interval

from .style import BLUE, FONT, SKY, VERMILION, label, looks_of, new_figure
from .tables import table_path

MEASURES = {
    "loss": "loss",
    "std": "normalised std of z",
    "participation": "participation ratio of z",
    "knn": "kNN accuracy",
}

# ------------------------------------------------------------------------------------- live runs


def embedding_history(run: Run, data: Dataset, k: int = 20, number: int = 1000) -> pd.DataFrame:
    """Measure z of clean test images, and kNN accuracy, after every stored epoch of a run.

    BatchNorm in the projector normalises either by these images, as it does by the batch while
    training, or by its running statistics, as it does in evaluation.

    Args:
        run: From `pretrain`, of a method with a projector, such as SimSiam.
        data: What it was trained on.
        k: Neighbours that vote.
        number: How many test images, evenly spread.

    Returns:
        A row an epoch: std, rank and participation with batch statistics, std_running; knn where
        there are labels.
    """
    spread = torch.linspace(0, len(data.test) - 1, min(number, len(data.test))).long()
    assert data.normalize is not None
    x = data.normalize(data.test.subset(spread).images)  # [n, C, H, W]
    encoder = copy.deepcopy(run.encoder)
    with torch.no_grad():
        feature_dim = encoder(x[:2]).shape[1]
    network = parse_method(run.config["method"]).build(encoder, feature_dim)
    rows = []
    for epoch, path in sorted(run.checkpoint_paths().items()):
        state = run.read_checkpoint(path)["network"]
        by_batch = collapse_metrics(_embed(network, state, x, batch_statistics=True))
        running = _embed(network, state, x, batch_statistics=False)
        row = {name: by_batch[name] for name in ("rank", "participation", "duplicate_fraction")}
        row |= {"std": by_batch["std_ratio"], "std_running": _normalised_std(running)}
        if has_labels(data):
            row["knn"] = knn(network.encoder, data, k)
        rows.append({"epoch": epoch} | row)
    return pd.DataFrame(rows)


def _embed(
    network: MethodModule, state: dict[str, Tensor], x: Tensor, batch_statistics: bool
) -> Tensor:
    """The embedding [N, d] of x [N, C, H, W] by the weights of a checkpoint."""
    network.load_state_dict(state)  # anew, since training mode moves the running statistics
    network.train(batch_statistics)
    with torch.no_grad():
        return network.embed(x).float()


def _normalised_std(z: Tensor) -> float:
    """The std of z [N, d] divided by its rows' lengths, times the root of d: `std_ratio` alone."""
    return float(F.normalize(z, dim=1).std(0).mean() * z.shape[1] ** 0.5)


def over_epochs(
    histories: Mapping[str, pd.DataFrame],
    untrained_knn: float | None,
    measures: Mapping[str, str] = MEASURES,
) -> Figure:
    """Draw measures over the epochs, a panel a measure and a line a run.

    Args:
        histories: Each run's by its name: `run.history` with the columns of `embedding_history`.
        untrained_knn: kNN accuracy of the untrained encoder, as a horizontal line.
        measures: Title of each panel by its column.
    """
    figure, axes = new_figure(len(measures), width=2.75 * len(measures), height=3.5)
    looks = looks_of(histories)
    for ax, (column, title) in zip(axes, measures.items(), strict=True):
        for name, history in histories.items():
            measured = history.reindex(columns=["epoch", column]).dropna()
            ax.plot(measured["epoch"], measured[column], label=name, markersize=4, **looks[name])
        if column == "knn" and untrained_knn is not None:
            ax.axhline(untrained_knn, color="0.3", linewidth=1, label="untrained encoder")
        if column.startswith("std"):
            ax.set_ylim(0, 1.1)
        label(ax, title, "epoch")
    handles, names = axes[-1].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=FONT - 1
    )
    return figure


# ---------------------------------------------------------------------------------------- tables


def collapse_table(name: str) -> pd.DataFrame:
    """Read a committed sweep, a row an epoch, and print how it was made."""
    path = table_path(f"collapse_{name}.csv")
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    print(*head[:2], sep="\n")
    return pd.read_csv(path, comment="#")


def last_epochs(rows: pd.DataFrame) -> pd.DataFrame:
    """The last epoch of every run of a sweep, with what `diagnose` says of the run."""
    runs = rows.groupby(["setting", "seed"], sort=False)
    diagnosis = {key: diagnose(history).kind for key, history in runs}
    ends = runs.tail(1).reset_index(drop=True)
    keys = zip(ends["setting"], ends["seed"], strict=True)
    return ends.assign(diagnosis=[diagnosis[key] for key in keys])


def settings_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line a setting: means with 95 % intervals over the seeds, and the diagnoses."""
    ends = last_epochs(rows)
    ends["over untrained"] = ends["knn"] - ends["knn_random"]
    groups = ends.groupby("setting", sort=False)
    table = pd.DataFrame({"seeds": groups.size()})
    for column, title in (("knn", "kNN"), ("over untrained", "over untrained")):
        mean, half = mean_and_interval(groups[column])
        table[title] = [f"{m:.3f} ± {h:.3f}" for m, h in zip(mean, half, strict=True)]
    table["std of z"] = groups["std_ratio"].mean().round(3)
    counts = groups["diagnosis"].value_counts()
    table["diagnosed"] = [
        ", ".join(f"{n} {kind}" for kind, n in counts[setting].items()) for setting in table.index
    ]
    return table


def setting_bars(rows: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """Draw a panel a column: each seed a dot, the mean a bar with its 95 % interval.

    Args:
        rows: `last_epochs`.
        columns: Title of each panel by its column.
    """
    names = list(rows["setting"].unique())
    figure, axes = new_figure(len(columns), width=11, height=0.33 * len(names) + 1.3)
    for ax, (column, title) in zip(axes, columns.items(), strict=True):
        mean, half = mean_and_interval(rows.groupby("setting", sort=False)[column])
        ax.barh(names, mean, xerr=half, color=SKY, ecolor=VERMILION, height=0.6)
        ax.plot(rows[column], rows["setting"], "k.", markersize=4)
        if column == "knn":  # the dashed line: an untrained encoder
            ax.axvline(rows["knn_random"].mean(), color="black", linestyle="--", linewidth=1)
        if column.startswith("R2"):
            ax.set_xlim(0, 1)
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [])
        ax.invert_yaxis()
        label(ax, title)
    return figure


# --------------------------------------------------------------------------- measures and accuracy


def every_setting(names: tuple[str, ...]) -> pd.DataFrame:
    """A row a setting of several sweeps: means over the seeds, and whether most seeds collapsed."""
    ends = pd.concat([last_epochs(collapse_table(name)).assign(sweep=name) for name in names])
    ends = ends.drop_duplicates(["loss", "std", "rank", "knn", "seed"])  # a default is in each
    ends["collapsed"] = ends["diagnosis"] != "healthy"
    columns = ["loss", "std_ratio", "rank", "participation", "knn", "collapsed"]
    means = ends.groupby(["sweep", "setting"], sort=False)[columns].mean().reset_index()
    return means.assign(collapsed=means["collapsed"] > 0.5)


def measures_against_accuracy(
    settings: pd.DataFrame, columns: Mapping[str, str], named: Mapping[str, str]
) -> Figure:
    """Scatter the settings: a panel a measure, the kNN accuracy upwards.

    Args:
        settings: `every_setting`.
        columns: Title of each panel by its column.
        named: Words beside a point, by its setting.
    """
    figure, axes = new_figure(len(columns), width=11, height=3.8)
    for ax, (column, title) in zip(axes, columns.items(), strict=True):
        for is_collapsed, name in ((False, "not collapsed"), (True, "collapsed")):
            chosen = settings[settings["collapsed"] == is_collapsed]
            color = VERMILION if is_collapsed else BLUE
            marker = "X" if is_collapsed else "o"
            ax.scatter(chosen[column], chosen["knn"], s=45, color=color, marker=marker, label=name)
        for setting, words in named.items():
            row = settings[settings["setting"] == setting].iloc[0]
            ax.annotate(words, (row[column], row["knn"]), (4, 4), textcoords="offset points")
        if column != "std_ratio":
            ax.set_xscale("log")
        ax.margins(x=0.2, y=0.12)
        label(ax, title, "", "kNN accuracy" if ax is axes[0] else "")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=FONT - 1
    )
    return figure
