"""Null distributions: the samples of one side in random order, so that nothing corresponds.

A measure that is the inner product of two layers' matrices [n, n] needs no new matrices for that:
rows and columns of the one are read in another order. The norms stay what they are.
"""

import numpy as np
import torch
from torch import Tensor

from . import gram

PAIRS_CHUNK = 2**13  # pairs of samples that are read in another order at once


def permuted_products(matrices: Tensor, orders: list[Tensor], cosine: bool) -> np.ndarray:
    """Compute inner products of all layers with the second one's samples permuted.

    Args:
        matrices: of T layers [T, n, n].
        orders: P permutations of the samples [n].
        cosine: whether to divide by the matrices' norms.

    Returns:
        [P, T, T].
    """
    count, n, _ = matrices.shape
    # Sample by sample, so that reading a pair of samples reads all layers at once.
    table = matrices.flatten(1).T.contiguous()  # [n n, T]
    i, j, weights = _pairs(matrices)
    left = table[i * n + j] * weights[:, None]  # [m, T]
    products = torch.zeros(len(orders), count, count, dtype=torch.float64)
    with gram.full_precision(matrices.device):
        for number, order in enumerate(orders):
            order = order.to(i.device)
            permuted = order.index_select(0, i) * n + order.index_select(0, j)  # [m]
            chunks = zip(left.split(PAIRS_CHUNK), permuted.split(PAIRS_CHUNK), strict=True)
            for rows, pairs in chunks:
                right = table.index_select(0, pairs)
                products[number] += (rows.T @ right).double().cpu()
    values: np.ndarray = products.numpy()
    if cosine:
        norms = torch.linalg.matrix_norm(matrices).double().cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            values = values / norms[:, None] / norms
    return values


def _pairs(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of samples i, j [m] that a product needs, and how often each counts [m].

    Half of them where all matrices are symmetric, and none at which all matrices are 0.
    """
    wanted = (matrices.nan_to_num() != 0).any(0)  # [n, n]
    wanted[0, 0] = True  # one is always read, so that NaN stays NaN
    symmetric = all(torch.allclose(matrix, matrix.T, equal_nan=True) for matrix in matrices)
    if symmetric:
        wanted = wanted.triu()
    i, j = wanted.nonzero(as_tuple=True)
    weights = torch.ones(len(i), dtype=matrices.dtype, device=i.device)
    if symmetric:
        weights += i != j
    return i, j, weights
