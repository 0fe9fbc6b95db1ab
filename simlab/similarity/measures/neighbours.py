"""Which samples are each other's nearest neighbours in both representations."""

from typing import Any

import torch
from torch import Tensor

from ..distances import as_square
from ..representation import Representation, paired


def neighbour_matrix(representation: Representation, k: int = 10) -> Tensor:
    """Mark neighbours: [n, n], where the column is one of the row's k nearest other samples.

    Samples that are equally far away share the places that are left for them: ten of them that
    compete for three places are each marked .3 times. That is the mean of all ways to break ties,
    so it favours no sample, and none that the other representation favours as well.

    Args:
        representation: n samples.
        k: number of neighbours.

    Returns:
        [n, n], with the sum k in each row.

    Raises:
        ValueError: unless 1 <= k < n.
    """
    n = len(representation)
    if not 1 <= k < n:
        raise ValueError(f"k={k}: expected 1 <= k < {n} samples")
    pairs = representation.distances
    distances = as_square(pairs, n, diagonal=torch.inf)
    kth = distances.kthvalue(k, dim=1, keepdim=True).values  # [n, 1]
    closer = distances < kth
    tied = distances == kth
    places = k - closer.sum(1, keepdim=True)
    share = places.to(pairs) / tied.sum(1, keepdim=True)  # [n, 1]
    marks: Tensor = closer + tied * share
    return marks


def shared_neighbours(representation: Representation, k: int = 10) -> Tensor:
    """Scale neighbours so that the inner product of two such matrices is the mean overlap.

    Returns:
        [n, n]; NaN for samples that all coincide.
    """
    marks = neighbour_matrix(representation, k)
    if not representation.distances.max() > 0:
        marks = marks * torch.nan
    return marks / (len(representation) * k) ** 0.5


def mutual_knn_similarity(x: Any, y: Any, *, k: int = 10, metric: str = "euclidean") -> float:
    """Mean overlap of the samples' k nearest neighbours (Huh 2024).

    Independent representations give k / (n-1), also where samples coincide or are equally far
    apart: ties count with their mean over all ways to break them, on each side for itself. So a
    representation whose neighbours are not determined has less than 1 with itself.

    Args:
        x: [n, p].
        y: [n, q].
        k: number of neighbours.
        metric: see `rsa_similarity`.

    Returns:
        In [0, 1].
    """
    a, b = paired(x, y, metric)
    return float((shared_neighbours(a, k) * shared_neighbours(b, k)).sum())
