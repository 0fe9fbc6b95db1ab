"""Representational similarity analysis: the distances between samples, ranked."""

from typing import Any

from torch import Tensor

from ..distances import as_square, average_ranks
from ..gram import alignment
from ..representation import Representation, paired


def rank_matrix(representation: Representation) -> Tensor:
    """Rank the distances between samples: [n, n], ties averaged, less the mean rank."""
    ranks = average_ranks(representation.distances)  # of the n(n-1)/2 pairs
    return as_square(ranks - ranks.mean(), len(representation))


def rsa_similarity(x: Any, y: Any, *, metric: str = "euclidean") -> float:
    """Representational similarity analysis (Kriegeskorte 2008).

    Spearman's correlation of the two tables of distances between samples. Equal distances share
    their rank, as those of labels, of binary features and of samples that occur repeatedly do.

    Args:
        x: [n, p].
        y: [n, q].
        metric: of the distances: "euclidean" is invariant to rotation, isotropic scale and shift;
            "correlation" and "cosine" notice a shift, and need the raw features; see
            `pair_distances` for samples of which they are undefined.

    Returns:
        In [-1, 1].
    """
    a, b = paired(x, y, metric)
    return alignment(rank_matrix(a), rank_matrix(b))
