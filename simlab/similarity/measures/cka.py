"""Centred kernel alignment: how alike the Grams of two representations are."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..gram import (
    alignment,
    centre,
    centred_kernel,
    cosine,
    deconfounded,
    full_precision,
    inner_products,
    median_distance,
    power_of_two,
)
from ..representation import Representation, paired


def hsic(x: Any, y: Any, *, debiased: bool = True) -> float:
    """Hilbert-Schmidt independence criterion with linear kernels.

    Biased: <K, L> / (n-1)^2 of centred Grams (Gretton 2005; Kornblith 2019, eq. 3). Debiased:
    HSIC_1, whose expectation is that of infinitely many samples (Song 2012, eq. 5; n >= 4).

    Args:
        x: [n, p].
        y: [n, q].
        debiased: which of the two.

    Returns:
        HSIC; the debiased one may be negative.
    """
    a, b = paired(x, y)
    n = len(a)
    if debiased and n < 4:
        raise ValueError(f"the debiased estimator needs at least 4 samples, got {n}")
    product = _product_of_grams(a, b, debiased).item()
    return product / (n * (n - 3) if debiased else (n - 1) ** 2)


def _product_of_grams(a: Representation, b: Representation, debiased: bool) -> Tensor:
    """<K, L> of the centred Grams, a scalar; from the features where that is less work."""
    x = a.features
    y = b.features
    if x is None or y is None or x.shape[1] * y.shape[1] > len(a) ** 2:
        return (centre(a.gram, debiased) * centre(b.gram, debiased)).sum()
    return _product_by_features(x, y, debiased)


def _product_by_features(x: Tensor, y: Tensor, debiased: bool) -> Tensor:
    """<K, L> of the centred Grams of centred features x [n, p] and y [n, q], a scalar."""
    n = len(x)
    product = (y.T @ x).square().sum()  # |Y'X|^2
    if not debiased:
        return product
    # n(n-3) HSIC_1 = <K, L> - n/(n-2) r's + (1'r)(1's) / ((n-1)(n-2)): Song 2012, eq. 5, for
    # Grams of centred features, with diagonals r and s: without these their rows sum to -r and -s.
    r = x.square().sum(1)
    s = y.square().sum(1)
    return product - n / (n - 2) * (r @ s) + r.sum() * s.sum() / ((n - 1) * (n - 2))


def cka_similarity(x: Any, y: Any, *, debiased: bool = True) -> float:
    """Linear centred kernel alignment: HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)).

    Kornblith 2019, eq. 4. Invariant to rotation, isotropic scale and shift, not to general linear
    maps.

    Args:
        x: [n, p].
        y: [n, q].
        debiased: from HSIC_1 (Nguyen 2021, eq. 2 and 3): 0 on average for independent x and y.
            Biased, independent noise gives about 1 / sqrt((1 + n/p)(1 + n/q)).

    Returns:
        At most 1; biased, in [0, 1].
    """
    a, b = paired(x, y)
    self_hsic = []
    for representation in (a, b):
        self_hsic.append(hsic(representation, representation, debiased=debiased))
        rounding = 1e-14 * (representation.energy / len(a)) ** 2
        if not self_hsic[-1] > rounding:
            return np.nan
    geometric_mean: float = self_hsic[0] ** 0.5 * self_hsic[1] ** 0.5
    return hsic(a, b, debiased=debiased) / geometric_mean


def cka_loss(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """1 - linear CKA as a loss: a tensor with a gradient in x and in y.

    Minimised, it makes two representations alike up to rotation, scale and shift, whatever their
    widths; `2 - cka_loss(x, y)` minimised makes them unlike. See `cka_similarity`.

    Args:
        x: [n, p].
        y: [n, q]; detach what shall stay as it is, such as a teacher.
        debiased: of few samples of many features only the debiased one can tell how alike they are
            (n >= 4); the biased one is then near 0 whatever they are.

    Returns:
        A scalar, in float32 for lower precisions.

    Raises:
        TypeError: x or y is no tensor of floats.
        ValueError: they are no matrices of the same samples, or CKA is undefined, since one of them
            is constant, not finite or (debiased) has all samples equally far apart.
    """
    centred = []
    for name, features in (("x", x), ("y", y)):
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise TypeError(f"cka_loss: {name} must be a tensor of floats, got {type(features)}")
        if features.dim() != 2 or len(features) != len(x):
            raise ValueError(
                f"cka_loss: expected matrices [n, p] and [n, q] of the same samples, got shapes "
                f"{tuple(x.shape)} and {tuple(y.shape)}"
            )
        centred.append(_in_units(features))
    if debiased and len(x) < 4:
        raise ValueError(f"the debiased estimator needs at least 4 samples, got {len(x)}")
    with full_precision(x.device):
        self_products = []
        for name, features in zip("xy", centred, strict=True):
            product = _product_of_features(features, features, debiased)
            rounding = 16 * torch.finfo(features.dtype).eps * features.square().sum() ** 2
            if not product > rounding / len(x):
                raise ValueError(
                    f"cka_loss: CKA is undefined, since {name} is constant, not finite, or all of "
                    "its samples are equally far apart"
                )
            self_products.append(product.sqrt())
        product = _product_of_features(centred[0], centred[1], debiased)
        return 1 - product / self_products[0] / self_products[1]


def _in_units(x: Tensor) -> Tensor:
    """Centred features [n, p], at least in float32, divided by a constant near their size."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    unit = power_of_two(torch.linalg.vector_norm(x.detach(), torch.inf).item())
    x = x / unit
    return x - x.mean(0)


def _product_of_features(x: Tensor, y: Tensor, debiased: bool) -> Tensor:
    """<K, L> as `_product_of_grams` computes it, with a gradient."""
    if x.shape[1] * y.shape[1] > len(x) ** 2:
        return (centre(x @ x.T, debiased) * centre(y @ y.T, debiased)).sum()
    return _product_by_features(x, y, debiased)


def rbf_cka_similarity(x: Any, y: Any, *, debiased: bool = True, scale: float = 1.0) -> float:
    """CKA with Gaussian kernels (Kornblith 2019, section 3).

    Invariant to rotation, isotropic scale and shift. Tends to linear CKA as `scale` grows.

    Args:
        x: [n, p].
        y: [n, q].
        debiased: see `cka_similarity`.
        scale: the kernel's width in units of the median distance between samples.

    Returns:
        In [-1, 1]; biased, in [0, 1].
    """
    centred = []
    for representation in paired(x, y):
        sigma = scale * median_distance(representation.gram)
        centred.append(centred_kernel("rbf", representation.gram, debiased, sigma=sigma))
    return alignment(*centred)


def deconfounded_cka_similarity(
    x: Any, y: Any, z: Any, *, debiased: bool = True, clamp: bool = False
) -> float:
    """Linear CKA of what is left of both Grams after regressing them on z's (Cui 2022).

    Without `clamp` it is the partial correlation of the CKA values. The invariances are CKA's.

    Args:
        x: [n, p].
        y: [n, q].
        z: the confounder [n, r].
        debiased: see `cka_similarity`.
        clamp: set negative eigenvalues of the residual Grams to 0.

    Returns:
        In [-1, 1].
    """
    a, b = paired(x, y)
    c, _ = paired(z, x)
    if not clamp:
        grams = torch.stack([a.gram, b.gram, c.gram])
        centred = centred_kernel("linear", grams, debiased)
        cka = cosine(inner_products(centred))  # [3, 3]
        return float(deconfounded(cka)[0, 1])
    residuals = []
    for representation in (a, b):
        left = centred_kernel(
            "residual", representation.gram, debiased, confounder=c.gram, clamp=True
        )
        residuals.append(left)
    return alignment(*residuals)
