"""Distances between samples whose order and ties are right to the last digit.

Ranks and neighbours depend on which of two distances is the smaller one, and on whether they are
equal. A Gram is quick, but it rounds: equal distances come out apart. So the Gram's distances are
sorted, and those that lie closer together than their rounding are computed anew, pair by pair, from
the samples themselves. Of continuous features these are a handful.

The m = n(n-1)/2 pairs of n samples are (0, 1), (0, 2), ... (1, 2), ..., as in scipy's pdist.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..layers import one_of
from .gram import centred_gram, flatten, full_precision

METRICS = ("euclidean", "cosine", "correlation")
CHUNK = 2**20  # numbers that are made float64 at once
EPS = torch.finfo(torch.float64).eps

Exact = Callable[[Tensor, Tensor], np.ndarray]  # of pairs (i, j): their distances


def pair_distances(x: Tensor, metric: str = "euclidean") -> Tensor:
    """Compute the distances between samples in float64, whatever their order.

    Equal distances are equal bit for bit between samples that occur repeatedly and for features
    that are whole numbers, such as labels and counts.

    Args:
        x: features [n, ...], not centred.
        metric: "euclidean": squared, and up to a factor that all pairs share; "cosine": 1 less the
            cosine; "correlation": 1 less Pearson's correlation of the two samples' features. There
            a sample without a direction (all zeros; for the correlation constant) has the distance
            1/2 from all others, and 0 from another such sample.

    Returns:
        [m].

    Raises:
        ValueError: an unknown metric.
    """
    x = flatten(x)
    if one_of(metric, METRICS, "metric") == "euclidean":
        gram, unit = centred_gram(x, torch.float64)
        i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
        if not gram.any():  # constant but for rounding
            return gram[i, j]
        both = gram.diagonal()[i] + gram.diagonal()[j]
        quick = both - 2 * gram[i, j]
        bounds = 2 * _rounding_of_sum(x) * both
        return _refined(quick, bounds, i, j, partial(_squared_differences, x, unit))
    return _cosine_distances(x, metric)


def distances_of_gram(matrix: Tensor) -> Tensor:
    """Compute squared distances [m] from a Gram [n, n], where no features are known.

    Those that lie closer together than the Gram's rounding count as equal, if it is in float64: in
    float32 all would.
    """
    i, j = torch.triu_indices(len(matrix), len(matrix), 1, device=matrix.device)
    norms = matrix.double().diagonal()
    both = norms[i] + norms[j]
    distances = both - 2 * matrix.double()[i, j]
    if matrix.dtype != torch.float64:
        return distances
    ordered, order = distances.sort()
    bounds = 16 * EPS * both[order]
    starts = torch.ones_like(order, dtype=torch.bool)  # a group of equal ones
    starts[1:] = ordered.diff() > bounds[1:] + bounds[:-1]
    group = starts.cumsum(0) - 1
    distances[order] = ordered[starts][group]
    return distances


def as_square(pairs: Tensor, n: int, diagonal: float = 0.0) -> Tensor:
    """Lay values of pairs [m] out as a symmetric matrix [n, n]."""
    matrix = pairs.new_full((n, n), diagonal)
    i, j = torch.triu_indices(n, n, 1, device=pairs.device)
    matrix[i, j] = pairs
    matrix[j, i] = pairs
    return matrix


def average_ranks(values: Tensor) -> Tensor:
    """Rank values [m] from 1; equal ones share the mean of their ranks."""
    ordered, order = values.sort()
    _, group, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    last = counts.cumsum(0)  # the highest rank in each group
    ranks = torch.empty_like(values)
    ranks[order] = (last - (counts - 1) / 2).to(values)[group]
    return ranks


def _refined(distances: Tensor, bounds: Tensor, i: Tensor, j: Tensor, exact: Exact) -> Tensor:
    """Replace the distances [m] that are too close to others by exact ones.

    Args:
        distances: of all pairs, each within its bound of the exact one.
        bounds: [m].
        i: first sample of each pair [m].
        j: second sample of each pair [m].
        exact: computes the distances of some pairs.

    Returns:
        [m], in the order of the exact ones.
    """
    certain = torch.zeros_like(i, dtype=torch.bool)
    while True:
        ordered, order = distances.sort()
        bound = bounds[order]
        settled = certain[order]
        close = ordered.diff() <= bound[1:] + bound[:-1]
        close &= ~(settled[1:] & settled[:-1])
        unsure = torch.zeros_like(certain)
        unsure[order[1:][close]] = True
        unsure[order[:-1][close]] = True
        unsure &= ~certain
        if not unsure.any():
            return distances
        distances[unsure] = torch.from_numpy(exact(i[unsure], j[unsure])).to(distances)
        bounds[unsure] = 0
        certain |= unsure


def _rounding_of_sum(x: Tensor) -> float:
    """How far a float64 sum over the features may be off, relative to the sum of the sizes."""
    return (x.shape[1] + 4) * EPS


def _squared_differences(x: Tensor, unit: float, i: Tensor, j: Tensor) -> np.ndarray:
    """Sum (x_i - x_j)^2 / unit^2 over the features, in float64."""
    sums = []
    for a, b in zip(_blocks(x, i), _blocks(x, j), strict=True):
        # numpy adds up each row in the same order, however many rows there are.
        sums.append(np.square((a - b) / unit).sum(1))
    return np.concatenate(sums)


def _cosine_distances(x: Tensor, metric: str) -> Tensor:
    n, width = x.shape
    centre_rows = metric == "correlation"
    everyone = torch.arange(n, device=x.device)
    norms = []
    noise = []
    for rows in _blocks(x, everyone):
        length = np.square(rows).sum(1)
        # A row that is constant but for rounding has no direction to amplify.
        noise.append(length * (8 * width * torch.finfo(x.dtype).eps) ** 2 * centre_rows)
        norms.append(np.square(_directions(rows, centre_rows)).sum(1))
    squared_norms = np.concatenate(norms)
    squared_norms[squared_norms <= np.concatenate(noise)] = 0

    def from_products(products: np.ndarray, i: Tensor, j: Tensor) -> np.ndarray:
        a = squared_norms[i.cpu()]
        b = squared_norms[j.cpu()]
        with np.errstate(invalid="ignore", divide="ignore"):
            # Of the square, the quotient of whole numbers: equal cosines are equal bit for bit.
            cosines = np.sign(products) * np.sqrt(products**2 / (a * b))
        cosines = np.where((a > 0) & (b > 0), cosines, 0.0)
        distances: np.ndarray = ((a > 0).astype(float) + (b > 0)) / 2 - cosines
        return distances

    def exact(i: Tensor, j: Tensor) -> np.ndarray:
        products = []
        for a, b in zip(_blocks(x, i), _blocks(x, j), strict=True):
            product = _directions(a, centre_rows) * _directions(b, centre_rows)
            products.append(product.sum(1))
        return from_products(np.concatenate(products), i, j)

    i, j = torch.triu_indices(n, n, 1, device=x.device)
    products = _products_of_rows(x, centre_rows)[i, j].cpu().numpy()
    quick = torch.from_numpy(from_products(products, i, j)).to(x.device)
    bounds = torch.full_like(quick, 2 * _rounding_of_sum(x))
    return _refined(quick, bounds, i, j, exact)


def _directions(rows: np.ndarray, centred: bool) -> np.ndarray:
    """Rows [b, p]; if `centred`, p times the rows less their means, which keeps whole numbers."""
    if not centred:
        return rows
    directions: np.ndarray = rows * rows.shape[1] - rows.sum(1, keepdims=True)
    return directions


def _products_of_rows(x: Tensor, centred: bool) -> Tensor:
    """All inner products [n, n] of the samples' directions, in chunks of columns."""
    n, width = x.shape
    products = torch.zeros(n, n, dtype=torch.float64, device=x.device)
    sums = x.sum(1, keepdim=True, dtype=torch.float64)
    with full_precision(x.device):
        for columns in x.split(max(1, CHUNK // n), dim=1):
            columns = columns.double()
            if centred:
                columns = columns * width - sums
            products.addmm_(columns, columns.T)
    return products


def _blocks(x: Tensor, samples: Tensor) -> Iterator[np.ndarray]:
    """The features of some samples in float64, a few rows [b, p] at a time."""
    for block in samples.split(max(1, CHUNK // x.shape[1])):
        yield x[block].double().cpu().numpy()
