"""How alike two representations of the same samples are: plain functions of two matrices.

[n, p] and [n, q], samples x features, tensors or arrays; a float comes back, computed in float64.
`..._similarity` is larger, `..._distance` smaller for more alike. Columns are centred first: no
measure sees a shift. Where a Gram K determines it, `Representation.from_gram(K)` stands for a
matrix. Constant features give NaN; ValueError unless both are finite with the same samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers import one_of
from . import gram as g


def matrix(x: Any) -> Tensor:
    """[n, p] of a tensor or array as float64; ValueError unless it is finite with n >= 2."""
    x = torch.as_tensor(x).detach()
    x = x.cpu() if x.device.type == "mps" else x
    if x.dim() != 2 or len(x) < 2:
        raise ValueError(
            f"expected a matrix [samples >= 2, features], got shape {tuple(x.shape)}"
            "; flatten(1) or pool larger outputs first"
        )
    if bad := int((~x.isfinite()).sum()):
        raise ValueError(f"{bad} of {x.numel()} features are NaN or infinite")
    return x.double()


class Representation:
    """n samples as centred features, or as the centred Gram that most measures need only."""

    def __init__(self, features: Any, gram: Tensor | None = None) -> None:
        if gram is not None:
            self.gram = gram
        self.features: Tensor | None = None
        if features is not None:
            x = matrix(features)
            shifted = x - x[:1]  # constant columns become an exact 0
            self.features = shifted - shifted.mean(0)

    @classmethod
    def from_gram(cls, gram: Tensor) -> "Representation":
        """From a Gram matrix [n, n] of any inner product; it is centred here."""
        return cls(None, g.center(torch.as_tensor(gram), debiased=False))

    @classmethod
    def compact(cls, x: Tensor, keep: bool, decompose: bool) -> "Representation":
        """[n, d] -> its Gram (features, basis), computed in float64 and held in float32."""
        self = cls.from_gram(g.centred_gram(x, torch.float64))
        if decompose:
            self.basis = self.basis[0].float(), self.basis[1].float()
        self.gram, self.features = self.gram.float(), cls(x).features.float() if keep else None
        return self

    @cached_property
    def gram(self) -> Tensor:
        """[n, n] centred Gram."""
        return self.features @ self.features.T

    @property
    def energy(self) -> float:
        """Summed squared norm of the centred samples; 0 for constant features."""
        return (self.gram.trace() if self.features is None else self.features.square().sum()).item()

    def __len__(self) -> int:
        return len(self.gram if self.features is None else self.features)

    @cached_property
    def basis(self) -> tuple[Tensor, Tensor]:
        """U [n, r], s [r] of the centred features U diag(s) V', largest first, without noise."""
        if self.features is not None and self.features.shape[1] < len(self):
            u, s, _ = torch.linalg.svd(self.features, full_matrices=False)
        else:
            values, u = torch.linalg.eigh(self.gram)
            s, u = values.clamp(min=0).sqrt().flip(0), u.flip(1)
        keep = s > 1e-6 * s.max()
        return u[:, keep], s[keep]

    def permuted(self, order: Tensor) -> "Representation":
        """The same with its samples in another order; nothing is decomposed again."""
        out = Representation(None, self.gram[order][:, order])
        out.features = None if self.features is None else self.features[order]
        if "basis" in self.__dict__:
            out.basis = (self.basis[0][order], self.basis[1])
        return out


def pair(x: Any, y: Any, metric: str = "euclidean") -> tuple[Representation, Representation]:
    """Both as Representation, in the geometry of `metric`.

    ValueError when their samples cannot correspond, or a Gram lacks what the metric needs.
    """
    if metric != "euclidean" and any(isinstance(v, Representation) for v in (x, y)):
        raise ValueError(f"metric={metric!r} needs the raw features: a centred Gram lacks them")
    a, b = (
        v if isinstance(v, Representation) else Representation(normalised_rows(matrix(v), metric))
        for v in (x, y)
    )
    if len(a) != len(b):
        raise ValueError(f"the samples must correspond: {len(a)} and {len(b)} rows")
    return a, b


def alignment(a: Tensor, b: Tensor) -> float:
    """Cosine of two [n, n]."""
    return ((a * b).sum() / a.norm() / b.norm()).item()  # NaN where one is 0


def hsic(x: Any, y: Any, *, debiased: bool = True) -> float:
    """HSIC with linear kernels: unbiased (Song 2012, eq. 5; n >= 4), or <K, L>/(n-1)^2.

    From the features where that is less work: n(n-3) HSIC1 = |Y'X|^2 - n/(n-2) sum r_i s_i
    + sum(r) sum(s)/((n-1)(n-2)), with r and s the squared norms of the centred samples.
    """
    a, b = pair(x, y)
    n = len(a)
    if debiased and n < 4:
        raise ValueError(f"the debiased estimator needs at least 4 samples, got {n}")
    if a.features is None or b.features is None or a.features.shape[1] * b.features.shape[1] > n**2:
        top = (g.center(a.gram, debiased) * g.center(b.gram, debiased)).sum()
    else:
        top = (b.features.T @ a.features).square().sum()
        if debiased:
            r, s = a.features.square().sum(1), b.features.square().sum(1)
            top = top - n / (n - 2) * (r @ s) + r.sum() * s.sum() / ((n - 1) * (n - 2))
    return top.item() / (n * (n - 3) if debiased else (n - 1) ** 2)


def cka_similarity(x: Any, y: Any, *, debiased: bool = True) -> float:
    """Linear CKA (Kornblith 2019), debiased: 0 on average for independent x and y, at most 1.

    Invariant to rotation, isotropic scale and shift, not to general linear maps. Biased, it is in
    [0, 1] and about 1/sqrt((1+n/p)(1+n/q)) for independent noise.
    """
    a, b = pair(x, y)
    own = [hsic(v, v, debiased=debiased) for v in (a, b)]
    if not all(h > 1e-14 * (v.energy / len(v)) ** 2 for h, v in zip(own, (a, b), strict=True)):
        return np.nan
    return hsic(a, b, debiased=debiased) / (own[0] * own[1]) ** 0.5


def rbf_cka_similarity(x: Any, y: Any, *, debiased: bool = True, scale: float = 1.0) -> float:
    """CKA with Gaussian kernels of width `scale` times the median distance between samples.

    Tends to linear CKA as `scale` grows. In [-1, 1] debiased, [0, 1] biased.
    """
    return alignment(
        *(
            g.kernel_rows("rbf", v.gram, debiased, sigma=scale * g.median_distance(v.gram))
            for v in pair(x, y)
        )
    )


def deconfounded_cka_similarity(
    x: Any, y: Any, z: Any, *, debiased: bool = True, clamp: bool = False
) -> float:
    """Linear CKA of what is left of both Grams after regressing them on z's (Cui 2022); [-1, 1].

    Without `clamp` (negative eigenvalues of the residuals set to 0) it is the partial correlation
    of the CKA values.
    """
    (a, b), (c, _) = pair(x, y), pair(z, x)
    if clamp:
        return alignment(
            *(
                g.kernel_rows("residual", v.gram, debiased, confounder=c.gram, clamp=True)
                for v in (a, b)
            )
        )
    rows = g.kernel_rows("linear", torch.stack([a.gram, b.gram, c.gram]), debiased)
    return float(g.partial(g.cosine(g.inner_products(rows)))[0, 1])


PROCRUSTES = {
    "squared": lambda c: 2 - 2 * c,
    "angle": lambda c: float(np.arccos(c)),
    "complement": lambda c: 1 - c,
}


def procrustes_distance(x: Any, y: Any, *, form: str = "squared") -> float:
    """Distance after the best rotation, both scaled to Frobenius norm 1 (Ding 2021).

    With c = |X'Y|_* (nuclear norm): "squared" 2 - 2c in [0, 2], "angle" arccos c in [0, pi/2] (a
    metric), "complement" 1 - c (simtorch's). Invariant to rotation, isotropic scale and shift.
    """
    distance = PROCRUSTES[one_of(form, PROCRUSTES, "form")]
    (u, s), (v, t) = (r.basis for r in pair(x, y))
    if not len(s) or not len(t):
        return np.nan
    # In n x n only: U diag(s) is X up to a rotation.
    cross = (u * (s / s.norm())).T @ (v * (t / t.norm()))
    return distance(min(torch.linalg.svdvals(cross).sum().item(), 1.0))


def cca_similarity(x: Any, y: Any, *, squared: bool = False, variance: float = 1) -> float:
    """Mean canonical correlation, or mean of the squares, over the smaller rank; in [0, 1].

    Invariant to every invertible linear map, and so 1 as soon as either has n - 1 directions;
    independent features give squares of max(p, q)/(n-1) on average. `variance`: see `svcca_...`.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance={variance}: expected a share in (0, 1]")
    tops = []
    for u, s in (r.basis for r in pair(x, y)):
        share = s.square().cumsum(0) / s.square().sum()
        tops.append(u[:, : int((share < variance - 1e-12).sum()) + 1] if variance < 1 else u)
    cross, fewer = tops[0].T @ tops[1], min(top.shape[1] for top in tops)
    total = cross.square().sum() if squared else torch.linalg.svdvals(cross).sum()
    return total.item() / fewer if fewer else np.nan


def svcca_similarity(x: Any, y: Any, *, variance: float = 0.99, squared: bool = False) -> float:
    """CCA of the fewest principal directions that hold `variance` of it (Raghu 2017); in [0, 1]."""
    return cca_similarity(x, y, squared=squared, variance=variance)


def pwcca_similarity(x: Any, y: Any) -> float:
    """Canonical correlations weighted by sum_j |<h_i, x_j>|, h_i the unit variates of x, x_j its
    features (Morcos 2018); in [0, 1]. Not symmetric; needs x's features, not only their Gram.

    Not unique where correlations repeat, as those of 1 do once p + q > n - 1: any basis of their
    directions is as good, and the weights depend on it.
    """
    a, b = pair(x, y)
    if a.features is None:
        raise ValueError("PWCCA depends on the features of x: a Gram does not determine it")
    u, v = a.basis[0], b.basis[0]
    if not u.shape[1] or not v.shape[1]:
        return np.nan
    w, rho, _ = torch.linalg.svd(u.T @ v, full_matrices=False)
    weight = ((u @ w).T @ a.features.to(u.dtype)).abs().sum(1)
    return ((weight * rho).sum() / weight.sum()).item()


def regression_similarity(x: Any, y: Any) -> float:
    """R^2 of predicting x linearly from y, |Q_y'X|^2 / |X|^2; in [0, 1]. Not symmetric."""
    (u, s), (v, _) = (r.basis for r in pair(x, y))
    r2 = (v.T @ (u * s)).square().sum() / s.square().sum()
    return r2.item() if len(v.T) else np.nan


def normalised_rows(features: Tensor, metric: str) -> Tensor:
    """[n, p] -> [n, p] whose Euclidean geometry is that of `metric` on the raw features.

    "cosine": unit rows; "correlation": rows less their mean, then unit; "euclidean": unchanged.
    """
    if one_of(metric, ("euclidean", "cosine", "correlation"), "metric") == "euclidean":
        return features
    if metric == "correlation":
        before = features.norm(dim=1, keepdim=True)
        features = features - features.mean(1, keepdim=True)
        # A row that is constant but for rounding has no direction to amplify.
        noise = 8 * torch.finfo(features.dtype).eps * before
        features = features * (features.norm(dim=1, keepdim=True) > noise)
    return torch.nn.functional.normalize(features, eps=1e-30)


def rank_matrix(rep: Representation) -> Tensor:
    """[n, n] ranks of the distances between samples (ties share one), their mean taken off."""
    from scipy.spatial.distance import squareform  # loading them takes a second
    from scipy.stats import rankdata

    gram = rep.gram
    ranks = rankdata(squareform(g.squared_distances(gram).cpu().numpy(), checks=False))
    return torch.from_numpy(squareform(ranks - ranks.mean())).to(gram)


def rsa_similarity(x: Any, y: Any, *, metric: str = "euclidean") -> float:
    """Spearman correlation of the two tables of distances between samples (RSA); in [-1, 1].

    The Euclidean one is invariant to rotation, isotropic scale and shift; "correlation" and
    "cosine" notice a shift, and need the raw features.
    """
    return alignment(*(rank_matrix(rep) for rep in pair(x, y, metric)))


def neighbour_matrix(rep: Representation, k: int = 10) -> Tensor:
    """[n, n] with 1 where the column is one of the row's k nearest other samples."""
    if not 1 <= k < len(rep):
        raise ValueError(f"k={k}: expected 1 <= k < {len(rep)} samples")
    distances = g.squared_distances(rep.gram).fill_diagonal_(float("inf"))
    nearest = distances.argsort(dim=1, stable=True)[:, :k]
    return torch.zeros_like(rep.gram).scatter_(1, nearest, 1) * (rep.gram.trace() > 0)


def mutual_knn_similarity(x: Any, y: Any, *, k: int = 10, metric: str = "euclidean") -> float:
    """Share of the k nearest neighbours that both have in common; in [0, 1].

    Independent representations give k/(n-1). `metric` "cosine" needs the raw features.
    """
    return alignment(*(neighbour_matrix(rep, k) for rep in pair(x, y, metric)))


@dataclass(frozen=True)
class Measure:
    """How `compare` computes a measure: from one pass, as cosines of rows, or pair by pair."""

    kind: str  # "similarity" or "distance"
    limits: tuple[float, float] = (0, 1)  # of the colour scale; debiased ones may be negative
    kernel: str | None = None  # one pass over batches suffices: which Gram to sum
    rows: Callable[..., Tensor] | None = None  # a Representation's [n, n]; the measure is a cosine
    pair: Callable[..., float] | None = None  # of two Representations
    metric: str = "euclidean"  # rows are normalised for it before the Gram
    features: bool = False  # the features themselves are kept
    symmetric: bool = True


similarity, distance = partial(Measure, "similarity"), partial(Measure, "distance")
MEASURES = {
    "cka": similarity(kernel="linear"),
    "rbf_cka": similarity(kernel="rbf"),
    "deconfounded_cka": similarity(kernel="residual"),
    "procrustes_distance": distance((0, 2), pair=procrustes_distance),
    "procrustes_angle": distance((0, np.pi / 2), pair=partial(procrustes_distance, form="angle")),
    "procrustes_complement": distance(pair=partial(procrustes_distance, form="complement")),
    "cca": similarity(pair=cca_similarity),
    "svcca": similarity(pair=svcca_similarity),
    "pwcca": similarity(pair=pwcca_similarity, features=True, symmetric=False),
    "regression": similarity(pair=regression_similarity, symmetric=False),
    "rsa": similarity(rows=rank_matrix),
    "rsa_correlation": similarity(rows=rank_matrix, metric="correlation"),
    "mutual_knn": similarity(rows=neighbour_matrix),
    "mutual_knn_cosine": similarity(rows=neighbour_matrix, metric="cosine"),
}
