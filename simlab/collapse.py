"""Is it collapsing, how, and what helps: measures of a feature matrix, and a diagnosis in words.

Every measure takes features [N, D] (the projector's output z on a fixed clean batch, BatchNorm in
evaluation mode; or the backbone's), divides each row by its length, and computes in float64. None
sees everything, so each says what it misses. They cost O(N D min(N, D)) and O(N^2 D): hundreds of
pictures are enough for a training loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Thresholds of `diagnose` and `warn_if_collapsing`, to be moved when measured runs say so.
COMPLETE_STD_RATIO = 0.10  # std under a tenth of 1/sqrt(d): all pictures have nearly one feature
DIMENSIONAL_RANK_RATIO = 0.05  # effective rank over min(N, D): almost all directions are unused
DIMENSIONAL_PARTICIPATION = 2.0  # or: nearly all variance lies in two directions, plus small noise
LOCAL_TWIN_SHARE = 0.50  # half the pictures share their point with another picture ...
LOCAL_POINTS_PER_RANK = 4.0  # ... and so few points explain a low rank (a smooth disc has >10)
TWIN_DISTANCE = 0.01  # twins: squared distance under 1 % of the mean one; cosine .99 if isotropic
WARN_LOSS = -0.95  # a SimSiam loss this near its minimum of -1 is good news only if ...
WARN_STD_RATIO = 0.20  # ... the features still differ: above the verdict, so the warning comes early


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


def _squared_distances(u: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, squared distances [B, N]) in blocks of at most 2^22 numbers (32 MB)."""
    u = u - u.mean(0)  # the distances stay, and no digits are lost where all rows are nearly equal
    norms = u.square().sum(1)
    size = max(1, 2**22 // len(u))
    for start in range(0, len(u), size):
        rows = slice(start, start + size)
        yield start, (norms[rows, None] + norms - 2 * u[rows] @ u.T).clamp_min(0)


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
    total = sum(float(torch.exp(-2 * d).sum()) for _, d in _squared_distances(u)) - len(u)
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
    for _, d in _squared_distances(u):
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
