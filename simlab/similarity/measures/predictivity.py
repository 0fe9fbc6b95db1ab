"""Linear predictivity: how well one representation predicts another on held-out samples.

The in-sample R^2 of `regression_similarity` is 1 as soon as there are as many features as samples.
Here a ridge regression is fitted to some samples and scored on the others.
"""

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...layers import one_of
from ..representation import Representation, paired

Score = Literal["r2", "pearson"]
# In units of the mean squared length of the centred training samples: so a scale does not matter.
PENALTIES = tuple(10.0**exponent for exponent in range(-5, 6))
DUPLICATE = 1e-10  # a leverage this close to 1 leaves nothing of a sample to be predicted


def predictivity(x: Any, y: Any, *, score: Score = "r2", folds: int = 5, seed: int = 0) -> float:
    """Cross-validated ridge regression of x on y, as used to compare networks with brains.

    The samples are cut into folds at random. Each fold is predicted by a regression that was
    fitted to the others; its penalty is the one of `PENALTIES` with the smallest leave-one-out
    error among these others (so scikit-learn's RidgeCV chooses as well). Not symmetric.

    Args:
        x: what is predicted [n, p].
        y: what it is predicted from [n, q].
        score: "r2": 1 - |X - prediction|^2 / |X - training mean|^2 over all held-out entries,
            so that features weigh as they vary; "pearson": the correlation of each feature with its
            prediction within each held-out fold, the mean over features and folds (Schrimpf 2018;
            a feature that is constant in a fold is left out, a constant prediction counts 0).
        folds: their number, from 2 to n / 3.
        seed: of the folds.

    Returns:
        At most 1. No better than the mean: R^2 of 0 or a little below, and r of about 0.

    Raises:
        ValueError: an unknown score, a number of folds that does not fit, or "pearson" of a
            representation whose features are not known.
    """
    one_of(score, get_args(Score), "score")
    a, b = paired(x, y)
    if score == "pearson":
        return predictivity_pearson(a, b, folds, seed)
    return predictivity_r2(a, b, folds, seed)


def predictivity_r2(a: Representation, b: Representation, folds: int = 5, seed: int = 0) -> float:
    """R^2 of predicting a from b on held-out samples, see `predictivity`."""
    if not a.energy > 0 or not b.energy > 0:
        return np.nan
    x = _coordinates(a)
    y = _coordinates(b)
    residual = 0.0
    total = 0.0
    for fitted, held_out in _splits(len(x), folds, seed):
        mean, prediction = _predict(x[fitted], y[fitted], y[held_out])
        residual += float((x[held_out] - prediction).square().sum())
        total += float((x[held_out] - mean).square().sum())
    return 1 - residual / total


def predictivity_pearson(
    a: Representation, b: Representation, folds: int = 5, seed: int = 0
) -> float:
    """Mean correlation of a's features with their predictions from b, see `predictivity`."""
    if a.features is None:
        raise ValueError('score="pearson" is of single features: a Gram does not determine them')
    if not a.energy > 0 or not b.energy > 0:
        return np.nan
    x = a.features.double()
    y = _coordinates(b)
    correlations = []
    for fitted, held_out in _splits(len(x), folds, seed):
        _, prediction = _predict(x[fitted], y[fitted], y[held_out])
        correlations.append(_correlations(x[held_out], prediction))
    return float(torch.cat(correlations).mean())


def _coordinates(representation: Representation) -> Tensor:
    """Features [n, r] up to a rotation, which neither ridge regression nor R^2 notices."""
    u, s = representation.basis
    return (u * s).double()


def _splits(n: int, folds: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Indices to fit to and indices held out, for each fold; their sizes differ by one at most."""
    if not 2 <= folds <= n // 3:
        raise ValueError(f"folds={folds}: expected 2 <= folds <= {n // 3} for {n} samples")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    splits = []
    for held_out in order.tensor_split(folds):
        rest = order[~torch.isin(order, held_out)]
        splits.append((rest, held_out))
    return splits


def _predict(x: Tensor, y: Tensor, y_new: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression of x [m, p] on y [m, q] with an intercept, applied to y_new [l, q].

    Returns:
        The mean of x [p], and the predictions [l, p].
    """
    x_mean = x.mean(0)
    y_mean = y.mean(0)
    centred = x - x_mean
    u, s, v = torch.linalg.svd(y - y_mean, full_matrices=False)
    projected = u.T @ centred  # [r, p]
    energy = float(s.square().sum()) / len(y)  # mean squared length of a sample
    if not energy > 0:
        return x_mean, x_mean.expand(len(y_new), -1)
    lowest = float("inf")
    penalty = np.nan
    for candidate in PENALTIES:
        error = _leave_one_out_error(centred, u, s, projected, candidate * energy)
        if error < lowest:
            lowest = error
            penalty = candidate * energy
    weights = v.T @ (projected * (s / (s.square() + penalty))[:, None])  # [q, p]
    return x_mean, x_mean + (y_new - y_mean) @ weights


def _leave_one_out_error(
    x: Tensor, u: Tensor, s: Tensor, projected: Tensor, penalty: float
) -> float:
    """Squared error of each sample predicted from all others, summed; no refit is needed.

    The residual of a sample that was left out is its residual in the fit to all, divided by
    1 - H_ii, where H = 11'/m + U diag(s^2 / (s^2 + penalty)) U' maps x to its fit (Allen 1974).
    """
    shrinkage = s.square() / (s.square() + penalty)  # [r]
    leverage = 1 / len(x) + (u.square() @ shrinkage)  # [m]
    residual = x - u @ (shrinkage[:, None] * projected)
    rest = (1 - leverage).clamp(min=DUPLICATE)
    return float((residual / rest[:, None]).square().sum())


def _correlations(x: Tensor, prediction: Tensor) -> Tensor:
    """Pearson's r of those columns of x [l, p] that vary; 0 where the prediction is constant."""
    x = x - x.mean(0)
    prediction = prediction - prediction.mean(0)
    length = x.norm(dim=0)
    varies = length > 1e-6 * length.max()
    inner = (x * prediction).sum(0)
    r: Tensor = inner / (length * prediction.norm(dim=0)).clamp(min=1e-300)
    return r[varies]
