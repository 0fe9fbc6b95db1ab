"""Which samples are each other's nearest neighbours in both representations."""

from typing import Any

import torch
from torch import Tensor

from ..gram import alignment, squared_distances
from ..representation import Representation, paired


def neighbour_matrix(representation: Representation, k: int = 10) -> Tensor:
    """Mark neighbours: [n, n], 1 where the column is one of the row's k nearest other samples."""
    n = len(representation)
    if not 1 <= k < n:
        raise ValueError(f"k={k}: expected 1 <= k < {n} samples")
    distances = squared_distances(representation.gram).fill_diagonal_(float("inf"))
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
