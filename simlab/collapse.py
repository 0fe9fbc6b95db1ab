"""Is it collapsing, how, and what helps: measures of a feature matrix, and a diagnosis in words.

Every measure takes features [N, D] (the projector's output z on a fixed clean batch, BatchNorm in
evaluation mode; or the backbone's), divides each row by its length, and computes in float64. None
sees everything, so each says what it misses. They cost O(N D min(N, D)) and O(N^2 D): hundreds of
pictures are enough for a training loop.
"""

from __future__ import annotations

import difflib
import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Thresholds of `diagnose` and `warn_if_collapsing`, to be moved when measured runs say so.
COMPLETE_STD_RATIO = 0.10  # std under a tenth of 1/sqrt(d): all pictures have nearly one feature
DIMENSIONAL_RANK_RATIO = 0.04  # effective rank over min(N, D): almost all directions are unused
DIMENSIONAL_PARTICIPATION = 2.0  # or: nearly all variance lies in two directions, plus small noise
LOCAL_TWIN_SHARE = 0.90  # nearly every picture shares its point with another picture. In a smooth
# cloud of two or three dimensions it does so too; but K clusters fill at most K dimensions, while
# a circle (N = 512) counts as 20 points and a sphere as 150. So it is smooth, and not local, with
SMOOTH_PARTICIPATION = 4.0  # variance in fewer directions than this, and
SMOOTH_POINTS_PER_DIMENSION = 4.0  # more distinct points than this for each of them
TWIN_DISTANCE = 0.01  # twins: squared distance under 1 % of the mean one; cosine .99 if isotropic
WARN_LOSS = -0.95  # a SimSiam loss this near its minimum of -1 is good news only if ...
WARN_STD_RATIO = 0.20  # ... the features still differ; over the verdict's, so it warns early
_BLOCK = 2**22  # distances held at a time: 32 MB


def _unit(z: Tensor, name: str = "z") -> Tensor:
    """Rows of z [N, D] over their lengths, float64, detached; a zero row stays zero."""
    z = torch.as_tensor(z).detach()
    if z.ndim != 2 or z.shape[0] < 2 or z.shape[1] < 1:
        raise ValueError(f"{name} must be features [N, D] with N >= 2, got shape {list(z.shape)}")
    if not z.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {z.dtype}: features, not labels?")
    if z.device.type == "mps":
        z = z.cpu()  # that device has no float64
    bad = (~z.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        raise ValueError(f"{name} has NaN or infinity in {len(bad)} of {len(z)} rows, first in row "
                         f"{int(bad[0])}: training diverged, which is not collapse")
    return torch.nn.functional.normalize(z.double(), dim=1)


def _squared_distances(u: Tensor) -> Iterator[Tensor]:
    """Squared distances [B, N] of all rows to all, in blocks that bound the memory."""
    u = u - u.mean(0)  # the distances stay, and no digits are lost where all rows are nearly equal
    norms = u.square().sum(1)
    size = max(1, _BLOCK // len(u))
    for start in range(0, len(u), size):
        rows = slice(start, start + size)
        yield (norms[rows, None] + norms - 2 * u[rows] @ u.T).clamp_min(0)


def feature_std(z: Tensor) -> float:
    """Mean over channels of the standard deviation (N - 1) of z/||z||; SimSiam sec. 4.1.

    Range 0 (all the same: complete collapse) to about 1/sqrt(d) (isotropic). Misses: dimensional
    collapse that is rotated over all channels, and local collapse; both can leave it unchanged.
    Post-ReLU features share a mean direction, so they sit lower when healthy."""
    return float(_unit(z).std(0).mean())


def spectrum(z: Tensor) -> Tensor:
    """Singular values of the row-normalised, uncentred z, largest first: [min(N, D)], float64.

    Their squares sum to N. From the smaller Gram matrix, so values under 1e-7 of the largest are
    rounding. One value alone: complete collapse; few: dimensional, whatever the rotation."""
    u = _unit(z)
    gram = u @ u.T if len(u) <= u.shape[1] else u.T @ u
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()


def effective_rank(z: Tensor) -> float:
    """exp(-sum p log p), p = s / sum(s), s = spectrum(z); Roy & Vetterli 2007, RankMe (2210.02885).

    Range 1 to min(N, D) (0 for all-zero features); invariant to rotation. Not centred on purpose:
    of identical features only the mean direction is left (rank 1), while centring would show the
    full rank of their rounding noise. Misses: local collapse to more points than dimensions; and s
    is not squared, so weak noise in many directions counts (see `participation_ratio`)."""
    return _effective_rank(spectrum(z))


def _effective_rank(s: Tensor) -> float:
    total = float(s.sum())
    return math.exp(float(torch.special.entr(s / total).sum())) if total > 0 else 0.0


def participation_ratio(z: Tensor) -> float:
    """(sum l)^2 / sum l^2, l the eigenvalues of the covariance of z/||z||.

    Range 1 to min(N - 1, D); 0 when nothing varies. Weighs directions by variance, so it sees
    through weak noise. Misses: complete collapse (centred: the shape of what is left, however
    small), and everything in the small eigenvalues."""
    u = _unit(z)
    u = u - u.mean(0)
    if float(u.square().mean()) < 1e-24:  # float64 rounding of the mean, not variance
        return 0.0
    gram = u @ u.T if len(u) <= u.shape[1] else u.T @ u
    return float(gram.trace() ** 2 / gram.square().sum())


def alignment(z1: Tensor, z2: Tensor) -> float:
    """Mean ||z1/||z1|| - z2/||z2||||^2 over the pairs of views [N, D]; Wang & Isola 2020.

    Range 0 (views agree) to 4 (opposite), 2 when unrelated. Misses: every collapse; constant
    features are perfectly aligned. Read it beside `uniformity`."""
    u1, u2 = _unit(z1, "z1"), _unit(z2, "z2")
    if u1.shape != u2.shape:
        raise ValueError(f"two views must match: z1 {list(u1.shape)}, z2 {list(u2.shape)}")
    return float((u1 - u2).square().sum(1).mean())


def uniformity(z: Tensor) -> float:
    """log mean exp(-2 ||x - y||^2) over all pairs of different pictures; Wang & Isola 2020.

    Range 0 (all the same) down to about -4 + 8/D (uniform on a sphere of many dimensions; -8 for
    two opposite points). Misses: what nearby pairs alone tell; a few tight clusters lose little."""
    u = _unit(z)
    total = sum(float(torch.exp(-2 * d).sum()) for d in _squared_distances(u)) - len(u)
    return math.log(total / (len(u) * (len(u) - 1)))


def twins(z: Tensor) -> tuple[float, float]:
    """(share of pictures that have a twin, effective number of distinct points): local collapse.

    Twins: squared distance of z/||z|| at most TWIN_DISTANCE times the mean over pairs, so a cloud
    that only shrinks (complete collapse) has none. Distinct points: N^2 over the count of twin
    pairs, each picture with itself included (a Hill number of order 2): K for K equal tight
    clusters, N without twins. Ranges 0 to 1, and 1 to N. Misses: clusters wider than that; and a
    dense smooth cloud of at most three dimensions has twins as well (`diagnose` looks at both)."""
    u = _unit(z)
    # Mean over pairs of different pictures: twice the total variance.
    limit = TWIN_DISTANCE * 2 * float(u.var(0).sum())
    alone, pairs = 0, 0
    for d in _squared_distances(u):
        close = (d <= limit + 1e-24).sum(1)  # itself included; the floor serves identical rows
        alone, pairs = alone + int((close <= 1).sum()), pairs + int(close.sum())
    return 1 - alone / len(u), len(u) ** 2 / pairs


def collapse_metrics(z: Tensor) -> dict[str, float]:
    """The measures of features z [N, D] that a training loop logs; ratios are 1 when isotropic."""
    s, (twin_share, distinct) = spectrum(z), twins(z)
    std, rank = feature_std(z), _effective_rank(s)
    return {"std": std, "std_ratio": std * math.sqrt(z.shape[1]), "rank": rank,
            "rank_ratio": rank / len(s), "participation": participation_ratio(z),
            "uniformity": uniformity(z), "twin_share": twin_share, "distinct": distinct}


def warn_if_collapsing(loss: float, std_ratio: float) -> str | None:
    """A sentence for the training loop when the loss goes to -1 while the std goes to 0."""
    if loss <= WARN_LOSS and std_ratio <= WARN_STD_RATIO:
        return (f"collapsing? the loss is {loss:.3f}, near its minimum of -1, but the std of z is "
                f"{std_ratio:.0%} of 1/sqrt(d): all pictures get nearly the same features")
    return None


# kind -> (what it means, what usually helps)
_KINDS = {
    "healthy": ("the features of different pictures differ, in many directions", ()),
    "complete": ("all pictures get nearly the same feature", (
        "is z detached in the loss, and is the predictor there? SimSiam collapses without either "
        "(sec. 4.1, 4.2)",
        "a lower learning rate, warm-up, less weight decay; BatchNorm in the heads (sec. 4.4)",
        "start again: a collapsed run seldom comes back")),
    "dimensional": ("the features differ in a few directions only", (
        "is z detached in the loss, and is the predictor there? BatchNorm in the heads keeps the "
        "std up, so that what is missing shows here",
        "a larger encoder or fewer pictures: SimSiam loses dimensions where the network is small "
        "for its data (arXiv 2209.15007)",
        "milder augmentation (arXiv 2110.09348), less weight decay, smaller batches",
        "compare with the backbone's rank: a narrow projector alone does less harm")),
    "local": ("the features sit on a few tight points; pictures on one point look the same", (
        "look for duplicate pictures in the data first",
        "look at one point's pictures: augment away what they share (colour, place)",
        "negatives push twins apart: try method='simclr'; less weight decay")),
}


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found: kind healthy | complete | dimensional | local, why, and what helps."""

    kind: str
    evidence: tuple[str, ...]
    advice: tuple[str, ...]
    metrics: dict[str, float]

    @property
    def collapsed(self) -> bool:
        return self.kind != "healthy"

    def __str__(self) -> str:
        head = f"{self.kind}{' collapse' * self.collapsed}: {_KINDS[self.kind][0]}"
        helps = ["What usually helps:", *(f"  - {x}" for x in self.advice)] if self.advice else []
        return "\n".join([head, *(f"  - {x}" for x in self.evidence), *helps])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _rows(run: object) -> list[dict[str, float]]:
    """The log rows of a table, {name: values}, {name: value} or a list of these; numbers only."""
    rows = run.to_dict("records") if hasattr(run, "to_dict") else run
    if isinstance(rows, Mapping):
        if all(isinstance(v, (list, tuple)) for v in rows.values()):
            columns = zip(*rows.values(), strict=True)
            rows = [dict(zip(rows, values, strict=True)) for values in columns]
        else:
            rows = [rows]
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
        raise TypeError("diagnose takes features [N, D] or logged metrics (a dict, a list of dicts "
                        f"or a table), got {type(run).__name__}")
    return [{k: float(v) for k, v in row.items() if hasattr(v, "__float__")} for row in rows]


def diagnose(run: object, *, backbone: Tensor | None = None, loss: float | None = None,
             knn: float | None = None, knn_random: float | None = None) -> Diagnosis:
    """Whether and how features z [N, D], or a run by its logged metrics, collapse.

    Logged metrics carry the names of `collapse_metrics` and may have "loss", "knn" (accuracy 0 to
    1), "knn_random" (the random encoder's), "epoch" or "step"; std_ratio is required, NaN and None
    are passed over, and each name's last value counts. `backbone` [N, D'] adds evidence only: the
    verdict is about z. Complete goes before local, local before dimensional where a few points
    explain the low rank. Raises ValueError or TypeError on anything else."""
    if hasattr(run, "ndim") and not hasattr(run, "to_dict"):
        run = collapse_metrics(torch.as_tensor(run))
    rows = _rows(run)
    given = {"loss": loss, "knn": knn, "knn_random": knn_random}
    m = {k: v for row in [*rows, given] for k, v in row.items() if v is not None and v == v}
    if "std_ratio" not in m:
        near = "".join(f"; is it {n!r}?" for n in difflib.get_close_matches("std_ratio", m, 1))
        raise ValueError(f"diagnose needs std_ratio, which is not among {sorted(m)}{near}")

    std, rank_ratio = m["std_ratio"], m.get("rank_ratio", 1.0)
    full = m["rank"] / rank_ratio if m.get("rank") and rank_ratio else math.inf  # min(N, D)
    spread, distinct = m.get("participation", math.inf), m.get("distinct", math.nan)
    least = min(DIMENSIONAL_PARTICIPATION, full / 2)
    crowded = m.get("twin_share", 0.0) >= LOCAL_TWIN_SHARE
    smooth = spread < SMOOTH_PARTICIPATION and distinct > SMOOTH_POINTS_PER_DIMENSION * spread
    if std < COMPLETE_STD_RATIO:
        kind = "complete"
    elif crowded and not smooth:
        kind = "local"
    elif rank_ratio < DIMENSIONAL_RANK_RATIO or spread < (full / 2 if crowded else least):
        kind = "dimensional"
    else:
        kind = "healthy"

    why = [f"std of z: {std:.1%} of 1/sqrt(d) (complete collapse: under {COMPLETE_STD_RATIO:.0%})"]
    if rows and not math.isfinite(rows[-1].get("loss", 0)):
        why.append("the last loss is not finite: not logged there, or training diverged")
    logged = [(i, row) for i, row in enumerate(rows) if row.get("std_ratio", math.nan) >= 0]
    if kind == "complete" and len(logged) > 1:
        alive = [n for n, (_, row) in enumerate(logged) if row["std_ratio"] >= COMPLETE_STD_RATIO]
        i, row = logged[alive[-1] + 1 if alive else 0]
        unit = next((name for name in ("epoch", "step") if name in row), "row")
        why.append(f"it has been so since {unit} {row.get(unit, i):g}, and was at most "
                   f"{max(row['std_ratio'] for _, row in logged):.1%}")
    if "rank" in m:
        why.append(f"effective rank {m['rank']:.1f}, {rank_ratio:.1%} of the possible; variance in "
                   f"{spread:.1f} directions (dimensional collapse: rank under "
                   f"{DIMENSIONAL_RANK_RATIO:.0%}, or under {least:g} directions)")
    if "twin_share" in m:
        why.append(f"{m['twin_share']:.0%} of the pictures share their point with another (local "
                   f"collapse: from {LOCAL_TWIN_SHARE:.0%}); distinct points: {distinct:.1f}")
    if kind == "complete" and m.get("loss", 0) <= WARN_LOSS:
        why.append(f"the loss of {m['loss']:.3f} only looks good: equal features get it for free")
    advice = _KINDS[kind][1]
    if m.get("knn", 1) <= m.get("knn_random", 0):
        why.append(f"kNN accuracy {m['knn']:.3f} is no better than a random encoder's "
                   f"{m['knn_random']:.3f}")
        if kind == "healthy":
            advice = ("no collapse, but nothing of the labels either: too little training, or a "
                      "shortcut (colour, place) that augmentation should remove",)
    if backbone is not None:
        b = collapse_metrics(backbone)
        why.append(f"backbone: std {b['std_ratio']:.1%}, effective rank {b['rank']:.1f} "
                   f"({b['rank_ratio']:.1%}), {b['twin_share']:.0%} of the pictures with a twin")
    return Diagnosis(kind, tuple(why), advice, m)
