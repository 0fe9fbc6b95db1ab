"""The measures that `compare` knows by name, and how it computes each."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ..layers import one_of
from .measures import (
    cca_similarity,
    cknna,
    comparison_matrix,
    disagreement,
    jensen_shannon_divergence,
    neighbour_matrix,
    predictivity_pearson,
    predictivity_r2,
    procrustes_distance,
    pwcca_similarity,
    regression_similarity,
    rsa_kendall,
    svcca_similarity,
)
from .representation import Representation

MeasureFunction = Callable[[Tensor, Tensor], float]
Measures = str | MeasureFunction | Iterable[str | MeasureFunction]
KERNEL_OPTIONS = {"linear": [], "rbf": ["scale"], "residual": ["clamp"]}


@dataclass(frozen=True)
class Measure:
    """How `compare` computes a measure. Exactly one of kernel, sample_matrix and pair is given.

    Attributes:
        kind: "similarity" or "distance"; "measure" for a user's function.
        kernel: the measure is the cosine of two layers' centred Grams with this kernel (see
            `gram.centred_kernel`). Their inner products can be summed over batches, so one pass
            over any number of samples suffices; all others need the samples as one set.
        sample_matrix: f(Representation, **options) -> [n, n]; the measure is the cosine of two
            layers' matrices, or their inner product where `cosine` is False.
        pair: f(Representation, Representation, **options) -> float.
        limits: of the colour scale; debiased values may lie below.
        metric: the geometry of the samples, see `normalised_rows`.
        features: whether it needs the features themselves and not only their Gram.
        symmetric: whether f(x, y) = f(y, x).
        logits: whether it is of classifiers' outputs, and not of any features.
        cosine: whether matrices of samples are divided by their norms.
    """

    kind: Literal["similarity", "distance", "measure"]
    kernel: Literal["linear", "rbf", "residual"] | None = None
    sample_matrix: Callable[..., Tensor] | None = None
    pair: Callable[..., float] | None = None
    limits: tuple[float, float] = (0, 1)
    metric: str = "euclidean"
    features: bool = False
    symmetric: bool = True
    logits: bool = False
    cosine: bool = True

    @property
    def options(self) -> list[str]:
        """Names of the keywords it takes."""
        if self.kernel is not None:
            return KERNEL_OPTIONS[self.kernel]
        if self.pair is not None:
            return list(inspect.signature(self.pair).parameters)[2:]
        assert self.sample_matrix is not None
        return list(inspect.signature(self.sample_matrix).parameters)[1:]


# In the formulas X and Y are the centred features, K = XX' and L = YY' their Grams, <.,.> is the
# sum of all products and |.|_* the nuclear norm. The functions in measures say more of each.
MEASURES: dict[str, Measure] = {
    # <K, L> / sqrt(<K, K> <L, L>) with U-centred K and L (Kornblith 2019, eq. 4; debiased: Nguyen
    # 2021, eq. 2 and 3)
    "cka": Measure("similarity", kernel="linear"),
    # the same with K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)), sigma the median distance (Kornblith
    # 2019, section 3)
    "rbf_cka": Measure("similarity", kernel="rbf"),
    # the same with the confounder's Gram regressed out of K and L (Cui 2022)
    "deconfounded_cka": Measure("similarity", kernel="residual"),
    # 2 - 2c, arccos c and 1 - c, with c = |X'Y|_* for X and Y of Frobenius norm 1 (Ding 2021)
    "procrustes_distance": Measure("distance", pair=procrustes_distance, limits=(0, 2)),
    "procrustes_angle": Measure(
        "distance", pair=partial(procrustes_distance, form="angle"), limits=(0, np.pi / 2)
    ),
    "procrustes_complement": Measure(
        "distance", pair=partial(procrustes_distance, form="complement")
    ),
    # mean canonical correlation, |U'V|_* / min(rank) with bases U of X and V of Y (Hotelling 1936)
    "cca": Measure("similarity", pair=cca_similarity),
    # CCA of the principal directions that hold 99 % of the variance (Raghu 2017)
    "svcca": Measure("similarity", pair=svcca_similarity),
    # canonical correlations weighted by what they account for in X (Morcos 2018)
    "pwcca": Measure("similarity", pair=pwcca_similarity, features=True, symmetric=False),
    # R^2 of predicting X from Y, |V'X|^2 / |X|^2 (Kornblith 2019, table 1). In-sample: exactly 1
    # where Y has as many features as there are samples
    "regression": Measure("similarity", pair=regression_similarity, symmetric=False),
    # the same on samples held out from a ridge regression, and its correlation (Schrimpf 2018)
    "predictivity": Measure("similarity", pair=predictivity_r2, symmetric=False),
    "predictivity_pearson": Measure(
        "similarity", pair=predictivity_pearson, features=True, symmetric=False
    ),
    # Spearman's correlation of the distances between samples (Kriegeskorte 2008)
    "rsa": Measure("similarity", sample_matrix=comparison_matrix),
    "rsa_correlation": Measure("similarity", sample_matrix=comparison_matrix, metric="correlation"),
    # Pearson's correlation and Kendall's tau-a of the Euclidean distances (Nili 2014)
    "rsa_pearson": Measure(
        "similarity", sample_matrix=partial(comparison_matrix, comparison="pearson")
    ),
    "rsa_kendall": Measure("similarity", pair=rsa_kendall),
    # share of the k nearest neighbours in common (Huh 2024)
    "mutual_knn": Measure("similarity", sample_matrix=neighbour_matrix, cosine=False),
    "mutual_knn_cosine": Measure(
        "similarity", sample_matrix=neighbour_matrix, metric="cosine", cosine=False
    ),
    # CKA of the cosines of common nearest neighbours (Huh 2024)
    "cknna": Measure("similarity", pair=cknna, metric="cosine", symmetric=False),
    # share of samples with different predicted classes
    "disagreement": Measure("distance", pair=disagreement, features=True, logits=True),
    # Jensen-Shannon divergence of the predicted probabilities, in bits (Lin 1991)
    "jensen_shannon": Measure(
        "distance", pair=jensen_shannon_divergence, features=True, logits=True
    ),
}


def resolve_measures(
    measures: Measures, options: Mapping[str, Mapping[str, Any]]
) -> dict[str, Measure]:
    """Look up names and wrap functions of two centred feature matrices.

    Args:
        measures: one name or function f(X, Y), or several.
        options: {name: keywords} of some of them.

    Returns:
        {name: Measure}, in their order.

    Raises:
        ValueError: an unknown name or option.
        TypeError: something is neither a name nor a function.
    """
    if isinstance(measures, str) or callable(measures):
        measures = [measures]
    chosen: dict[str, Measure] = {}
    for measure in measures:
        if isinstance(measure, str):
            chosen[measure] = MEASURES[one_of(measure, MEASURES, "measures")]
        elif callable(measure):
            name = getattr(measure, "__name__", type(measure).__name__)
            pair = _of_features(measure)
            chosen[name] = Measure("measure", pair=pair, features=True, symmetric=False)
        else:
            raise TypeError(f"measures: expected names or functions f(X, Y), got {measure!r}")
    for name, keywords in options.items():
        allowed = chosen[one_of(name, chosen, "options")].options
        for keyword in keywords:
            one_of(keyword, allowed, f"option of {name}")
    return chosen


def _of_features(function: MeasureFunction) -> Callable[[Representation, Representation], float]:
    def pair(a: Representation, b: Representation) -> float:
        assert a.features is not None and b.features is not None
        return float(function(a.features, b.features))

    return pair
