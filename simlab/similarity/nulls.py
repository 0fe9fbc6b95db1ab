"""Null distributions: the samples of one side in random order, so that nothing corresponds.

A measure that is the inner product of two layers' matrices [n, n] needs no new matrices for that:
its rows and columns are read in another order. The norms stay what they are.
"""

import numpy as np
import torch
from torch import Tensor

from . import gram

ROWS_CHUNK = 2**14  # pairs of samples that are read in another order at once


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
    i, j, weights = _entries(matrices)
    # By pairs of samples, so that reading a pair reads all layers at once.
    table = (matrices[:, i, j] * weights.sqrt()).T.contiguous()  # [m, T]
    place = torch.empty(n, n, dtype=torch.int64, device=i.device)  # of a pair in the table
    place[i, j] = torch.arange(len(i), device=i.device)
    if len(i) < n * n:
        place[j, i] = place[i, j].clone()
    products = torch.zeros(len(orders), count, count, dtype=torch.float64)
    with gram.full_precision(matrices.device):
        for number, order in enumerate(orders):
            order = order.to(i.device)
            permuted = place[order[i], order[j]]
            for rows, others in zip(
                table.split(ROWS_CHUNK), permuted.split(ROWS_CHUNK), strict=True
            ):
                products[number] += (rows.T @ table[others]).double().cpu()
    values = products.numpy()
    if cosine:
        norms = torch.linalg.matrix_norm(matrices).double().cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            values = values / norms[:, None] / norms
    return values


def _entries(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows i, columns j and weights of the entries that a product needs: half, if symmetric."""
    n = matrices.shape[1]
    home = matrices.device
    if all(torch.allclose(matrix, matrix.T, equal_nan=True) for matrix in matrices):
        i, j = torch.triu_indices(n, n, device=home)
        return i, j, 2.0 - (i == j).to(matrices)
    i, j = torch.ones(n, n, device=home).nonzero(as_tuple=True)
    return i, j, torch.ones(len(i), device=home)
