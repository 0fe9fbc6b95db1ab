"""How alike two representations of the same samples are: plain functions of two matrices.

x is [n, p] and y is [n, q], samples by features, tensors or arrays; a float comes back, computed in
float64. `..._similarity` is larger, `..._distance` is smaller for more alike representations.
Columns are centred first, so a shift of the features never matters. Where a Gram matrix K
determines a measure, `Representation.from_gram(K)` may stand for a matrix.

Constant features give NaN. All raise ValueError unless both are finite matrices of the same samples
(and, where an option is a name or a number, if it is none that exists).

In the formulas X and Y are the centred matrices, K = XX' and L = YY' their Grams, |.| is the
Frobenius norm and |.|_* the nuclear norm, the sum of the singular values.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers import one_of
from . import gram
from .representation import Representation, paired

# ------------------------------------------------------------------------------------------- CKA


def hsic(x: Any, y: Any, *, debiased: bool = True) -> float:
    """Hilbert-Schmidt independence criterion with linear kernels.

    Biased: <K, L> / (n-1)^2 of centred Grams (Gretton 2005; Kornblith 2019, eq. 3). Debiased:
    HSIC_1, whose expectation is that of infinitely many samples (Song 2012, eq. 5; n >= 4).

    Args:
        x: [n, p].
        y: [n, q].
        debiased: which of the two.

    Returns:
        HSIC; the debiased one may be negative.
    """
    a, b = paired(x, y)
    n = len(a)
    if debiased and n < 4:
        raise ValueError(f"the debiased estimator needs at least 4 samples, got {n}")
    product = _product_of_grams(a, b, debiased).item()
    return product / (n * (n - 3) if debiased else (n - 1) ** 2)


def _product_of_grams(a: Representation, b: Representation, debiased: bool) -> Tensor:
    """<K, L> of the centred Grams, a scalar; from the features where that is less work."""
    x = a.features
    y = b.features
    n = len(a)
    if x is None or y is None or x.shape[1] * y.shape[1] > n**2:
        return (gram.centre(a.gram, debiased) * gram.centre(b.gram, debiased)).sum()
    product = (y.T @ x).square().sum()  # |Y'X|^2
    if not debiased:
        return product
    # n(n-3) HSIC_1 = <K, L> - n/(n-2) r's + (1'r)(1's) / ((n-1)(n-2)): Song 2012, eq. 5, for
    # Grams of centred features, with diagonals r and s: without these their rows sum to -r and -s.
    r = x.square().sum(1)
    s = y.square().sum(1)
    return product - n / (n - 2) * (r @ s) + r.sum() * s.sum() / ((n - 1) * (n - 2))


def cka_similarity(x: Any, y: Any, *, debiased: bool = True) -> float:
    """Linear centred kernel alignment: HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)).

    Kornblith 2019, eq. 4. Invariant to rotation, isotropic scale and shift, not to general linear
    maps.

    Args:
        x: [n, p].
        y: [n, q].
        debiased: from HSIC_1 (Nguyen 2021, eq. 2 and 3): 0 on average for independent x and y.
            Biased, independent noise gives about 1 / sqrt((1 + n/p)(1 + n/q)).

    Returns:
        At most 1; biased, in [0, 1].
    """
    a, b = paired(x, y)
    self_hsic = []
    for representation in (a, b):
        self_hsic.append(hsic(representation, representation, debiased=debiased))
        rounding = 1e-14 * (representation.energy / len(a)) ** 2
        if not self_hsic[-1] > rounding:
            return np.nan
    geometric_mean: float = (self_hsic[0] * self_hsic[1]) ** 0.5
    return hsic(a, b, debiased=debiased) / geometric_mean


def rbf_cka_similarity(x: Any, y: Any, *, debiased: bool = True, scale: float = 1.0) -> float:
    """CKA with Gaussian kernels (Kornblith 2019, section 3).

    Invariant to rotation, isotropic scale and shift. Tends to linear CKA as `scale` grows.

    Args:
        x: [n, p].
        y: [n, q].
        debiased: see `cka_similarity`.
        scale: the kernel's width in units of the median distance between samples.

    Returns:
        In [-1, 1]; biased, in [0, 1].
    """
    centred = []
    for representation in paired(x, y):
        sigma = scale * gram.median_distance(representation.gram)
        centred.append(gram.centred_kernel("rbf", representation.gram, debiased, sigma=sigma))
    return alignment(*centred)


def deconfounded_cka_similarity(
    x: Any, y: Any, z: Any, *, debiased: bool = True, clamp: bool = False
) -> float:
    """Linear CKA of what is left of both Grams after regressing them on z's (Cui 2022).

    Without `clamp` it is the partial correlation of the CKA values. The invariances are CKA's.

    Args:
        x: [n, p].
        y: [n, q].
        z: the confounder [n, r].
        debiased: see `cka_similarity`.
        clamp: set negative eigenvalues of the residual Grams to 0.

    Returns:
        In [-1, 1].
    """
    a, b = paired(x, y)
    c, _ = paired(z, x)
    if not clamp:
        grams = torch.stack([a.gram, b.gram, c.gram])
        centred = gram.centred_kernel("linear", grams, debiased)
        cka = gram.cosine(gram.inner_products(centred))  # [3, 3]
        return float(gram.deconfounded(cka)[0, 1])
    residuals = []
    for representation in (a, b):
        left = gram.centred_kernel(
            "residual", representation.gram, debiased, confounder=c.gram, clamp=True
        )
        residuals.append(left)
    return alignment(*residuals)


def alignment(a: Tensor, b: Tensor) -> float:
    """Cosine of two matrices [n, n]; NaN where one is 0."""
    return float((a * b).sum() / a.norm() / b.norm())


# ----------------------------------------------------------------------- rotations and linear maps


def procrustes_distance(x: Any, y: Any, *, form: str = "squared") -> float:
    """Distance after the best rotation, both scaled to Frobenius norm 1 (Ding 2021).

    With c = |X'Y|_* of the scaled matrices. Invariant to rotation, isotropic scale and shift.

    Args:
        x: [n, p].
        y: [n, q].
        form: "squared": 2 - 2c in [0, 2]; "angle": arccos c in [0, pi/2], a metric;
            "complement": 1 - c in [0, 1], as in simtorch.

    Returns:
        The distance.
    """
    one_of(form, ("squared", "angle", "complement"), "form")
    a, b = paired(x, y)
    u, s = a.basis
    v, t = b.basis
    if not len(s) or not len(t):
        return np.nan
    # In n x n only: U diag(s) is X up to a rotation.
    cross = (u * (s / s.norm())).T @ (v * (t / t.norm()))
    c = min(float(torch.linalg.svdvals(cross).sum()), 1.0)
    if form == "squared":
        return 2 - 2 * c
    return float(np.arccos(c)) if form == "angle" else 1 - c


def cca_similarity(x: Any, y: Any, *, squared: bool = False, variance: float = 1) -> float:
    """Mean of the canonical correlations over the smaller rank (Kornblith 2019, table 1).

    They are the singular values of U'V, where U and V are orthonormal bases of the features.
    Invariant to every invertible linear map, and therefore 1 as soon as either has n - 1
    directions; independent features give squares of max(p, q) / (n-1) on average.

    Args:
        x: [n, p].
        y: [n, q].
        squared: the mean of their squares instead.
        variance: see `svcca_similarity`; 1 takes all directions.

    Returns:
        In [0, 1].
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance={variance}: expected a share in (0, 1]")
    a, b = paired(x, y)
    u = _principal_directions(a, variance)  # [n, r]
    v = _principal_directions(b, variance)
    smaller_rank = min(u.shape[1], v.shape[1])
    if not smaller_rank:
        return np.nan
    cross = u.T @ v
    total = cross.square().sum() if squared else torch.linalg.svdvals(cross).sum()
    return float(total) / smaller_rank


def _principal_directions(representation: Representation, variance: float) -> Tensor:
    """[n, r], the fewest directions of largest variance that hold a share of it."""
    u, s = representation.basis
    if variance == 1:
        return u
    share = s.square().cumsum(0) / s.square().sum()
    count = int((share < variance - 1e-12).sum()) + 1
    return u[:, :count]


def svcca_similarity(x: Any, y: Any, *, variance: float = 0.99, squared: bool = False) -> float:
    """CCA of the principal directions alone (Raghu 2017).

    Args:
        x: [n, p].
        y: [n, q].
        variance: the share of it, in (0, 1], that the fewest directions kept must hold.
        squared: see `cca_similarity`.

    Returns:
        In [0, 1].
    """
    return cca_similarity(x, y, squared=squared, variance=variance)


def pwcca_similarity(x: Any, y: Any) -> float:
    """Canonical correlations, weighted by how much of x they account for (Morcos 2018).

    The weight of the i-th is sum_j |<h_i, x_j>|, with h_i the unit variates of x and x_j its
    features. Not symmetric. Not unique where correlations repeat, as those of 1 do once
    p + q > n - 1: any basis of their directions is as good, and the weights depend on it.

    Args:
        x: [n, p]; a Gram does not determine it.
        y: [n, q].

    Returns:
        In [0, 1].
    """
    a, b = paired(x, y)
    if a.features is None:
        raise ValueError("PWCCA depends on the features of x: a Gram does not determine it")
    u, _ = a.basis
    v, _ = b.basis
    if not u.shape[1] or not v.shape[1]:
        return np.nan
    w, correlations, _ = torch.linalg.svd(u.T @ v, full_matrices=False)
    variates = u @ w  # [n, r]
    weights = (variates.T @ a.features.to(u.dtype)).abs().sum(1)
    return float((weights * correlations).sum() / weights.sum())


def regression_similarity(x: Any, y: Any) -> float:
    """R^2 of predicting x linearly from y (Kornblith 2019, table 1).

    |V'X|^2 / |X|^2, where V is an orthonormal basis of y's features. Not symmetric.

    Args:
        x: [n, p].
        y: [n, q].

    Returns:
        In [0, 1].
    """
    a, b = paired(x, y)
    u, s = a.basis
    v, _ = b.basis
    if not v.shape[1]:
        return np.nan
    explained = (v.T @ (u * s)).square().sum()
    return float(explained / s.square().sum())


# ---------------------------------------------------------------------------- distances and ranks


def rank_matrix(representation: Representation) -> Tensor:
    """Rank the distances between samples: [n, n], ties averaged, less the mean rank."""
    from scipy.spatial.distance import squareform  # loading them takes a second
    from scipy.stats import rankdata

    distances = gram.squared_distances(representation.gram).cpu().numpy()
    ranks = rankdata(squareform(distances, checks=False))  # of the n(n-1)/2 pairs
    return torch.from_numpy(squareform(ranks - ranks.mean())).to(representation.gram)


def rsa_similarity(x: Any, y: Any, *, metric: str = "euclidean") -> float:
    """Representational similarity analysis (Kriegeskorte 2008).

    Spearman's correlation of the two tables of distances between samples.

    Args:
        x: [n, p].
        y: [n, q].
        metric: of the distances: "euclidean" is invariant to rotation, isotropic scale and shift;
            "correlation" and "cosine" notice a shift, and need the raw features.

    Returns:
        In [-1, 1].
    """
    a, b = paired(x, y, metric)
    return alignment(rank_matrix(a), rank_matrix(b))


def neighbour_matrix(representation: Representation, k: int = 10) -> Tensor:
    """Mark neighbours: [n, n], 1 where the column is one of the row's k nearest other samples."""
    n = len(representation)
    if not 1 <= k < n:
        raise ValueError(f"k={k}: expected 1 <= k < {n} samples")
    distances = gram.squared_distances(representation.gram).fill_diagonal_(float("inf"))
    nearest = distances.argsort(dim=1, stable=True)[:, :k]
    neighbours = torch.zeros_like(representation.gram).scatter_(1, nearest, 1)
    return neighbours * (representation.gram.trace() > 0)  # constant features have none


def mutual_knn_similarity(x: Any, y: Any, *, k: int = 10, metric: str = "euclidean") -> float:
    """Mean overlap of the samples' k nearest neighbours (Huh 2024).

    Independent representations give k / (n-1).

    Args:
        x: [n, p].
        y: [n, q].
        k: number of neighbours.
        metric: see `rsa_similarity`.

    Returns:
        In [0, 1].
    """
    a, b = paired(x, y, metric)
    return alignment(neighbour_matrix(a, k), neighbour_matrix(b, k))
