"""Multinomial logistic regression by scipy's L-BFGS, in coordinates that make it quick.

    mean over rows of cross_entropy(W x + b, label)  +  regulariser * (sum of all W_ij ** 2)

An encoder's features are correlated, so that this is thousands of times as curved along some
directions as along others: L-BFGS then takes many hundred steps. On the rows' principal axes the
curvature along axis i is about

    c_i = s_i / C + 2 * regulariser         s_i: the variance along it; C: the number of classes

exactly so at W = 0. Each axis is divided by the square root of its c_i. It is the same objective
with the same minimum, and tens of steps are enough.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

WIDEST = 2048  # features up to which the principal axes are worth their computation


@dataclass(frozen=True)
class PrincipalAxes:
    """Centred rows in the coordinates of their principal axes.

    Attributes:
        rows: float64 [N, D].
        variance: Along each axis [D].
        directions: The axes, [D, D], one a column; None where the features are axes themselves.
    """

    rows: Tensor
    variance: Tensor
    directions: Tensor | None

    @classmethod
    def of(cls, x: Tensor) -> "PrincipalAxes":
        """Rotate rows x, float64 [N, D], whose columns have mean 0."""
        if x.shape[1] > WIDEST:
            return cls(x, x.square().mean(0), None)
        variance, directions = torch.linalg.eigh(x.T @ x / len(x))
        return cls(x @ directions, variance.clamp(min=0), directions)

    def rotate_back(self, weight: Tensor) -> Tensor:
        """Map weights [C, D] for these coordinates to weights for x."""
        return weight if self.directions is None else weight @ self.directions.T


def fit_softmax(
    axes: PrincipalAxes,
    target: Tensor,
    regulariser: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """Minimise the objective.

    Args:
        axes: The rows.
        target: Their classes from 0 on, int64 [N].
        regulariser: Weight of the squared norm.
        tolerance: Norm below which the gradient by W and b ends.
        max_iterations: Steps after which it is given up.

    Returns:
        W [C, D] and b [C], float64.

    Raises:
        RuntimeError: It did not converge.
    """
    classes = int(target.max()) + 1
    of_b = axes.variance.new_tensor([1 / classes])
    curvature = torch.cat([axes.variance / classes + 2 * regulariser, of_b])
    shrink = curvature.rsqrt()  # [D + 1], the last one of b
    shape = (classes, len(shrink))

    def objective(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = torch.from_numpy(numbers).view(shape)
        loss, gradient = _loss_and_gradient(scaled * shrink, axes.rows, target, regulariser)
        return loss, (gradient * shrink).flatten().numpy()

    # it looks at the greatest entry of the scaled gradient: with each of P entries below that, the
    # norm of the gradient itself is below the tolerance
    greatest = tolerance * float(shrink.min()) / math.sqrt(shape[0] * shape[1])
    options = {"gtol": greatest, "ftol": 0.0, "maxcor": 20}
    options |= {"maxiter": max_iterations, "maxfun": 2 * max_iterations}
    start = np.zeros(shape[0] * shape[1])
    result = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    if not result.success:
        raise RuntimeError(str(result.message))
    solution = torch.from_numpy(result.x).view(shape) * shrink
    return axes.rotate_back(solution[:, :-1]), solution[:, -1]


def _loss_and_gradient(
    parameters: Tensor, rows: Tensor, target: Tensor, regulariser: float
) -> tuple[float, Tensor]:
    """The objective at W and b, together [C, D + 1], and its gradient."""
    weight = parameters[:, :-1]
    log_p = torch.addmm(parameters[:, -1], rows, weight.T).log_softmax(1)  # [N, C]
    index = torch.arange(len(rows))
    loss = -log_p[index, target].mean() + regulariser * weight.square().sum()
    excess = log_p.exp()
    excess[index, target] -= 1
    excess /= len(rows)
    gradient = torch.cat([excess.T @ rows + 2 * regulariser * weight, excess.sum(0)[:, None]], 1)
    return float(loss), gradient
