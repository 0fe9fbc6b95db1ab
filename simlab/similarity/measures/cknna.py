"""CKA of nearest neighbours alone: do samples that are close in both have similar cosines?"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..gram import squared_distances
from ..representation import Representation, paired
from .neighbours import neighbour_matrix


def cknna_similarity(x: Any, y: Any, *, k: int = 10) -> float:
    """Centred kernel nearest-neighbour alignment (Huh 2024).

    With K and L the cosines of the samples, and the mask A_ij = 1 where j is one of the k nearest
    other samples of i in both representations (ties share their places, see `neighbour_matrix`):

        a(K, L) = HSIC_1(A * K, A * L),    CKNNA = a(K, L) / sqrt(a(K, K) a(L, L)),

    where * is the product by elements, HSIC_1 is Song 2012, eq. 5, and the mask of a(K, K) has x's
    own neighbours. So it is computed in the authors' code (`AlignmentMetrics.cknna`,
    github.com/minyoungg/platonic-rep, metrics.py at dcd76ba), which published values come from;
    appendix A of the paper ("The Platonic Representation Hypothesis") centres before it masks. Left
    out are the 1e-6 that the code adds to the denominator, and its clipping of outliers.

    Rows are scaled to length 1 but not centred: a shift matters. Masks are not symmetric (j may be
    near to i and not i to j), and so the value differs a little between (x, y) and (y, x).

    Args:
        x: [n, p], n >= 4.
        y: [n, q].
        k: number of neighbours, at least 2.

    Returns:
        1 for x itself, about k / (n-1) for independent ones (it is not debiased); NaN where
        one is constant.

    Raises:
        ValueError: k < 2 or k >= n.
    """
    return cknna(*paired(x, y, "cosine"), k)


def cknna(a: Representation, b: Representation, k: int = 10) -> float:
    """CKNNA of two representations in the geometry "cosine", see `cknna_similarity`."""
    n = len(a)
    if not 2 <= k < n:
        raise ValueError(f"k={k}: expected 2 <= k < {n} samples")
    if not a.energy > 0 or not b.energy > 0:
        return np.nan
    cosines_a = cosines(a)  # [n, n]
    cosines_b = cosines(b)
    near_a = neighbour_matrix(a, k).to(cosines_a)  # of norm 1: the factor cancels in the ratio
    near_b = neighbour_matrix(b, k).to(cosines_b)
    near_both = near_a * near_b
    self_a = _hsic(near_a.square() * cosines_a, near_a.square() * cosines_a)
    self_b = _hsic(near_b.square() * cosines_b, near_b.square() * cosines_b)
    if not self_a > 0 or not self_b > 0:
        return np.nan
    both: float = _hsic(near_both * cosines_a, near_both * cosines_b)
    length: float = (self_a * self_b) ** 0.5
    return both / length


def cosines(representation: Representation) -> Tensor:
    """Cosines of the samples [n, n] in the geometry "cosine", from their distances there.

    |x - y|^2 = |x|^2 + |y|^2 - 2 xy, where the lengths are 1; those of rows of zeros are 0.
    """
    distances = squared_distances(representation.gram.double()) * representation.unit**2
    squares = representation.lengths.double().square()  # [n]
    return (squares[:, None] + squares - distances) / 2


def _hsic(k: Tensor, m: Tensor) -> float:
    """HSIC_1 of two kernels [n, n] that need not be symmetric (Song 2012, eq. 5).

    The factor 1 / (n(n-3)) is left out: it cancels in the ratio.
    """
    n = len(k)
    k = k.clone().fill_diagonal_(0)
    m = m.clone().fill_diagonal_(0)
    both = (k * m.T).sum()
    total = k.sum() * m.sum() / ((n - 1) * (n - 2))
    paths = torch.dot(k.sum(0), m.sum(1))  # 1' K M 1
    return float(both + total - 2 / (n - 2) * paths)
