"""Features become centred Gram matrices at once, Grams become sums of inner products.

A Gram K = XX' of n samples is all that CKA needs of a layer, and HSIC of two layers is the inner
product of their centred Grams: all pairs of a batch are one matrix product, and a batch leaves
nothing behind but a [T, T] matrix of sums. Grams of T layers are one tensor [T, n, n].
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

CHUNK = 2**19  # numbers that are centred at once: as many as stay in the cores' caches


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32, no bfloat16 products inside: Grams lose three digits with them."""
    matmuls = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    name = "fp32_precision" if hasattr(matmuls[0], "fp32_precision") else "allow_tf32"
    held = [(m, getattr(m, name)) for m in matmuls if hasattr(m, name)]
    try:
        for m, _ in held:
            setattr(m, name, "ieee" if name == "fp32_precision" else False)
        with (
            torch.autocast(device.type, enabled=False)
            if torch.is_autocast_enabled(device.type)
            else contextlib.nullcontext()
        ):  # an autocast takes its time
            yield
    finally:
        for m, value in held:
            setattr(m, name, value)


def flatten(x: Tensor) -> Tensor:
    """[n, ...] -> [n, d] without a copy, also of channels_last: a Gram ignores features' order."""
    order = sorted(range(1, x.dim()), key=lambda i: -x.stride(i))
    return x.permute(0, *order).reshape(len(x), -1)


def centred_gram(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n, ...] -> [n, n]: Gram of the features with their means removed first, in column chunks.

    A Gram of raw features loses all to rounding once the mean is ten standard deviations. The mean
    of every sixteenth of the samples is near enough: `center` takes the rest, at no loss.
    """
    x, n, wide = flatten(x), len(x), torch.promote_types(x.dtype, dtype)
    gram, half = torch.zeros(n, n, dtype=dtype, device=x.device), n // 2
    with full_precision(x.device):
        for part in x.split(max(1, CHUNK // n), dim=1):
            part = part.to(wide)
            part = (part - part[:: max(1, n // 16)].mean(0)).to(dtype)
            gram[:, :half].addmm_(part, part[:half].T)
            gram[half:, half:].addmm_(part[half:], part[half:].T)
    gram[:half, half:] = gram[half:, :half].T  # symmetric: a quarter need not be multiplied
    # Features that differ by less than two roundings of their size hold no information.
    noise = torch.linalg.vector_norm(x[0], dtype=dtype) ** 2 * (
        4 * n * torch.finfo(x.dtype).eps ** 2
    )
    return gram.mul_(~(gram.trace() <= noise))  # NaN stays


def center(grams: Tensor, debiased: bool = True) -> Tensor:
    """[..., n, n] -> the same: double centring HKH, or U-centring (Song 2012), whose diagonal is 0.

    <A, B> of two U-centred Grams is n(n-3) times the unbiased HSIC, which needs n >= 4.
    """
    n = grams.shape[-1]
    if not debiased:
        mean = grams.mean(-1, keepdim=True)
        return grams - mean - mean.mT + mean.mean(-2, keepdim=True)
    if n < 4:
        raise ValueError(f"the debiased estimator needs at least 4 samples, got {n}")
    out = grams.clone()
    diagonal = out.diagonal(dim1=-2, dim2=-1)
    diagonal.zero_()
    mean = out.sum(-1, keepdim=True) / (n - 2)
    mean -= mean.sum(-2, keepdim=True) / (2 * (n - 1))
    out.sub_(mean).sub_(mean.mT)
    diagonal.zero_()
    return out


def squared_distances(grams: Tensor) -> Tensor:
    """[..., n, n] Grams -> [..., n, n] squared Euclidean distances."""
    norms = grams.diagonal(dim1=-2, dim2=-1)
    out = (norms[..., None] + norms[..., None, :] - 2 * grams).clamp_(min=0)
    out.diagonal(dim1=-2, dim2=-1).zero_()
    return out


def median_distance(grams: Tensor) -> Tensor:
    """[..., n, n] -> [...]: median Euclidean distance between different samples."""
    squares = squared_distances(grams)
    squares.diagonal(dim1=-2, dim2=-1).fill_(torch.nan)
    return squares.flatten(-2).nanmedian(-1).values.sqrt()


def residual(grams: Tensor, confounder: Tensor, clamp: bool = False) -> Tensor:
    """What is left of centred Grams [..., n, n] after regressing them on one's [n, n] (Cui 2022).

    Centred, all have the mean 0, and so has the intercept. `clamp`: negative eigenvalues to 0.
    """
    slope = (grams * confounder).sum((-2, -1), keepdim=True) / confounder.square().sum()
    left = grams - slope * confounder
    if clamp:
        values, vectors = torch.linalg.eigh(left.nan_to_num())
        clamped = (vectors * values.clamp(min=0)[..., None, :]) @ vectors.mT
        left = torch.where(left.isnan(), left, clamped)
    return left


def kernel_rows(
    kernel: str,
    grams: Tensor,
    debiased: bool,
    *,
    sigma: Tensor | None = None,
    confounder: Tensor | None = None,
    clamp: bool = False,
) -> Tensor:
    """Centred Grams [..., n, n] of a "linear", "rbf" (sigma [...]) or "residual" kernel.

    Zeros where only rounding is left.
    """
    k = scale = grams
    if kernel == "rbf":  # exp(-|x - y|^2 / (2 sigma^2)), less 1: wide kernels keep their digits
        k = scale = torch.expm1(squared_distances(grams) / (-2 * sigma[..., None, None] ** 2))
    elif kernel == "residual":
        k = residual(center(grams, debiased=False), center(confounder, debiased=False), clamp)
    rows, share = center(k, debiased), 1e-12 if grams.dtype == torch.float64 else 1e-6
    norm, scale = (torch.linalg.matrix_norm(m)[..., None, None] for m in (rows, scale))
    return rows.mul_((norm > share * scale) | norm.isnan())


def inner_products(rows: Tensor, compensated: bool = False) -> np.ndarray:
    """[T, n, n] -> float64 [T, T] of all inner products, in one product.

    In float64; where the device has none, float32 products of short chunks whose sum carries
    its rounding error along (`compensated`).
    """
    compensated = compensated or rows.device.type == "mps"
    wide, step = (
        (torch.float32, 1024) if compensated else (torch.float64, max(1, 2**20 // len(rows)))
    )
    total = torch.zeros(len(rows), len(rows), dtype=wide, device=rows.device)
    error = torch.zeros_like(total)
    with full_precision(rows.device):
        for block in rows.flatten(1).split(step, dim=1):
            block = block.to(wide)
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
