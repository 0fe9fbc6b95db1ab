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
    inner_products,
    median_distance,
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
    n = len(a)
    if x is None or y is None or x.shape[1] * y.shape[1] > n**2:
        return (centre(a.gram, debiased) * centre(b.gram, debiased)).sum()
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
    geometric_mean: float = (self_hsic[0] * self_hsic[1]) ** 0.5
    return hsic(a, b, debiased=debiased) / geometric_mean


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
