"""Measures that ignore linear maps: canonical correlations and linear regression."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..representation import Representation, paired

FEATURES_CHUNK = 1024  # columns that are made float64 at once


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

    Numbers published with google/svcca, and code derived from it, differ by up to .02: it takes the
    weights from directions that are not whitened, and not from the canonical variates of the paper.

    Args:
        x: [n, p]; a Gram does not determine it.
        y: [n, q].

    Returns:
        In [0, 1].
    """
    a, b = paired(x, y)
    features = a.features
    if features is None:
        raise ValueError("PWCCA depends on the features of x: a Gram does not determine it")
    u, _ = a.basis
    v, _ = b.basis
    if not u.shape[1] or not v.shape[1]:
        return np.nan
    w, correlations, _ = torch.linalg.svd(u.T @ v, full_matrices=False)
    variates = (u @ w).double()  # [n, r]
    weights = variates.new_zeros(variates.shape[1])
    for columns in features.split(FEATURES_CHUNK, dim=1):
        weights += (variates.T @ columns.double()).abs().sum(1)
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
