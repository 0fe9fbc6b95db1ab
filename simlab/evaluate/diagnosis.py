"""The measures of collapse in words: which kind, on what evidence, and what usually helps."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from simlab._checks import near

from .collapse import collapse_metrics

# Thresholds, between what was measured; the runs are in notebooks/tables/collapse_*.csv:
COMPLETE_STD_RATIO = 0.10  # std over 1/sqrt(d)
DIMENSIONAL_PARTICIPATION = 2.2  # nearly all variance in two directions, and
DIMENSIONAL_RANK_RATIO = 0.10  # little beside it: effective rank over min(N, D)
NARROW_RANK = 3  # that fraction of a narrow z would be less than anything has
# No measured run collapsed locally: set by constructed features, they raise no false alarm there.
LOCAL_DUPLICATES = 0.90  # nearly every embedding nearly coincides with another one, and
LOCAL_DIMENSION = 0.5  # those points are no smooth cloud, in which a line has 1 and a plane 2
WARN_LOSS = -0.95  # a SimSiam loss this near its minimum of -1 is good news only if ...
WARN_STD_RATIO = 0.20  # ... the features still differ; above the verdict's, so it warns early
COLLAPSED_LOSS = 0.05  # how near to the loss at collapse is near, as a fraction of it

NEEDED = (
    "std_ratio",
    "rank",
    "rank_ratio",
    "participation",
    "duplicate_fraction",
    "distinct_points",
    "correlation_dimension",
)

OPTIONAL = ("loss", "loss_at_collapse", "scale_ratio", "knn")

_SWITCHES = (
    "is z detached in the loss, and is there a predictor? SimSiam needs both (sec. 4.1, 4.2); "
    "other methods need their negatives, slow teacher, balanced codes or variance term"
)
MEANING = {
    "healthy": "the features of different images differ, in many directions",
    "complete": "all images get nearly the same feature",
    "dimensional": "the features differ in a few directions only",
    "local": "the features are a few tight points; images at one point look the same",
}
ADVICE: dict[str, tuple[str, ...]] = {
    "healthy": (),
    "complete": (
        _SWITCHES,
        "a lower learning rate, warm-up, less weight decay; BatchNorm in the heads (sec. 4.4)",
        "start over: a collapsed run seldom recovers",
    ),
    "dimensional": (
        _SWITCHES,
        "a larger encoder or fewer images: SimSiam loses dimensions where the network "
        "is small for its data (arXiv 2209.15007)",
        "milder augmentation (arXiv 2110.09348), less weight decay, smaller batches",
    ),
    "local": (
        "look for duplicate images in the data first",
        "look at one point's images: augment away what they share (colour, position)",
        "negatives push near-duplicates apart: try method='simclr'; less weight decay",
    ),
}


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The result of `diagnose`.

    Attributes:
        kind: healthy, complete, dimensional or local.
        evidence: Sentences with the numbers behind it.
        advice: What usually helps.
        metrics: The numbers by name.
    """

    kind: str
    evidence: tuple[str, ...]
    advice: tuple[str, ...]
    metrics: dict[str, float]

    @property
    def collapsed(self) -> bool:
        """Whether there is a collapse of any kind."""
        return self.kind != "healthy"

    def __repr__(self) -> str:
        name = f"{self.kind} collapse" if self.collapsed else self.kind
        lines = [f"{name}: {MEANING[self.kind]}"]
        lines += [f"  - {sentence}" for sentence in self.evidence]
        if self.advice:
            lines.append("What usually helps:")
            lines += [f"  - {sentence}" for sentence in self.advice]
        return "\n".join(lines)


def diagnose(run: object, *, knn_random: float | None = None) -> Diagnosis:
    """Tell whether and how a run, its history, or features collapse.

    Complete goes before local, and local before dimensional where a few points explain the low
    rank.

    Args:
        run: A Run; a table with a row an epoch and the names of `collapse_metrics`, maybe also
            "loss", "loss_at_collapse" (the method's), "scale_ratio" (std of z as a multiple of the
            one that the method sets), "knn" (accuracy, 0 to 1) and "epoch", of which each one's
            last number counts; or features [N, D].
        knn_random: kNN accuracy of the untrained encoder, to compare with.

    Raises:
        TypeError: It is none of those.
        ValueError: The table lacks a measure.
    """
    table = _table_of(run)
    last = table.ffill().iloc[-1]
    optional = [name for name in OPTIONAL if name in table]
    metrics = {name: float(last[name]) for name in (*NEEDED, *optional)}
    kind = _kind_of(metrics)
    evidence = _evidence(metrics)
    advice = ADVICE[kind]
    if kind == "complete":
        evidence[1:1] = _since_when(table)
    evidence += _about_the_loss(metrics, kind)
    if knn_random is not None and metrics.get("knn", 1) <= knn_random:
        evidence.append(
            f"kNN accuracy {metrics['knn']:.3f} is no better than a random encoder's "
            f"{knn_random:.3f}"
        )
        advice = advice or (
            "no collapse, but nothing of the labels either: too little training, or a shortcut "
            "(colour, position) that augmentation should remove",
        )
    return Diagnosis(kind, tuple(evidence), advice, metrics)


def is_loss_of_collapse(loss: float, loss_at_collapse: float) -> bool:
    """Tell whether a loss is about the one that equal embeddings of all images have."""
    return abs(loss - loss_at_collapse) <= COLLAPSED_LOSS * max(1.0, abs(loss_at_collapse))


def _about_the_loss(metrics: dict[str, float], kind: str) -> list[str]:
    """Say what the loss is worth, where it is about that of a complete collapse."""
    loss = metrics.get("loss", math.nan)
    at_collapse = metrics.get("loss_at_collapse", math.nan)
    if kind == "complete" and loss <= WARN_LOSS:
        return [f"the loss of {loss:.3f} only looks good: equal features get it for free"]
    if not is_loss_of_collapse(loss, at_collapse):
        return []
    if kind == "complete":
        return [f"the loss of {loss:.3f} is what equal features get: {at_collapse:.3f}"]
    # where it is 0 or less, a healthy network comes near it as well
    if at_collapse > 0:
        return [
            f"the loss of {loss:.3f} is what equal outputs get, {at_collapse:.3f}: nothing was "
            "learned yet, or what the loss compares collapsed behind z"
        ]
    return []


def _table_of(run: Any) -> pd.DataFrame:
    """Return a table with a row an epoch; features become a table of one row."""
    table = getattr(run, "history", run)
    if not isinstance(table, pd.DataFrame):
        if not hasattr(table, "ndim"):
            raise TypeError(
                "diagnose takes features [N, D], a run or its table of metrics, got "
                f"{type(table).__name__}"
            )
        table = pd.DataFrame([collapse_metrics(torch.as_tensor(table))])
    for name in NEEDED:
        if name not in table:
            raise ValueError(
                f"diagnose needs {name}, which the table does not have{near(name, table.columns)}"
            )
    return table


def _kind_of(metrics: dict[str, float]) -> str:
    """Return the first kind of collapse whose thresholds are passed."""
    full_rank = _full_rank(metrics)
    if metrics["std_ratio"] < COMPLETE_STD_RATIO or _is_a_point(metrics):
        return "complete"
    is_dense = metrics["duplicate_fraction"] >= LOCAL_DUPLICATES
    if is_dense and metrics["correlation_dimension"] < LOCAL_DIMENSION:
        return "local"
    is_low = metrics["rank"] < max(DIMENSIONAL_RANK_RATIO * full_rank, NARROW_RANK)
    if is_low and metrics["participation"] < _fewest_directions(full_rank):
        return "dimensional"
    return "healthy"


def _is_a_point(metrics: dict[str, float]) -> bool:
    """Whether z has shrunk, though its directions may differ; not where it has yet to grow."""
    if metrics.get("scale_ratio", math.inf) >= COMPLETE_STD_RATIO:
        return False
    if "loss" not in metrics or "loss_at_collapse" not in metrics:
        return True
    return is_loss_of_collapse(metrics["loss"], metrics["loss_at_collapse"])


def _full_rank(metrics: dict[str, float]) -> float:
    """Return min(N, D) of the features."""
    return metrics["rank"] / metrics["rank_ratio"] if metrics["rank"] else math.inf


def _fewest_directions(full_rank: float) -> float:
    return min(DIMENSIONAL_PARTICIPATION, full_rank / 2)


def _evidence(metrics: dict[str, float]) -> list[str]:
    """Write the numbers beside their thresholds."""
    fewest = _fewest_directions(_full_rank(metrics))
    sentences = [
        f"std of z: {metrics['std_ratio']:.1%} of 1/sqrt(d) (complete collapse: under "
        f"{COMPLETE_STD_RATIO:.0%})",
        f"effective rank {metrics['rank']:.1f}, {metrics['rank_ratio']:.1%} of the possible; "
        f"variance in {metrics['participation']:.1f} directions (dimensional collapse: rank under "
        f"{DIMENSIONAL_RANK_RATIO:.0%}, and under {fewest:g} directions)",
        f"{metrics['duplicate_fraction']:.0%} of the embeddings have a near-duplicate, correlation "
        f"dimension {metrics['correlation_dimension']:.1f} (local collapse: at least "
        f"{LOCAL_DUPLICATES:.0%}, and a dimension under {LOCAL_DIMENSION:g}); about "
        f"{metrics['distinct_points']:.0f} distinct points",
    ]
    if "scale_ratio" in metrics:
        sentences.append(
            f"std of z before it is normalised: {metrics['scale_ratio']:.1%} of what the loss asks "
            f"for (complete collapse: under {COMPLETE_STD_RATIO:.0%})"
        )
    return sentences


def _since_when(table: pd.DataFrame) -> list[str]:
    """Say from which epoch on the collapse is complete, where there was something before."""
    is_spread = table["std_ratio"] >= COMPLETE_STD_RATIO
    if "scale_ratio" in table:
        is_spread &= table["scale_ratio"] >= COMPLETE_STD_RATIO
    healthy = table.index[is_spread]
    if not len(healthy) or "epoch" not in table:
        return []
    first_epoch = table["epoch"][table.index > healthy[-1]].iloc[0]
    highest = table["std_ratio"].max()
    return [f"it has been so since epoch {first_epoch:g}; before, the std was up to {highest:.1%}"]
