"""The measures that `compare` knows by name, and how it computes each."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
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
    predictivity_pearson,
    predictivity_r2,
    procrustes_distance,
    pwcca_similarity,
    regression_similarity,
    rsa_kendall,
    shared_neighbours,
    svcca_similarity,
)
from .representation import Representation

MeasureFunction = Callable[..., float]
Kind = Literal["similarity", "distance", "measure"]
KINDS = ("similarity", "distance", "measure")
MAX_WORDS = 60  # letters of the arguments in a name
KERNEL_OPTIONS = {"linear": [], "rbf": ["scale"], "residual": ["clamp"]}


@dataclass(frozen=True)
class Measure:
    """A measure and what is known of it.

    A user's own is `Measure(function, name="mine", kind="distance", limits=(0, 2))`. Those of the
    package have a kernel, a sample_matrix or a pair in the function's place: exactly one of the
    four is given.

    Attributes:
        function: f(X, Y, **options) -> float of two centred feature matrices [n, p] and [n, q].
        name: by which the result calls it; empty: the function's.
        kind: "similarity" (larger is more alike), "distance" (smaller is) or, where nobody has
            said which, "measure".
        limits: ends of its colour scale, beyond which values may lie; None: those of the values.
        symmetric: whether f(X, Y) = f(Y, X), so that one of the two is computed.
        kernel: the measure is the cosine of two layers' centred Grams with this kernel (see
            `gram.centred_kernel`). Their inner products can be summed over batches, so one pass
            over any number of samples suffices; all others need the samples as one set.
        sample_matrix: f(Representation, **options) -> [n, n]; the measure is the cosine of two
            layers' matrices, or their inner product where `cosine` is False.
        pair: f(Representation, Representation, **options) -> float.
        metric: the geometry of the samples, see `normalised_rows`.
        features: whether it needs the features themselves and not only their Gram.
        logits: whether it is of classifiers' outputs, and not of any features.
        cosine: whether matrices of samples are divided by their norms.
        jackknifed: whether intervals come from leaving samples out; else from halves of them alone,
            see `intervals`.
        correlation: whether intervals are made on Fisher's scale, see `intervals`.
    """

    function: MeasureFunction | None = None
    _: KW_ONLY
    name: str = ""
    kind: Kind = "measure"
    limits: tuple[float, float] | None = None
    symmetric: bool = False
    kernel: Literal["linear", "rbf", "residual"] | None = None
    sample_matrix: Callable[..., Tensor] | None = None
    pair: Callable[..., float] | None = None
    metric: str = "euclidean"
    features: bool = False
    logits: bool = False
    cosine: bool = True
    jackknifed: bool = True
    correlation: bool = False

    def __post_init__(self) -> None:
        one_of(self.kind, KINDS, "kind")
        ways = (self.function, self.kernel, self.sample_matrix, self.pair)
        given = [way for way in ways if way is not None]
        if len(given) != 1 or not (callable(given[0]) or given[0] in KERNEL_OPTIONS):
            raise TypeError(
                "Measure: expected one function f(X, Y) of two feature matrices, "
                f"got {', '.join(map(repr, given)) or 'none'}"
            )
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise ValueError(f"limits={self.limits}: expected (lowest, highest)")
        if self.function is not None:
            name = self.name or _name_of(self.function)
            object.__setattr__(self, "pair", _of_features(self.function, name))
            object.__setattr__(self, "features", True)

    @property
    def options(self) -> list[str]:
        """Names of the keywords it takes."""
        if self.kernel is not None:
            return KERNEL_OPTIONS[self.kernel]
        if self.function is not None:
            return _keywords(self.function)[2:]
        if self.pair is not None:
            return _keywords(self.pair)[2:]
        assert self.sample_matrix is not None
        return _keywords(self.sample_matrix)[1:]


Measures = str | MeasureFunction | Measure | Iterable[str | MeasureFunction | Measure]

# In the formulas X and Y are the centred features, K = XX' and L = YY' their Grams, <.,.> is the
# sum of all products and |.|_* the nuclear norm. The functions in measures say more of each.
MEASURES: dict[str, Measure] = {
    # <K, L> / sqrt(<K, K> <L, L>) with U-centred K and L (Kornblith 2019, eq. 4; debiased: Nguyen
    # 2021, eq. 2 and 3)
    "cka": Measure(kind="similarity", limits=(0, 1), kernel="linear"),
    # the same with K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)), sigma the median distance (Kornblith
    # 2019, section 3)
    "rbf_cka": Measure(kind="similarity", limits=(0, 1), kernel="rbf"),
    # the same with the confounder's Gram regressed out of K and L (Cui 2022)
    "deconfounded_cka": Measure(kind="similarity", limits=(0, 1), kernel="residual"),
    # 2 - 2c, arccos c and 1 - c, with c = |X'Y|_* for X and Y of Frobenius norm 1 (Ding 2021)
    "procrustes_distance": Measure(
        kind="distance", limits=(0, 2), symmetric=True, pair=procrustes_distance
    ),
    "procrustes_angle": Measure(
        kind="distance",
        limits=(0, np.pi / 2),
        symmetric=True,
        pair=partial(procrustes_distance, form="angle"),
    ),
    "procrustes_complement": Measure(
        kind="distance",
        limits=(0, 1),
        symmetric=True,
        pair=partial(procrustes_distance, form="complement"),
    ),
    # mean canonical correlation, |U'V|_* / min(rank) with bases U of X and V of Y (Hotelling 1936)
    "cca": Measure(kind="similarity", limits=(0, 1), symmetric=True, pair=cca_similarity),
    # CCA of the principal directions that hold 99 % of the variance (Raghu 2017)
    "svcca": Measure(kind="similarity", limits=(0, 1), symmetric=True, pair=svcca_similarity),
    # canonical correlations weighted by what they account for in X (Morcos 2018)
    "pwcca": Measure(kind="similarity", limits=(0, 1), pair=pwcca_similarity, features=True),
    # R^2 of predicting X from Y, |V'X|^2 / |X|^2 (Kornblith 2019, table 1). In-sample: exactly 1
    # where Y has as many features as there are samples
    "regression": Measure(kind="similarity", limits=(0, 1), pair=regression_similarity),
    # the same on samples held out from a ridge regression, and its correlation (Schrimpf 2018)
    "predictivity": Measure(
        kind="similarity", limits=(0, 1), pair=predictivity_r2, jackknifed=False
    ),
    "predictivity_pearson": Measure(
        kind="similarity",
        limits=(0, 1),
        pair=predictivity_pearson,
        features=True,
        jackknifed=False,
        correlation=True,
    ),
    # Spearman's correlation of the distances between samples (Kriegeskorte 2008)
    "rsa": Measure(kind="similarity", limits=(0, 1), sample_matrix=comparison_matrix),
    "rsa_correlation": Measure(
        kind="similarity", limits=(0, 1), sample_matrix=comparison_matrix, metric="correlation"
    ),
    # Pearson's correlation and Kendall's tau-a of the Euclidean distances (Nili 2014)
    "rsa_pearson": Measure(
        kind="similarity",
        limits=(0, 1),
        sample_matrix=partial(comparison_matrix, comparison="pearson"),
    ),
    "rsa_kendall": Measure(kind="similarity", limits=(0, 1), symmetric=True, pair=rsa_kendall),
    # share of the k nearest neighbours in common (Huh 2024)
    "mutual_knn": Measure(
        kind="similarity",
        limits=(0, 1),
        sample_matrix=shared_neighbours,
        cosine=False,
        jackknifed=False,
    ),
    "mutual_knn_cosine": Measure(
        kind="similarity",
        limits=(0, 1),
        sample_matrix=shared_neighbours,
        metric="cosine",
        cosine=False,
        jackknifed=False,
    ),
    # CKA of the cosines of common nearest neighbours (Huh 2024)
    "cknna": Measure(
        kind="similarity", limits=(0, 1), pair=cknna, metric="cosine", jackknifed=False
    ),
    # share of samples with different predicted classes
    "disagreement": Measure(
        kind="distance",
        limits=(0, 1),
        symmetric=True,
        pair=disagreement,
        features=True,
        logits=True,
    ),
    # Jensen-Shannon divergence of the predicted probabilities, in bits (Lin 1991)
    "jensen_shannon": Measure(
        kind="distance",
        limits=(0, 1),
        symmetric=True,
        pair=jensen_shannon_divergence,
        features=True,
        logits=True,
    ),
}


def resolve_measures(
    measures: Measures, options: Mapping[str, Mapping[str, Any]]
) -> dict[str, Measure]:
    """Look up names, and name the functions of two centred feature matrices.

    Args:
        measures: one name, function f(X, Y) or Measure, or several.
        options: {name: keywords} of some of them.

    Returns:
        {name: Measure}, in their order. Different functions of one name are numbered.

    Raises:
        ValueError: an unknown name or option; a user's measure with the name of another one.
        TypeError: something is neither a name nor a function nor a Measure.
    """
    if isinstance(measures, (str, Measure)) or callable(measures):
        measures = [measures]
    chosen: dict[str, Measure] = {}
    for measure in measures:
        if isinstance(measure, str):
            chosen[measure] = MEASURES[one_of(measure, MEASURES, "measures")]
        elif isinstance(measure, Measure) or callable(measure):
            if not isinstance(measure, Measure):
                measure = Measure(measure)
            chosen[_new_name(measure, chosen)] = measure
        else:
            raise TypeError(
                "measures: expected names, functions f(X, Y) or Measures(function, ...), "
                f"got {measure!r}"
            )
    if not chosen:
        raise ValueError(f"measures is empty: expected some of {', '.join(MEASURES)}")
    for name, keywords in options.items():
        allowed = chosen[one_of(name, chosen, "options")].options
        for keyword in keywords:
            one_of(keyword, allowed, f"option of {name}")
    return chosen


def _new_name(measure: Measure, chosen: Mapping[str, Measure]) -> str:
    """The name of a user's measure: its own or its function's, with a number where it is taken."""
    name = measure.name or _name_of(measure.function)
    if name in MEASURES:
        raise ValueError(
            f"measures: {name!r} is the name of one of the package's measures; give yours "
            f'another: Measure(function, name="my_{name}")'
        )
    if name not in chosen:
        return name
    if measure.name:
        raise ValueError(f"measures: two have the name {name!r}")
    if chosen[name].function == measure.function:
        return name  # given twice, computed once
    number = 2
    while f"{name} {number}" in chosen:
        number += 1
    return f"{name} {number}"


def _name_of(function: Any) -> str:
    """A function's name, with the keywords that a partial has fixed."""
    if isinstance(function, partial):
        fixed = [f"{name}={value}" for name, value in function.keywords.items()]
        words = ", ".join([*map(str, function.args), *fixed])
        name = _name_of(function.func)
        return f"{name}({words})" if len(words) <= MAX_WORDS else name
    name = getattr(function, "__name__", type(function).__name__)
    return "lambda" if name == "<lambda>" else name


def _keywords(function: Callable[..., Any]) -> list[str]:
    """Names of a function's parameters; of a built-in one they may be unknown."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind not in several]


def _of_features(function: MeasureFunction, name: str) -> Callable[..., float]:
    """Let a function of two feature matrices take Representations; errors say which it is."""

    def pair(a: Representation, b: Representation, **options: Any) -> float:
        assert a.features is not None and b.features is not None
        versions = _versions(a.features, b.features)
        value = function(a.features, b.features, **options)
        if _versions(a.features, b.features) != versions:
            raise ValueError(f"measure {name!r} edits its arguments, which others use: copy them")
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"measure {name!r}: expected one number, got {type(value).__name__} "
                f"{list(getattr(value, 'shape', []))}"
            ) from None

    return pair


def _versions(*tensors: Tensor) -> list[int]:
    """How often tensors were edited in place; inference mode does not count it."""
    return [0 if x.is_inference() else x._version for x in tensors]
