"""Is it collapsing, and how: measures of a feature matrix.

Every measure takes features [N, D] (the projector's output z on a fixed clean batch, BatchNorm in
evaluation mode; or the encoder's), divides each row by its length (but for `raw_std`), and computes
in float64. None sees everything, so each says what it misses. Hundreds of images are enough for a
training loop. `diagnosis` turns the measures into words.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# Near-duplicates: squared distance under 1 % of the mean one; a cosine of .99 if isotropic.
DUPLICATE_DISTANCE = 0.01
BLOCK = 2**22  # distances in memory at once: 32 MB
TINY = 1e-24  # squared distances of identical rows, which rounding keeps from being zero


def feature_std(z: Tensor) -> float:
    """Return the mean over channels of the standard deviation (N - 1) of z/||z||.

    SimSiam, section 4.1. Range 0 (complete collapse) to about 1/sqrt(d) (isotropic). Misses:
    dimensional collapse that is rotated over all channels, and local collapse. Features after a
    ReLU share a mean direction, so that they are lower when healthy.
    """
    return _std_of(_unit(z))


def raw_std(z: Tensor) -> float:
    """Return the mean over channels of the standard deviation (N - 1) of z, not of z/||z||.

    For methods that set the scale of z (VICReg and LeJEPA: 1 per channel). Theirs can shrink to a
    point whose rows, divided by their lengths, still differ in every direction. Range 0 upwards;
    says nothing where the loss sees directions alone.
    """
    return float(torch.as_tensor(z).detach().cpu().double().std(0).mean())


def spectrum(z: Tensor) -> Tensor:
    """Return the singular values of the row-normalised, uncentred z, largest first.

    Their squares sum to N; values under 1e-7 of the largest are rounding. One value alone: complete
    collapse; few: dimensional, whatever the rotation.

    Returns:
        float64 [min(N, D)].
    """
    return _spectrum_of(_unit(z))


def effective_rank(z: Tensor) -> float:
    """Return exp(-sum p log p), p = s / sum(s), s = spectrum(z).

    Roy & Vetterli 2007; RankMe (arXiv 2210.02885). Range 1 to min(N, D) (0 for zero features). Not
    centred on purpose: of identical features only the mean direction is left, while centring would
    show the full rank of their rounding noise. Misses: local collapse to more points than
    dimensions; and s is not squared, so that weak noise in many directions counts (see
    `participation_ratio`).
    """
    return _rank_of(_unit(z))


def participation_ratio(z: Tensor) -> float:
    """Return (sum l)^2 / sum l^2, l the eigenvalues of the covariance of z/||z||.

    Range 1 to min(N - 1, D); 0 when nothing varies. Weighs directions by their variance, so that it
    sees through weak noise. Misses: complete collapse (it sees the shape of what is left, however
    small), and everything in the small eigenvalues.
    """
    return _participation_of(_unit(z))


def alignment(z1: Tensor, z2: Tensor) -> float:
    """Return the mean ||z1/||z1|| - z2/||z2||||^2 over the pairs of views [N, D].

    Wang & Isola 2020. Range 0 (views agree) to 4 (opposite), 2 when unrelated. Misses: every
    collapse; constant features are perfectly aligned. Read it beside `uniformity`.
    """
    u1, u2 = _unit(z1), _unit(z2)
    if u1.shape != u2.shape:
        raise ValueError(f"two views must match: z1 {list(u1.shape)}, z2 {list(u2.shape)}")
    return float((u1 - u2).square().sum(1).mean())


def uniformity(z: Tensor) -> float:
    """Return log mean exp(-2 ||x - y||^2) over all pairs of different images.

    Wang & Isola 2020. Range 0 (all the same) down to about -4 + 8/D (uniform on a sphere of many
    dimensions; -8 for two opposite points). Misses: what nearby pairs alone tell; a few tight
    clusters lose little.
    """
    u = _unit(z)
    total = 0.0
    for distances in _squared_distances(u):
        total += _sum_of_gaussians(distances)
    return _uniformity_of(total, len(u))


def near_duplicates(z: Tensor) -> tuple[float, float, float]:
    """Measure local collapse: embeddings that nearly coincide.

    Two embeddings are near-duplicates where the squared distance of z/||z|| is at most
    DUPLICATE_DISTANCE times the mean over pairs, so that a cloud which only shrinks has none.
    Misses: wider clusters.

    Returns:
        The fraction of images that have a near-duplicate. The number of distinct points: N^2 over
        the count of near-duplicate pairs, each image with itself included (a Hill number of order
        2): K for K equal tight clusters, N without near-duplicates. The correlation dimension
        there: by which power of the distance the pairs become fewer, from half of it (Grassberger &
        Procaccia 1983): 0 in tight clusters, 1 on a line.
    """
    u = _unit(z)
    limit = _duplicate_limit(u)
    counts = [_count_near(distances, limit) for distances in _squared_distances(u)]
    return _duplicates_of(torch.cat(counts))


def collapse_metrics(z: Tensor) -> dict[str, float]:
    """Compute the measures that a training loop logs; ratios are 1 when isotropic.

    Args:
        z: Features [N, D].

    Returns:
        std, std_ratio, rank, rank_ratio, participation, uniformity, duplicate_fraction,
        distinct_points and correlation_dimension: the functions above, by name.
    """
    u = _unit(z)
    n, width = u.shape
    limit = _duplicate_limit(u)
    total = 0.0
    counts = []
    for distances in _squared_distances(u):  # once for both measures of distances
        total += _sum_of_gaussians(distances)
        counts.append(_count_near(distances, limit))
    std = _std_of(u)
    rank = _rank_of(u)
    duplicate_fraction, distinct_points, dimension = _duplicates_of(torch.cat(counts))
    return {
        "std": std,
        "std_ratio": std * math.sqrt(width),
        "rank": rank,
        "rank_ratio": rank / min(n, width),
        "participation": _participation_of(u),
        "uniformity": _uniformity_of(total, n),
        "duplicate_fraction": duplicate_fraction,
        "distinct_points": distinct_points,
        "correlation_dimension": dimension,
    }


# ------------------------------------------------------------------- the same of normalised rows u


def _unit(z: Tensor) -> Tensor:
    """Return the rows of z [N, D] over their lengths, float64, detached; a zero row stays zero."""
    z = torch.as_tensor(z).detach()
    if z.ndim != 2 or z.shape[0] < 2 or z.shape[1] < 1 or not z.is_floating_point():
        raise ValueError(
            f"expected floating-point features [N, D] with N >= 2, got {z.dtype} {list(z.shape)}"
        )
    diverged = (~z.isfinite()).any(1).nonzero()
    if len(diverged):
        raise FloatingPointError(
            f"NaN or infinity in {len(diverged)} of {len(z)} rows, first in row "
            f"{int(diverged[0])}: training diverged, which is not collapse"
        )
    if z.device.type == "mps":  # that device has no float64
        z = z.cpu()
    unit: Tensor = nn.functional.normalize(z.double(), dim=1)
    return unit


def _std_of(u: Tensor) -> float:
    return float(u.std(0).mean())


def _gram(u: Tensor) -> Tensor:
    """Return the smaller of u u^T and u^T u, which have the same eigenvalues but for zeros."""
    return u @ u.T if len(u) <= u.shape[1] else u.T @ u


def _spectrum_of(u: Tensor) -> Tensor:
    eigenvalues: Tensor = torch.linalg.eigvalsh(_gram(u))  # ascending
    return eigenvalues.flip(0).clamp_min(0).sqrt()


def _rank_of(u: Tensor) -> float:
    s = _spectrum_of(u)
    if not s.sum() > 0:
        return 0.0
    entropy = torch.special.entr(s / s.sum()).sum()
    return math.exp(float(entropy))


def _participation_of(u: Tensor) -> float:
    gram = _gram(u - u.mean(0))
    varies = gram.trace() > TINY * u.numel()  # less is float64 rounding of the mean
    return float(gram.trace() ** 2 / gram.square().sum()) if varies else 0.0


def _squared_distances(u: Tensor) -> Iterator[Tensor]:
    """Yield the squared distances [B, N] of all rows to all, in blocks that bound the memory."""
    u = u - u.mean(0)  # the distances stay, and no digits are lost where all rows are nearly equal
    norms = u.square().sum(1)
    rows_at_once = max(1, BLOCK // len(u))
    for rows in torch.arange(len(u), device=u.device).split(rows_at_once):
        yield (norms[rows, None] + norms - 2 * u[rows] @ u.T).clamp_min(0)


def _sum_of_gaussians(distances: Tensor) -> float:
    return float(torch.exp(-2 * distances).sum())


def _uniformity_of(total: float, n: int) -> float:
    pairs_with_themselves = n
    return math.log((total - pairs_with_themselves) / (n * (n - 1)))


def _duplicate_limit(u: Tensor) -> float:
    """Return the squared distance below which two rows are near-duplicates."""
    mean_squared_distance = 2 * float(u.var(0).sum())
    return DUPLICATE_DISTANCE * mean_squared_distance


def _count_near(distances: Tensor, limit: float) -> Tensor:
    """Count each row's near-duplicates, itself included, at the distance and half of it: [B, 2]."""
    near = [(distances <= radius + TINY).sum(1) for radius in (limit, limit / 4)]
    return torch.stack(near, dim=1)


def _duplicates_of(counts: Tensor) -> tuple[float, float, float]:
    n = len(counts)
    pairs, nearer_pairs = (counts.sum(0) - n + 1).tolist()  # plus 1: there may be none
    fraction = float((counts[:, 0] > 1).double().mean())
    distinct_points = n**2 / (pairs + n - 1)
    return fraction, distinct_points, math.log2(pairs / nearer_pairs)
