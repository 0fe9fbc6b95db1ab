"""A representation of n samples: their features, or only the Gram of these."""

from typing import Any, Self

import torch
from torch import Tensor

from ..layers import one_of
from .distances import METRICS, distances_of_gram, pair_distances
from .gram import centre, centred_gram

Basis = tuple[Tensor, Tensor]
CENTRING_CHUNK = 2**20  # numbers that are made float64 at once


def as_matrix(x: Any) -> Tensor:
    """Read a tensor or array [n, p] of floats; whole numbers become float64.

    Raises:
        TypeError: it requires grad, while gradients are recorded.
        ValueError: it is no matrix of at least two samples, or not finite.
    """
    matrix = _without_grad(torch.as_tensor(x))
    if matrix.device.type == "mps":  # which has no float64
        matrix = matrix.cpu()
    if matrix.dim() != 2 or len(matrix) < 2:
        raise ValueError(
            f"expected a matrix [samples >= 2, features], got shape {tuple(matrix.shape)}"
            "; flatten(1) or pool larger outputs first"
        )
    if not all_finite(matrix):
        invalid = int((~matrix.isfinite()).sum())
        raise ValueError(f"{invalid} of {matrix.numel()} features are NaN or infinite")
    return matrix if matrix.is_floating_point() else matrix.double()


def all_finite(x: Tensor) -> bool:
    """Whether no number is NaN or infinite; needs no memory."""
    if not x.numel() or not x.is_floating_point():
        return True
    low, high = torch.aminmax(x)  # NaN if one is
    return bool(low.isfinite() & high.isfinite())


def _without_grad(x: Tensor) -> Tensor:
    """Detach a tensor, unless its user may expect a gradient."""
    if x.requires_grad and torch.is_grad_enabled():
        raise TypeError(
            "the features require grad, and this measure returns a number without a gradient: "
            "pass x.detach(), or as a loss use cka_loss(x, y), which has one"
        )
    return x.detach()


class Representation:
    """n samples as features, or as a centred Gram, which is all that most measures need.

    What a measure asks for is computed when it is first asked for, in float64.

    Attributes:
        metric: of the samples' geometry, see `normalised_rows`.
        features: [n, p], centred; None where only the Gram is known.
        mean: what was subtracted to centre them [p]; None where only the Gram is known.
        lengths: norms of the samples before they were centred [n].
        width: p; None where only the Gram is known.
        gram: [n, n], centred.
        basis: U [n, r] and s [r] of the centred features' decomposition U diag(s) V', largest
            first, without directions that are rounding noise.
        distances: [n(n-1)/2], between samples, see `pair_distances`.
        energy: the summed squared norm of the centred samples; 0 for constant features.
        unit: what the features were divided by for Gram, basis and energy; 1 if not `held`.
    """

    def __init__(self, features: Any, metric: str = "euclidean") -> None:
        """Take features [n, p]; ValueError unless they are finite with n >= 2."""
        self.metric = one_of(metric, METRICS, "metric")
        self.unit = 1.0
        self._raw: Tensor | None = as_matrix(features)
        self._features: Tensor | None = None  # centred
        self._mean: Tensor | None = None
        self._lengths: Tensor | None = None
        self._gram: Tensor | None = None
        self._basis: Basis | None = None
        self._distances: Tensor | None = None

    @classmethod
    def from_gram(cls, matrix: Tensor) -> Self:
        """Make one from a Gram matrix [n, n] of any inner product; it is centred here."""
        matrix = _without_grad(torch.as_tensor(matrix))
        representation = cls._empty()
        representation._gram = centre(matrix, debiased=False)
        representation._lengths = matrix.diagonal().clamp(min=0).sqrt()
        return representation

    def held(self, keep_features: bool, decompose: bool) -> Self:
        """Make a copy for comparisons with many others; this one is used up.

        The Gram of euclidean features is held in float32, in units that suit it.

        Args:
            keep_features: whether to hold them, centred, where they are now: in their own type, and
                those in half precision in float32.
            decompose: whether to hold the basis.
        """
        assert self._raw is not None
        held = self._empty()
        x = normalised_rows(self._raw, self.metric)
        matrix, unit = centred_gram(x, torch.float64)
        held._lengths = self.lengths
        if self.metric == "euclidean":
            exact = self.from_gram(matrix)
            held._gram = exact.gram.float()
            held.unit = unit
        else:
            exact = self.from_gram(matrix * unit**2)
            held._gram = exact.gram
        if decompose:
            u, s = exact.basis
            held._basis = u.float(), s.float()
        if keep_features:
            held._features = x.to(torch.promote_types(x.dtype, torch.float32))
            held._mean = _centre_in_place(held._features)
        self._raw = None
        return held

    @classmethod
    def _empty(cls) -> Self:
        representation = cls.__new__(cls)
        representation.metric = "euclidean"
        representation.unit = 1.0
        representation._raw = None
        representation._features = None
        representation._mean = None
        representation._lengths = None
        representation._gram = None
        representation._basis = None
        representation._distances = None
        return representation

    @property
    def width(self) -> int | None:
        """The number of features."""
        features = self._raw if self._features is None else self._features
        return None if features is None else features.shape[1]

    @property
    def features(self) -> Tensor | None:
        """[n, p] centred features."""
        if self._features is None and self._raw is not None:
            x = normalised_rows(self._raw.double(), self.metric)
            shifted = x - x[:1]  # constant columns become an exact 0
            mean = shifted.mean(0)
            self._features = shifted - mean
            self._mean = x[0] + mean
        return self._features

    @property
    def mean(self) -> Tensor | None:
        """[p] of the features before they were centred."""
        return None if self.features is None else self._mean

    @property
    def lengths(self) -> Tensor:
        """[n] norms of the samples before they were centred."""
        if self._lengths is None:
            assert self._raw is not None
            x = normalised_rows(self._raw, self.metric)
            self._lengths = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
        return self._lengths

    @property
    def gram(self) -> Tensor:
        """[n, n] centred Gram."""
        if self._gram is None:
            assert self.features is not None
            self._gram = self.features @ self.features.T
        return self._gram

    @property
    def basis(self) -> Basis:
        """U [n, r], s [r]; by SVD of the features where that is less work, else from the Gram."""
        if self._basis is None:
            if self.width is not None and self.width < len(self):
                u, s, _ = torch.linalg.svd(self.features, full_matrices=False)
            else:
                values, vectors = torch.linalg.eigh(self.gram)  # smallest first
                s = values.clamp(min=0).sqrt().flip(0)
                u = vectors.flip(1)
            signal = s > 1e-6 * s.max()
            self._basis = u[:, signal], s[signal]
        return self._basis

    @property
    def distances(self) -> Tensor:
        """[n(n-1)/2] distances between samples, squared for the euclidean metric."""
        if self._distances is None:
            if self._raw is None:
                self._distances = distances_of_gram(self.gram)
            else:
                self._distances = pair_distances(self._raw, self.metric)
        return self._distances

    @property
    def energy(self) -> float:
        """The summed squared norm of the centred samples."""
        if self._gram is not None or self.features is None:
            return self.gram.trace().item()
        return self.features.square().sum().item()

    def __len__(self) -> int:
        rows = self._gram if self._raw is None else self._raw
        assert rows is not None
        return len(rows)

    def permuted(self, order: Tensor) -> Self:
        """Put the samples into another order; nothing is decomposed again."""
        permuted = self._empty()
        permuted.unit = self.unit
        permuted._gram = self.gram[order][:, order]
        permuted._lengths = self.lengths[order]
        permuted._mean = self.mean
        if self.features is not None:
            permuted._features = self.features[order]
        if self._basis is not None:
            permuted._basis = self._basis[0][order], self._basis[1]
        return permuted


def _centre_in_place(x: Tensor) -> Tensor:
    """Centre features [n, p], a few columns at a time; return their means [p] in float64."""
    means = []
    for columns in x.split(max(1, CENTRING_CHUNK // len(x)), dim=1):  # views
        first = columns[0].double()
        shifted = columns.double() - first
        mean = shifted.mean(0)
        columns.copy_(shifted - mean)
        means.append(first + mean)
    return torch.cat(means)


def normalised_rows(features: Tensor, metric: str) -> Tensor:
    """Transform features so that their Euclidean geometry is that of a metric on the raw ones.

    Args:
        features: [n, p].
        metric: "euclidean": unchanged; "cosine": rows of length 1; "correlation": rows less their
            mean, then of length 1.

    Returns:
        [n, p].

    Raises:
        ValueError: an unknown metric.
    """
    if one_of(metric, METRICS, "metric") == "euclidean":
        return features
    if not features.is_floating_point() or features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    # In units of its size, since squares of 1e-30 are no float32.
    largest = torch.linalg.vector_norm(features, torch.inf, dim=1, keepdim=True)  # [n, 1]
    features = features / largest.clamp(min=torch.finfo(features.dtype).tiny)
    if metric == "correlation":
        length = features.norm(dim=1, keepdim=True)
        features = features - features.mean(1, keepdim=True)
        # A row that is constant but for rounding has no direction to amplify.
        noise = 8 * torch.finfo(features.dtype).eps * length
        features = features * (features.norm(dim=1, keepdim=True) > noise)
    return torch.nn.functional.normalize(features, eps=1e-30)


def paired(x: Any, y: Any, metric: str = "euclidean") -> tuple[Representation, Representation]:
    """Read two matrices (or Representations) of the same samples, in the geometry of a metric.

    Args:
        x: [n, p], or a Representation.
        y: [n, q], or a Representation.
        metric: see `normalised_rows`.

    Returns:
        Both as Representations.

    Raises:
        ValueError: they have different numbers of samples, or a Representation is given where the
            metric needs raw features.
    """
    a = _as_representation(x, metric)
    b = _as_representation(y, metric)
    if len(a) != len(b):
        raise ValueError(f"the samples must correspond: {len(a)} and {len(b)} rows")
    return a, b


def _as_representation(x: Any, metric: str) -> Representation:
    if not isinstance(x, Representation):
        return Representation(x, metric)
    if metric != "euclidean":
        raise ValueError(f"metric={metric!r} needs the raw features: a centred Gram lacks them")
    return x
