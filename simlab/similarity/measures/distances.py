"""Representational similarity analysis: the distances between samples, ranked."""

from typing import Any

import torch
from torch import Tensor

from ..gram import alignment, squared_distances
from ..representation import Representation, paired


def rank_matrix(representation: Representation) -> Tensor:
    """Rank the distances between samples: [n, n], ties averaged, less the mean rank."""
    from scipy.spatial.distance import squareform  # loading them takes a second
    from scipy.stats import rankdata

    distances = squared_distances(representation.gram).cpu().numpy()
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
