"""How alike two representations of the same samples are: plain functions of two matrices.

x is [n, p] and y is [n, q], samples by features, tensors or arrays; a float comes back, computed in
float64. `..._similarity` is larger, `..._distance` is smaller for more alike representations.
Columns are centred first, so a shift of the features never matters. Where a Gram matrix K
determines a measure, `Representation.from_gram(K)` may stand for a matrix.

Constant features give NaN. All raise ValueError unless both are finite matrices of the same samples
(and, where an option is a name or a number, if it is none that exists).

In the formulas X and Y are the centred matrices, K = XX' and L = YY' their Grams, |.| is the
Frobenius norm and |.|_* the nuclear norm, the sum of the singular values.

Reading order: cka; shape (Procrustes); linear_maps (canonical correlations, regression); rsa;
neighbours (mutual kNN).
"""

from .cka import (
    cka_loss,
    cka_similarity,
    deconfounded_cka_similarity,
    hsic,
    rbf_cka_similarity,
)
from .linear_maps import (
    cca_similarity,
    pwcca_similarity,
    regression_similarity,
    svcca_similarity,
)
from .neighbours import mutual_knn_similarity, neighbour_matrix, shared_neighbours
from .rsa import rank_matrix, rsa_similarity
from .shape import procrustes_distance

__all__ = [
    "cca_similarity",
    "cka_loss",
    "cka_similarity",
    "deconfounded_cka_similarity",
    "hsic",
    "mutual_knn_similarity",
    "neighbour_matrix",
    "procrustes_distance",
    "pwcca_similarity",
    "rank_matrix",
    "rbf_cka_similarity",
    "regression_similarity",
    "rsa_similarity",
    "shared_neighbours",
    "svcca_similarity",
]
