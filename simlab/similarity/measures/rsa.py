"""Representational similarity analysis: how alike are the distances between samples?"""

from typing import Any

import numpy as np
from torch import Tensor

from ...layers import one_of
from ..distances import as_square, average_ranks
from ..gram import alignment
from ..representation import Representation, paired

COSINES = ("spearman", "pearson", "cosine")  # comparisons that are cosines of two matrices


def rank_matrix(representation: Representation) -> Tensor:
    """Rank the distances between samples: [n, n], ties averaged, less the mean rank."""
    ranks = average_ranks(representation.distances)  # of the n(n-1)/2 pairs
    return as_square(ranks - ranks.mean(), len(representation))


def comparison_matrix(
    representation: Representation, comparison: str = "spearman", squared: bool = False
) -> Tensor:
    """Distances [n, n], such that a comparison is the cosine of two of these.

    Args:
        representation: n samples.
        comparison: see `rsa_similarity`; not "kendall".
        squared: see `rsa_similarity`.

    Raises:
        ValueError: an unknown comparison.
    """
    if one_of(comparison, COSINES, "comparison") == "spearman":
        return rank_matrix(representation)
    distances = representation.distances
    if representation.metric == "euclidean" and not squared:
        distances = distances.clamp(min=0).sqrt()
    if comparison == "pearson":
        distances = distances - distances[0]  # equal ones become an exact 0
        distances = distances - distances.mean()
    return as_square(distances, len(representation))


def rsa_kendall(a: Representation, b: Representation) -> float:
    """Kendall's tau-a of the distances: (concordant - discordant) / all pairs of distances.

    A pair that is tied on either side counts as neither, so ties lower it (Nili 2014 recommends it
    for models that predict ties). m distances are compared in m log m steps.
    """
    from scipy.stats import kendalltau  # loading it takes a second

    one = a.distances.cpu().numpy()
    other = b.distances.cpu().numpy()
    pairs = len(one) * (len(one) - 1) / 2
    untied = [pairs - _ties(distances) for distances in (one, other)]
    if not min(untied):
        return np.nan
    # scipy has tau-b, whose denominator leaves ties out.
    tau_b = kendalltau(one, other).statistic
    return float(tau_b * (untied[0] * untied[1]) ** 0.5 / pairs)


def _ties(values: np.ndarray) -> float:
    """Number of pairs of equal values."""
    _, counts = np.unique(values, return_counts=True)
    return float((counts * (counts - 1.0)).sum() / 2)


def rsa_similarity(
    x: Any,
    y: Any,
    *,
    metric: str = "euclidean",
    comparison: str = "spearman",
    squared: bool = False,
) -> float:
    """Representational similarity analysis (Kriegeskorte 2008; comparisons: Nili 2014).

    Correlation of the two tables of distances between samples. For Spearman's, equal distances
    share their rank, as those of labels, of binary features and of samples that occur repeatedly
    do.

    Args:
        x: [n, p].
        y: [n, q].
        metric: of the distances: "euclidean" is invariant to rotation, isotropic scale and shift;
            "correlation" and "cosine" notice a shift, and need the raw features; see
            `pair_distances` for samples of which they are undefined.
        comparison: of the distances: "spearman" and "kendall" (tau-a) of their order alone,
            "pearson" of their sizes, "cosine" of their sizes with 0 as a fixed point, which is
            near 1 for whatever representations.
        squared: whether Euclidean distances are squared, which matters to "pearson" and "cosine";
            rsatoolbox squares them, scipy's pdist does not.

    Returns:
        In [-1, 1]; NaN where all distances are equal.

    Raises:
        ValueError: an unknown metric or comparison.
    """
    one_of(comparison, (*COSINES, "kendall"), "comparison")
    a, b = paired(x, y, metric)
    if comparison == "kendall":
        return rsa_kendall(a, b)
    return alignment(
        comparison_matrix(a, comparison, squared), comparison_matrix(b, comparison, squared)
    )
