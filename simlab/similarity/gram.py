"""Features become centred Gram matrices, and Grams become sums of inner products.

The Gram K = XX' of n samples is all that CKA needs to know of a layer, and the HSIC of two layers
is the inner product of their centred Grams. So all pairs of layers of a batch are one matrix
product, and a batch leaves nothing behind but a matrix [T, T] of sums, where T is the number of
layers. The Grams of T layers are one tensor [T, n, n].

CKA is debiased in `centre`.
"""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

COLUMNS_CHUNK = 2**19  # numbers that are centred at once: as many as stay in the cores' caches
PRODUCTS_CHUNK = 2**20  # numbers that are made float64 at once
SAFE_TRACE = (1e-20, 1e30)  # of a float32 Gram: between them no product is lost or infinite
LARGEST_EXPONENT = 120  # of a unit, so that float32 holds its inverse


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch off autocast, TF32 and bfloat16 products, with which Grams lose three digits."""
    backends = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    switch = "fp32_precision"
    exact: str | bool = "ieee"
    if not hasattr(torch.backends.cuda.matmul, switch):  # older torch
        switch = "allow_tf32"
        exact = False
    previous = [(b, getattr(b, switch)) for b in backends if hasattr(b, switch)]
    # Only where one is on: entering autocast takes its time.
    no_autocast: contextlib.AbstractContextManager = contextlib.nullcontext()
    if torch.is_autocast_enabled(device.type):
        no_autocast = torch.autocast(device.type, enabled=False)
    try:
        for backend, _ in previous:
            setattr(backend, switch, exact)
        with no_autocast:
            yield
    finally:
        for backend, value in previous:
            setattr(backend, switch, value)


def flatten(x: Tensor) -> Tensor:
    """Flatten [n, ...] to [n, d] without a copy, also where it lies channels last in memory.

    The order of the features follows the memory's: a Gram does not depend on it.
    """
    strides = x.stride()
    dims = sorted(range(1, x.dim()), key=lambda dim: -strides[dim])
    return x.permute(0, *dims).reshape(len(x), -1)


def centred_gram(
    x: Tensor, dtype: torch.dtype = torch.float32, out: Tensor | None = None
) -> tuple[Tensor, float]:
    """Compute the Gram of the features with their means removed first, in units that suit them.

    A Gram of raw features loses all digits to rounding once the mean is ten standard deviations.
    CKA takes the fourth power of the features, which for 1e-12 or 1e12 is no float32 any more.

    Args:
        x: features [n, ...].
        dtype: of the sums.
        out: where the Gram is written, [n, n] of this dtype; None: into a new tensor.

    Returns:
        The Gram [n, n] of the features divided by `unit`, with a trace of about n: all zeros for
        features that are constant but for rounding; NaN stays NaN. And `unit`, a power of two, so
        that the division loses nothing.
    """
    x = flatten(x)
    n = len(x)
    unit = 1.0
    gram = x.new_empty(n, n, dtype=dtype) if out is None else out
    _sum_products(x, unit, gram)
    trace = gram.trace().item()
    if not SAFE_TRACE[0] < trace < SAFE_TRACE[1]:
        unit = power_of_two(torch.linalg.vector_norm(x, torch.inf).item())
        _sum_products(x, unit, gram)
        trace = gram.trace().item()
    # Features that differ by less than two roundings of their size hold no information.
    first = x[0].to(torch.promote_types(x.dtype, dtype)) / unit
    size = torch.linalg.vector_norm(first).item() ** 2
    if trace <= size * (4 * n * torch.finfo(x.dtype).eps ** 2):
        return gram.zero_(), 1.0
    spread = power_of_two(math.sqrt(trace / n))
    return gram.div_(spread**2), unit * spread


def _sum_products(x: Tensor, unit: float, gram: Tensor) -> None:
    """Fill the Gram [n, n] of centred features [n, d] divided by `unit`, in chunks of columns.

    The mean of every sixteenth of the samples is near enough: `centre` takes the rest, at no loss.
    """
    n = len(x)
    half = n // 2
    wide = torch.promote_types(x.dtype, gram.dtype)
    gram.zero_()
    with full_precision(x.device):
        for columns in x.split(max(1, COLUMNS_CHUNK // n), dim=1):
            columns = columns.to(wide)
            if unit != 1:
                columns = columns / unit
            mean = columns[:: max(1, n // 16)].mean(0)
            columns = (columns - mean).to(gram.dtype)
            # Symmetric: the upper right quarter need not be multiplied.
            gram[:, :half].addmm_(columns, columns[:half].T)
            gram[half:, half:].addmm_(columns[half:], columns[half:].T)
    gram[:half, half:] = gram[half:, :half].T


def power_of_two(size: float) -> float:
    """The power of two next to a size; 1 for sizes that are 0, NaN or infinite."""
    if not 0 < size < math.inf:
        return 1.0
    _, exponent = math.frexp(size)
    return math.ldexp(1.0, max(-LARGEST_EXPONENT, min(exponent, LARGEST_EXPONENT)))


def centre(grams: Tensor, debiased: bool = True) -> Tensor:
    """Centre Grams, so that their inner products estimate HSIC.

    Biased: HKH with H = I - 11'/n; <HKH, HLH> / (n-1)^2 is HSIC (Kornblith 2019, eq. 3).

    Debiased: U-centring (Székely & Rizzo 2014): the diagonal is left out, whose expected product
    is what biases HSIC. The inner product of two U-centred Grams is n(n-3) times the unbiased
    HSIC_1 (Song 2012, eq. 5; Nguyen 2021, eq. 3).

    Args:
        grams: [..., n, n], n >= 4 for the debiased estimator.
        debiased: which of the two.

    Returns:
        [..., n, n], a new tensor.

    Raises:
        ValueError: fewer than 4 samples for the debiased estimator.
    """
    n = grams.shape[-1]
    if not debiased:
        mean = grams.mean(-1, keepdim=True)  # [..., n, 1]
        return grams - mean - mean.mT + mean.mean(-2, keepdim=True)
    if n < 4:
        raise ValueError(f"the debiased estimator needs at least 4 samples, got {n}")
    centred = grams.clone()
    diagonal = centred.diagonal(dim1=-2, dim2=-1)  # a view
    diagonal.zero_()
    # K_ij - r_i/(n-2) - r_j/(n-2) + s/((n-1)(n-2)), with r the sums of the rows and s of all:
    # half of the last term goes into each mean.
    mean = centred.sum(-1, keepdim=True) / (n - 2)  # [..., n, 1]
    mean -= mean.sum(-2, keepdim=True) / (2 * (n - 1))
    centred.sub_(mean).sub_(mean.mT)
    diagonal.zero_()
    return centred


def squared_distances(grams: Tensor) -> Tensor:
    """Turn Grams [..., n, n] into squared Euclidean distances between samples [..., n, n].

    Distances that are smaller than the rounding of the Grams are 0.
    """
    norms = grams.diagonal(dim1=-2, dim2=-1)  # [..., n]
    both = norms[..., None] + norms[..., None, :]
    distances = both - 2 * grams
    distances *= ~(distances <= 4 * torch.finfo(grams.dtype).eps * both)  # NaN stays NaN
    distances.diagonal(dim1=-2, dim2=-1).zero_()
    return distances


def median_distance(grams: Tensor) -> Tensor:
    """Compute the median Euclidean distance between different samples: [..., n, n] -> [...]."""
    squares = squared_distances(grams)
    squares.diagonal(dim1=-2, dim2=-1).fill_(torch.nan)
    return squares.flatten(-2).nanmedian(-1).values.sqrt()


def residual(grams: Tensor, confounder: Tensor, clamp: bool = False) -> Tensor:
    """Regress one Gram out of others (Cui 2022).

    Centred Grams all have the mean 0, so the regression has no intercept.

    Args:
        grams: centred Grams [..., n, n].
        confounder: centred Gram [n, n].
        clamp: set negative eigenvalues of what is left to 0.

    Returns:
        What is left of the Grams [..., n, n].
    """
    slope = (grams * confounder).sum((-2, -1), keepdim=True) / confounder.square().sum()
    left = grams - slope * confounder
    if not clamp:
        return left
    values, vectors = torch.linalg.eigh(left.nan_to_num())
    clamped = (vectors * values.clamp(min=0)[..., None, :]) @ vectors.mT
    return torch.where(left.isnan(), left, clamped)


def centred_kernel(
    kernel: str,
    grams: Tensor,
    debiased: bool,
    *,
    sigma: Tensor | None = None,
    confounder: Tensor | None = None,
    clamp: bool = False,
) -> Tensor:
    """Compute the centred Grams of a kernel from those of the features.

    Args:
        kernel: "linear"; "rbf", exp(-|x - y|^2 / (2 sigma^2)); "residual", what is left of the
            linear one after the confounder's has been regressed out.
        grams: Grams of the features [..., n, n].
        debiased: how to centre, see `centre`.
        sigma: widths [...] of the rbf kernel.
        confounder: Gram [n, n] for the residual kernel.
        clamp: see `residual`.

    Returns:
        [..., n, n]; zeros where only rounding is left.
    """
    k = scale = grams
    if kernel == "rbf":
        assert sigma is not None
        # Less 1, which centring removes anyway: so wide kernels keep their digits.
        k = scale = torch.expm1(squared_distances(grams) / (-2 * sigma[..., None, None] ** 2))
    elif kernel == "residual":
        assert confounder is not None
        k = residual(centre(grams, debiased=False), centre(confounder, debiased=False), clamp)
    centred = centre(k, debiased)
    rounding = 1e-12 if grams.dtype == torch.float64 else 1e-6
    norm = torch.linalg.matrix_norm(centred)[..., None, None]
    largest = rounding * torch.linalg.matrix_norm(scale)[..., None, None]
    return centred.mul_((norm > largest) | norm.isnan())


def inner_products(matrices: Tensor, compensated: bool = False) -> np.ndarray:
    """Compute all inner products of T matrices, in float64.

    Args:
        matrices: [T, n, n].
        compensated: use float32 alone, with a sum that carries its rounding error along; so it is
            always done on a device without float64 (mps).

    Returns:
        [T, T].
    """
    flat = matrices.flatten(1)  # [T, n n]
    with full_precision(matrices.device):
        if compensated or matrices.device.type == "mps":
            return _compensated_products(flat)
        products = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
        for block in flat.split(max(1, PRODUCTS_CHUNK // len(flat)), dim=1):
            block = block.double()
            products.addmm_(block, block.T)
    return products.cpu().numpy()


def _compensated_products(flat: Tensor) -> np.ndarray:
    """[T, m] float32 -> [T, T] float64: products of short chunks, added by two-sum."""
    total = torch.zeros(len(flat), len(flat), dtype=torch.float32, device=flat.device)
    error = torch.zeros_like(total)
    for block in flat.split(1024, dim=1):
        block = block.float()
        term = block @ block.T
        rounded = total + term
        added = rounded - total
        # Exactly what the addition has rounded away (Knuth's two-sum).
        error += (total - (rounded - added)) + (term - added)
        total = rounded
    return (total.cpu().double() + error.cpu().double()).numpy()


def cosine(sums: np.ndarray) -> np.ndarray:
    """Divide sums [T, T] by the roots of both diagonals; NaN where a diagonal is 0.

    Of sums of <K, L> over batches this is minibatch CKA (Kornblith 2019, eq. 4; Nguyen 2021,
    eq. 2).
    """
    norm = np.sqrt(np.diagonal(sums))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: np.ndarray = sums / norm[:, None] / norm
    return ratios


def deconfounded(cka: np.ndarray) -> np.ndarray:
    """Take the confounder out of CKA values: their partial correlation (Cui 2022).

    (c12 - c10 c20) / sqrt((1 - c10^2)(1 - c20^2)), where 0 is the confounder.

    Args:
        cka: [T+1, T+1], the confounder last.

    Returns:
        [T, T]; NaN for a layer that is the confounder itself up to rounding.
    """
    c0 = cka[:-1, -1]  # [T]
    unexplained = 1 - c0**2
    rest = np.sqrt(np.where(unexplained > 1e-6, unexplained, np.nan))
    partial: np.ndarray = (cka[:-1, :-1] - c0[:, None] * c0) / rest[:, None] / rest
    return partial


def alignment(a: Tensor, b: Tensor) -> float:
    """Cosine of two matrices [n, n]; NaN where one is 0."""
    return float((a * b).sum() / a.norm() / b.norm())
