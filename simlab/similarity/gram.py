"""Features become centred Gram matrices at once, Grams become sums of inner products.

A Gram K = XX' of n samples is all that CKA needs of a layer. After centring, HSIC of two layers is
the inner product <A, B> of their Grams: all pairs of a batch are one matrix product, and a batch
leaves nothing behind but an [L, L] matrix of sums.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

ROUNDING = 1e-6  # float32 Grams: a centred Gram below this share of its trace is rounding noise


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
    """[n, d] -> [n, n]: Gram of the features with their means removed first.

    Centring the Gram of raw features instead loses everything to rounding once the mean is some
    ten standard deviations. In chunks of columns: nothing of the features' size is ever copied.
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
    gram *= (gram.trace() > noise) | gram.trace().isnan()
    return gram


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
    out -= mean[:, None]
    out -= mean
    return out.fill_diagonal_(0)


def squared_distances(gram: Tensor) -> Tensor:
    """[n, n] Gram -> [n, n] squared Euclidean distances."""
    norms = gram.diagonal()
    return (norms[:, None] + norms - 2 * gram).clamp_(min=0).fill_diagonal_(0)


def upper(square: Tensor) -> Tensor:
    """[n, n] -> its entries above the diagonal, row by row."""
    return square[*torch.triu_indices(len(square), len(square), 1, device=square.device)]


def median_distance(gram: Tensor) -> Tensor:
    """Median Euclidean distance between different samples (the diagonal's zeros left out)."""
    return upper(squared_distances(gram)).median().sqrt()


def rbf(gram: Tensor, sigma: float | Tensor) -> Tensor:
    """Gram of the Gaussian kernel exp(-|x - y|^2 / (2 sigma^2)), less 1.

    Centring removes the 1; without it a wide kernel (all entries near 1) keeps its digits.
    """
    return torch.expm1(squared_distances(gram) / (-2 * sigma**2))


def residual(gram: Tensor, confounder: Tensor, clamp: bool = False) -> Tensor:
    """What is left of a centred Gram after regressing it on the confounder's (Cui 2022).

    Centred, both have the mean 0, and so has the intercept. `clamp`: negative eigenvalues to 0.
    """
    gram, base = center(gram, debiased=False), center(confounder, debiased=False)
    left = gram - (gram * base).sum() / (base * base).sum() * base
    if clamp and left.isfinite().all():
        values, vectors = torch.linalg.eigh(left)
        left = (vectors * values.clamp(min=0)) @ vectors.T
    return left


def inner_products(rows: list[Tensor], compensated: bool = False) -> np.ndarray:
    """T matrices [n, n] -> float64 [T, T] of their inner products, in one product.

    In float64; where the device has none, float32 products of short chunks whose sum carries
    its rounding error along (`compensated`).
    """
    device, count, flat = rows[0].device, len(rows), [row.flatten() for row in rows]
    compensated = compensated or device.type == "mps"
    wide = torch.float32 if compensated else torch.float64
    total = torch.zeros(count, count, dtype=wide, device=device)
    error = torch.zeros_like(total)
    step = 1024 if compensated else max(1, 2**20 // count)
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


class Sums:
    """Sums of inner products over batches, kept apart in at most 64 groups for resampling.

    When the groups run out, neighbours are merged: memory does not grow with the samples.
    """

    LIMIT = 64

    def __init__(self) -> None:
        self.groups: list[np.ndarray] = []
        self.counts: list[int] = []
        self.span = 1  # batches in a full group

    def add(self, products: np.ndarray) -> None:
        """Add one batch's inner products [T, T]."""
        if self.counts and self.counts[-1] < self.span:
            self.groups[-1] += products
            self.counts[-1] += 1
            return
        if len(self.groups) == self.LIMIT:
            self.groups = [a + b for a, b in zip(self.groups[::2], self.groups[1::2], strict=True)]
            self.counts = [a + b for a, b in zip(self.counts[::2], self.counts[1::2], strict=True)]
            self.span *= 2
        self.groups.append(products)
        self.counts.append(1)


class Rows:
    """Turns the Grams of a batch into centred rows, and these into sums over batches.

    `kernels` are among "linear", "rbf" and "residual" (the confounder regressed out in the batch).
    """

    def __init__(self, kernels: set[str], estimator: str, rbf_scale: float, clamp: bool) -> None:
        self.debiased, self.published = estimator == "debiased", estimator == "published"
        self.rbf_scale, self.clamp = rbf_scale, clamp
        self.sums = {kernel: Sums() for kernel in kernels}
        self.sigma: dict[int, float] = {}  # RBF's width of a row, fixed by the first batch

    def open(self, samples: int, confounder: Tensor | None) -> None:
        """Begin a batch of so many samples; the confounder's Gram becomes the last row."""
        self.samples, self.confounder = samples, confounder
        self.made: dict[int, dict[str, Tensor]] = {}

    def add(self, row: int, gram: Tensor | None) -> None:
        """Add one layer's centred Gram [n, n]; None stands for one that is undefined."""
        gram = torch.full((self.samples,) * 2, torch.nan) if gram is None else gram
        self.made[row] = {}
        for kernel in self.sums:
            k = gram
            if kernel == "rbf":
                if row not in self.sigma:
                    self.sigma[row] = self.rbf_scale * median_distance(gram).item()
                k = rbf(gram, self.sigma[row])
            elif kernel == "residual":
                k = residual(gram, self.confounder.to(gram.device), self.clamp)
            centred = center(k, self.debiased)
            norm = centred.norm()
            # Rounding noise must not pass for structure. NaN stays NaN.
            scale = k.norm() if kernel == "rbf" else gram.trace()
            centred *= (norm > ROUNDING * scale) | norm.isnan()
            if self.published:  # unit rows: the sum over batches is then the sum of the ratios
                centred /= norm.clamp(min=torch.finfo(norm.dtype).tiny)
            self.made[row][kernel] = centred

    def close(self) -> None:
        """End the batch: its rows are summed; they stay in `stacks` by kernel till the next."""
        if self.confounder is not None:
            self.add(len(self.made), self.confounder)
        # Models may live on several devices: all rows meet on the first one's.
        self.stacks = {k: [self.made[row][k].to(self.made[0][k].device)
                           for row in range(len(self.made))] for k in self.sums}
        for kernel, stack in self.stacks.items():
            self.sums[kernel].add(inner_products(stack))

    def totals(self) -> dict[str, np.ndarray]:
        """{kernel: [T, T] sums over all batches}."""
        return {kernel: np.sum(sums.groups, axis=0) for kernel, sums in self.sums.items()}


def cosine(sums: np.ndarray) -> np.ndarray:
    """[T, T] sums -> CKA: sums over the roots of both diagonals; NaN where a diagonal is 0."""
    norm = np.sqrt(np.diagonal(sums))
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums / norm[:, None] / norm


def partial(cka: np.ndarray) -> np.ndarray:
    """[T+1, T+1] CKA, the confounder last -> [T, T] deconfounded CKA (Cui 2022).

    The partial correlation (c12 - c10 c20) / sqrt((1 - c10^2)(1 - c20^2)); NaN for a layer that
    is the confounder itself up to rounding.
    """
    c0 = cka[:-1, -1]
    rest = np.sqrt(np.where(1 - c0**2 > ROUNDING, 1 - c0**2, np.nan))
    return (cka[:-1, :-1] - c0[:, None] * c0) / rest[:, None] / rest


def from_sums(sums: np.ndarray, confounder: bool, deconfound: bool) -> np.ndarray:
    """Sums, with the confounder as last row if there is one -> [T, T] CKA or deconfounded."""
    cka = cosine(sums)
    if deconfound:
        return partial(cka)
    return cka[:-1, :-1] if confounder else cka
