"""Features become centred Gram matrices at once, Grams become sums of inner products.

A Gram K = XX' of n samples is all that CKA needs of a layer, and HSIC of two layers is the inner
product of their centred Grams: all pairs of a batch are one matrix product, and a batch leaves
nothing behind but an [L, L] matrix of sums.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32, no bfloat16 products inside: Grams lose three digits with them."""
    matmuls = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    name = "fp32_precision" if hasattr(matmuls[0], "fp32_precision") else "allow_tf32"
    held = [(m, getattr(m, name)) for m in matmuls if hasattr(m, name)]
    try:
        for m, _ in held:
            setattr(m, name, "ieee" if name == "fp32_precision" else False)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for m, value in held:
            setattr(m, name, value)


def flatten(x: Tensor) -> Tensor:
    """[n, ...] -> [n, d] without a copy, also of channels_last: a Gram ignores features' order."""
    order = sorted(range(1, x.dim()), key=lambda i: -x.stride(i))
    return x.permute(0, *order).reshape(len(x), -1)


def centred_gram(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n, d] -> [n, n]: Gram of the features with their means removed first, in column chunks.

    A Gram of raw features loses all to rounding once the mean is ten standard deviations.
    """
    n, wide = len(x), torch.promote_types(x.dtype, dtype)
    gram = torch.zeros(n, n, dtype=dtype, device=x.device)
    with full_precision(x.device):
        for part in x.split(max(1, 2**19 // n), dim=1):
            part = part.to(wide)
            part = (part - part.mean(0)).to(dtype)
            gram.addmm_(part, part.T)
    # Features that differ by less than two roundings of their size hold no information.
    noise = (2 * torch.finfo(x.dtype).eps * x[0].to(dtype)).square().sum() * n
    return gram.mul_((gram.trace() > noise) | gram.trace().isnan())


def center(gram: Tensor, debiased: bool = True) -> Tensor:
    """[n, n] -> [n, n]: double centring HKH, or U-centring (Song 2012) with a zero diagonal.

    <A, B> of two U-centred Grams is n(n-3) times the unbiased HSIC, which needs n >= 4.
    """
    n = len(gram)
    if not debiased:
        mean = gram.mean(0)
        return gram - mean[:, None] - mean + mean.mean()
    if n < 4:
        raise ValueError(f"the debiased estimator needs at least 4 samples, got {n}")
    out = gram.clone().fill_diagonal_(0)
    mean = out.sum(1) / (n - 2)
    mean -= mean.sum() / (2 * (n - 1))
    return out.sub_(mean[:, None]).sub_(mean).fill_diagonal_(0)


def squared_distances(gram: Tensor) -> Tensor:
    """[n, n] Gram -> [n, n] squared Euclidean distances."""
    norms = gram.diagonal()
    return (norms[:, None] + norms - 2 * gram).clamp_(min=0).fill_diagonal_(0)


def median_distance(gram: Tensor) -> Tensor:
    """Median Euclidean distance between different samples (the diagonal's zeros left out)."""
    return squared_distances(gram).fill_diagonal_(torch.nan).nanmedian().sqrt()


def residual(gram: Tensor, confounder: Tensor, clamp: bool = False) -> Tensor:
    """What is left of a centred Gram after regressing it on the confounder's (Cui 2022).

    Centred, both have the mean 0, and so has the intercept. `clamp`: negative eigenvalues to 0.
    """
    left = gram - (gram * confounder).sum() / confounder.square().sum() * confounder
    if clamp and left.isfinite().all():
        values, vectors = torch.linalg.eigh(left)
        left = (vectors * values.clamp(min=0)) @ vectors.T
    return left


def kernel_row(kernel: str, gram: Tensor, debiased: bool, *, sigma: float = 0,
               confounder: Tensor | None = None, clamp: bool = False) -> Tensor:
    """Centred Gram of a "linear", "rbf" or "residual" kernel; zeros where only rounding is left."""
    k, scale = gram, gram.norm()
    if kernel == "rbf":  # exp(-|x - y|^2 / (2 sigma^2)), less 1: wide kernels keep their digits
        k = torch.expm1(squared_distances(gram) / (-2 * sigma**2))
        scale = k.norm()
    elif kernel == "residual":
        k = residual(gram, confounder.to(gram.device), clamp)
    row = center(k, debiased)
    norm, share = row.norm(), 1e-12 if row.dtype == torch.float64 else 1e-6
    return row.mul_((norm > share * scale) | norm.isnan())


def inner_products(rows: list[Tensor], compensated: bool = False) -> np.ndarray:
    """T matrices [n, n] -> float64 [T, T] of their inner products, in one product.

    In float64; where the device has none, float32 products of short chunks whose sum carries
    its rounding error along (`compensated`).
    """
    device, count, flat = rows[0].device, len(rows), [row.flatten() for row in rows]
    compensated = compensated or device.type == "mps"
    wide, step = (torch.float32, 1024) if compensated else (torch.float64, max(1, 2**20 // count))
    total = torch.zeros(count, count, dtype=wide, device=device)
    error = torch.zeros_like(total)
    with full_precision(device):
        for start in range(0, len(flat[0]), step):
            block = torch.stack([row[start:start + step] for row in flat]).to(wide)
            if not compensated:
                total.addmm_(block, block.T)
                continue
            part = block @ block.T
            new = total + part
            back = new - total  # two-sum: error gathers exactly what the addition rounded away
            error += (total - (new - back)) + (part - back)
            total = new
    return (total.cpu().double() + error.cpu().double()).numpy()


def cosine(sums: np.ndarray) -> np.ndarray:
    """[T, T] sums -> [T, T] sums over the roots of both diagonals; NaN where a diagonal is 0."""
    norm = np.sqrt(np.diagonal(sums))
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums / norm[:, None] / norm


def partial(cka: np.ndarray) -> np.ndarray:
    """[T+1, T+1] CKA, the confounder last -> [T, T] deconfounded CKA (Cui 2022).

    The partial correlation (c12 - c10 c20) / sqrt((1 - c10^2)(1 - c20^2)); NaN for a layer that
    is the confounder itself up to rounding.
    """
    c0 = cka[:-1, -1]
    rest = np.sqrt(np.where(1 - c0**2 > 1e-6, 1 - c0**2, np.nan))
    return (cka[:-1, :-1] - c0[:, None] * c0) / rest[:, None] / rest
