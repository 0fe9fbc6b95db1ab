"""Is it collapsing, how, and what helps: measures of a feature matrix, and a diagnosis in words.

Every measure takes features [N, D] (the projector's output z on a fixed clean batch, BatchNorm in
evaluation mode; or the backbone's), divides each row by its length, and computes in float64. None
sees everything, so each says what it misses. Hundreds of images are enough for a training loop.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from simlab._names import near

# Thresholds, between what was measured; the runs are in notebooks/tables/collapse_*.csv:
COMPLETE_STD_RATIO = 0.10  # std over 1/sqrt(d)
DIMENSIONAL_PARTICIPATION = 2.2  # nearly all variance in two directions, and
DIMENSIONAL_RANK_RATIO = 0.10  # little beside it: effective rank over min(N, D)
# no measured run collapsed locally: these are set by made features, and raise no false alarm there
LOCAL_TWIN_SHARE = 0.90  # nearly every image shares its point with another one, and
LOCAL_DIMENSION = 0.5  # those points are no smooth cloud, in which a line has 1 and a plane 2
TWIN_DISTANCE = 0.01  # twins: squared distance under 1 % of the mean one; cosine .99 if isotropic
WARN_LOSS = -0.95  # a SimSiam loss this near its minimum of -1 is good news only if ...
WARN_STD_RATIO = 0.20  # ... the features still differ; over the verdict's, so it warns early
_BLOCK = 2**22  # distances held at a time: 32 MB


def _unit(z: Tensor) -> Tensor:
    """Rows of z [N, D] over their lengths, float64, detached; a zero row stays zero."""
    z = torch.as_tensor(z).detach()
    if z.ndim != 2 or z.shape[0] < 2 or z.shape[1] < 1 or not z.is_floating_point():
        raise ValueError(
            f"expected floating-point features [N, D] with N >= 2, got {z.dtype} {list(z.shape)}"
        )
    if len(bad := (~z.isfinite()).any(1).nonzero()):
        raise ValueError(
            f"NaN or infinity in {len(bad)} of {len(z)} rows, first in row "
            f"{int(bad[0])}: training diverged, which is not collapse"
        )
    z = z.cpu() if z.device.type == "mps" else z  # that device has no float64
    return nn.functional.normalize(z.double(), dim=1)


def _gram(u: Tensor) -> Tensor:
    """The smaller of u u^T and u^T u, which have the same eigenvalues but for zeros."""
    return u @ u.T if len(u) <= u.shape[1] else u.T @ u


def _squared_distances(u: Tensor) -> Iterator[Tensor]:
    """Squared distances [B, N] of all rows to all, in blocks that bound the memory."""
    u = u - u.mean(0)  # the distances stay, and no digits are lost where all rows are nearly equal
    norms = u.square().sum(1)
    for own in torch.arange(len(u), device=u.device).split(max(1, _BLOCK // len(u))):
        yield (norms[own, None] + norms - 2 * u[own] @ u.T).clamp_min(0)


def feature_std(z: Tensor) -> float:
    """Mean over channels of the standard deviation (N - 1) of z/||z||; SimSiam sec. 4.1.

    Range 0 (complete collapse) to about 1/sqrt(d) (isotropic). Misses: dimensional collapse that is
    rotated over all channels, and local collapse. Post-ReLU features share a mean direction, so
    they sit lower when healthy."""
    return float(_unit(z).std(0).mean())


def spectrum(z: Tensor) -> Tensor:
    """Singular values of the row-normalised, uncentred z, largest first: [min(N, D)], float64.

    Their squares sum to N; values under 1e-7 of the largest are rounding. One value alone: complete
    collapse; few: dimensional, whatever the rotation."""
    return torch.linalg.eigvalsh(_gram(_unit(z))).flip(0).clamp_min(0).sqrt()


def effective_rank(z: Tensor) -> float:
    """exp(-sum p log p), p = s / sum(s), s = spectrum(z); Roy & Vetterli 2007, RankMe (2210.02885).

    Range 1 to min(N, D) (0 for zero features). Not centred on purpose: of identical features only
    the mean direction is left, while centring would show the full rank of their rounding noise.
    Misses: local collapse to more points than dimensions; and s is not squared, so that weak noise
    in many directions counts (see `participation_ratio`)."""
    s = spectrum(z)
    return math.exp(float(torch.special.entr(s / s.sum()).sum())) if s.sum() > 0 else 0.0


def participation_ratio(z: Tensor) -> float:
    """(sum l)^2 / sum l^2, l the eigenvalues of the covariance of z/||z||.

    Range 1 to min(N - 1, D); 0 when nothing varies. Weighs directions by variance, so it sees
    through weak noise. Misses: complete collapse (it sees the shape of what is left, however
    small), and everything in the small eigenvalues."""
    u = _unit(z)
    gram = _gram(u - u.mean(0))
    varies = gram.trace() > 1e-24 * u.numel()  # less is float64 rounding of the mean
    return float(gram.trace() ** 2 / gram.square().sum()) if varies else 0.0


def alignment(z1: Tensor, z2: Tensor) -> float:
    """Mean ||z1/||z1|| - z2/||z2||||^2 over the pairs of views [N, D]; Wang & Isola 2020.

    Range 0 (views agree) to 4 (opposite), 2 when unrelated. Misses: every collapse; constant
    features are perfectly aligned. Read it beside `uniformity`."""
    u1, u2 = _unit(z1), _unit(z2)
    if u1.shape != u2.shape:
        raise ValueError(f"two views must match: z1 {list(u1.shape)}, z2 {list(u2.shape)}")
    return float((u1 - u2).square().sum(1).mean())


def uniformity(z: Tensor) -> float:
    """log mean exp(-2 ||x - y||^2) over all pairs of different images; Wang & Isola 2020.

    Range 0 (all the same) down to about -4 + 8/D (uniform on a sphere of many dimensions; -8 for
    two opposite points). Misses: what nearby pairs alone tell; a few tight clusters lose little."""
    n = len(z)
    total = sum(float(torch.exp(-2 * d).sum()) for d in _squared_distances(_unit(z))) - n
    return math.log(total / (n * (n - 1)))


def twins(z: Tensor) -> tuple[float, float, float]:
    """(share of images that have a twin, distinct points, dimension there): local collapse.

    Twins: squared distance of z/||z|| at most TWIN_DISTANCE times the mean over pairs, so a cloud
    that only shrinks has none. Distinct points: N^2 over the count of twin pairs, each image with
    itself included (a Hill number of order 2): K for K equal tight clusters, N without twins.
    Dimension: by which power of the distance the twin pairs become fewer, from half of it
    (Grassberger & Procaccia 1983): 0 in tight clusters, 1 on a line. Misses: wider clusters."""
    u = _unit(z)
    limit = TWIN_DISTANCE * 2 * float(u.var(0).sum())  # twice the variance: the mean over pairs
    # twins of each row, itself included, at the whole and at half the distance: [N, 2]; the floor
    # serves identical rows
    close = torch.cat(
        [
            torch.stack([(d <= r + 1e-24).sum(1) for r in (limit, limit / 4)], 1)
            for d in _squared_distances(u)
        ]
    )
    pairs, nearer = (close.sum(0) - len(u) + 1).tolist()  # plus 1: there may be none
    share = float((close[:, 0] > 1).double().mean())
    return share, len(u) ** 2 / (pairs + len(u) - 1), math.log2(pairs / nearer)


def collapse_metrics(z: Tensor) -> dict[str, float]:
    """The measures of features z [N, D] that a training loop logs; ratios are 1 when isotropic."""
    std, rank, (twin_share, distinct, dimension) = feature_std(z), effective_rank(z), twins(z)
    return {
        "std": std,
        "std_ratio": std * math.sqrt(z.shape[1]),
        "rank": rank,
        "rank_ratio": rank / min(z.shape),
        "participation": participation_ratio(z),
        "uniformity": uniformity(z),
        "twin_share": twin_share,
        "distinct": distinct,
        "twin_dimension": dimension,
    }


def warn_if_collapsing(loss: float, std_ratio: float) -> str | None:
    """A sentence for the training loop when the loss goes to -1 while the std goes to 0."""
    if loss <= WARN_LOSS and std_ratio <= WARN_STD_RATIO:
        return (
            f"collapsing? the loss is {loss:.3f}, near its minimum of -1, but the std of z is "
            f"{std_ratio:.0%} of 1/sqrt(d): all images get nearly the same features"
        )
    return None


_SWITCHES = (
    "is z detached in the loss, and is there a predictor? SimSiam needs both (sec. 4.1, 4.2)"
)
_KINDS = {  # what it means, and what usually helps
    "healthy": ("the features of different images differ, in many directions", ()),
    "complete": (
        "all images get nearly the same feature",
        (
            _SWITCHES,
            "a lower learning rate, warm-up, less weight decay; BatchNorm in the heads (sec. 4.4)",
            "start again: a collapsed run seldom comes back",
        ),
    ),
    "dimensional": (
        "the features differ in a few directions only",
        (
            _SWITCHES,
            "a larger encoder or fewer images: SimSiam loses dimensions where the network "
            "is small for its data (arXiv 2209.15007)",
            "milder augmentation (arXiv 2110.09348), less weight decay, smaller batches",
        ),
    ),
    "local": (
        "the features sit on a few tight points; images on one point look the same",
        (
            "look for duplicate images in the data first",
            "look at one point's images: augment away what they share (colour, place)",
            "negatives push twins apart: try method='simclr'; less weight decay",
        ),
    ),
}


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` found: kind healthy | complete | dimensional | local, why, and what helps."""

    kind: str
    evidence: tuple[str, ...]
    advice: tuple[str, ...]
    metrics: dict[str, float]

    @property
    def collapsed(self) -> bool:
        return self.kind != "healthy"

    def __repr__(self) -> str:
        head = f"{self.kind}{' collapse' * self.collapsed}: {_KINDS[self.kind][0]}"
        helps = ["What usually helps:", *(f"  - {x}" for x in self.advice)] if self.advice else []
        return "\n".join([head, *(f"  - {x}" for x in self.evidence), *helps])


def diagnose(run: object, *, knn_random: float | None = None) -> Diagnosis:
    """Whether and how a run, its history, or features z [N, D] collapse.

    run: a Run; a table with a row an epoch and the names of `collapse_metrics`, maybe also "loss",
    "knn" (accuracy, 0 to 1) and "epoch", of which each one's last number counts; or features.
    knn_random: the random encoder's accuracy. Complete goes before local, local before dimensional
    where a few points explain the low rank. Raises ValueError or TypeError on anything else."""
    table = getattr(run, "history", run)
    if not isinstance(table, pd.DataFrame):
        if not hasattr(table, "ndim"):
            raise TypeError(
                "diagnose takes features [N, D], a run or its table of metrics, got "
                f"{type(table).__name__}"
            )
        table = pd.DataFrame([collapse_metrics(torch.as_tensor(table))])
    names = (
        "std_ratio",
        "rank",
        "rank_ratio",
        "participation",
        "twin_share",
        "distinct",
        "twin_dimension",
    )
    if missing := [name for name in names if name not in table]:
        raise ValueError(
            f"diagnose needs {missing[0]}, which the table does not have"
            f"{near(missing[0], table.columns)}"
        )
    last = table.ffill().iloc[-1]
    m = {name: float(last[name]) for name in (*names, "loss", "knn") if name in table}
    std, rank, rank_ratio, spread, twin_share, distinct, dimension = (m[name] for name in names)
    full = rank / rank_ratio if rank else math.inf  # min(N, D)
    least = min(DIMENSIONAL_PARTICIPATION, full / 2)
    kinds = {
        "complete": std < COMPLETE_STD_RATIO,
        "local": twin_share >= LOCAL_TWIN_SHARE and dimension < LOCAL_DIMENSION,
        # 3: of a narrow z
        "dimensional": spread < least and rank < max(DIMENSIONAL_RANK_RATIO * full, 3),
    }
    kind = next((name for name, holds in kinds.items() if holds), "healthy")

    advice = _KINDS[kind][1]
    why = [f"std of z: {std:.1%} of 1/sqrt(d) (complete collapse: under {COMPLETE_STD_RATIO:.0%})"]
    alive = table.index[table["std_ratio"] >= COMPLETE_STD_RATIO]
    if kind == "complete" and len(alive) and "epoch" in table:
        why.append(
            f"it has been so since epoch {table['epoch'][table.index > alive[-1]].iloc[0]:g}; "
            f"before, the std was up to {table['std_ratio'].max():.1%}"
        )
    why += [
        f"effective rank {rank:.1f}, {rank_ratio:.1%} of the possible; variance in "
        f"{spread:.1f} directions (dimensional collapse: rank under "
        f"{DIMENSIONAL_RANK_RATIO:.0%}, and under {least:g} directions)",
        f"{twin_share:.0%} of the images share their point with another (local collapse: "
        f"from {LOCAL_TWIN_SHARE:.0%}, of dimension {dimension:.1f} under "
        f"{LOCAL_DIMENSION:g}); distinct points: {distinct:.1f}",
    ]
    if kind == "complete" and m.get("loss", 0) <= WARN_LOSS:
        why.append(f"the loss of {m['loss']:.3f} only looks good: equal features get it for free")
    if knn_random is not None and m.get("knn", 1) <= knn_random:
        why.append(
            f"kNN accuracy {m['knn']:.3f} is no better than a random encoder's {knn_random:.3f}"
        )
        advice = advice or (
            "no collapse, but nothing of the labels either: too little training, or "
            "a shortcut (colour, place) that augmentation should remove",
        )
    return Diagnosis(kind, tuple(why), advice, m)
