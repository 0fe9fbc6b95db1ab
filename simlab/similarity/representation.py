"""A representation of n samples: their centred features, or only the Gram of these."""

from typing import Any, Self

import torch
from torch import Tensor

from ..layers import one_of
from .gram import centre, centred_gram

METRICS = ("euclidean", "cosine", "correlation")
Basis = tuple[Tensor, Tensor]


def as_matrix(x: Any) -> Tensor:
    """Read a tensor or array [n, p] as float64.

    Raises:
        ValueError: it is no matrix of at least two samples, or not finite.
    """
    matrix: Tensor = torch.as_tensor(x).detach()
    if matrix.device.type == "mps":  # which has no float64
        matrix = matrix.cpu()
    if matrix.dim() != 2 or len(matrix) < 2:
        raise ValueError(
            f"expected a matrix [samples >= 2, features], got shape {tuple(matrix.shape)}"
            "; flatten(1) or pool larger outputs first"
        )
    invalid = int((~matrix.isfinite()).sum())
    if invalid:
        raise ValueError(f"{invalid} of {matrix.numel()} features are NaN or infinite")
    return matrix.double()


class Representation:
    """n samples as centred features, or as the centred Gram, which is all that most measures need.

    Attributes:
        features: [n, p], centred; None where only the Gram is known.
        mean: what was subtracted to centre them [p]; None where only the Gram is known.
        gram: [n, n], centred.
        basis: U [n, r] and s [r] of the centred features' decomposition U diag(s) V', largest
            first, without directions that are rounding noise.
        energy: the summed squared norm of the centred samples; 0 for constant features.
        lengths: norms of the samples before they were centred [n].
    """

    def __init__(self, features: Any) -> None:
        """Centre features [n, p]; ValueError unless they are finite with n >= 2."""
        x = as_matrix(features)
        shifted = x - x[:1]  # constant columns become an exact 0
        self.features: Tensor | None = shifted - shifted.mean(0)
        self.mean: Tensor | None = x[0] + shifted.mean(0)
        self.lengths = x.norm(dim=1)
        self._gram: Tensor | None = None
        self._basis: Basis | None = None

    @classmethod
    def from_gram(cls, matrix: Tensor) -> Self:
        """Make one from a Gram matrix [n, n] of any inner product; it is centred here."""
        matrix = torch.as_tensor(matrix)
        lengths = matrix.diagonal().clamp(min=0).sqrt()
        return cls._of(None, centre(matrix, debiased=False), lengths)

    @classmethod
    def compact(cls, x: Tensor, keep_features: bool, decompose: bool) -> Self:
        """Compute the Gram (and features, basis) of [n, d] in float64 and hold it in float32."""
        compact = cls.from_gram(centred_gram(x, torch.float64))
        compact.lengths = torch.linalg.vector_norm(x.flatten(1), dim=1)
        if decompose:
            u, s = compact.basis
            compact._basis = u.float(), s.float()
        compact._gram = compact.gram.float()
        if keep_features:
            centred = cls(x)
            assert centred.features is not None
            compact.features = centred.features.float()
            compact.mean = centred.mean
        return compact

    @classmethod
    def _of(
        cls, features: Tensor | None, matrix: Tensor, lengths: Tensor, basis: Basis | None = None
    ) -> Self:
        representation = cls.__new__(cls)
        representation.features = features
        representation.mean = None
        representation.lengths = lengths
        representation._gram = matrix
        representation._basis = basis
        return representation

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
            if self.features is not None and self.features.shape[1] < len(self):
                u, s, _ = torch.linalg.svd(self.features, full_matrices=False)
            else:
                values, vectors = torch.linalg.eigh(self.gram)  # smallest first
                s = values.clamp(min=0).sqrt().flip(0)
                u = vectors.flip(1)
            signal = s > 1e-6 * s.max()
            self._basis = u[:, signal], s[signal]
        return self._basis

    @property
    def energy(self) -> float:
        """The summed squared norm of the centred samples."""
        if self.features is None:
            return self.gram.trace().item()
        return self.features.square().sum().item()

    def __len__(self) -> int:
        return len(self.gram if self.features is None else self.features)

    def permuted(self, order: Tensor) -> Self:
        """Put the samples into another order; nothing is decomposed again."""
        features = None if self.features is None else self.features[order]
        basis = None if self._basis is None else (self._basis[0][order], self._basis[1])
        gram = self.gram[order][:, order]
        permuted = self._of(features, gram, self.lengths[order], basis)
        permuted.mean = self.mean
        return permuted


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
        return Representation(normalised_rows(as_matrix(x), metric))
    if metric != "euclidean":
        raise ValueError(f"metric={metric!r} needs the raw features: a centred Gram lacks them")
    return x
