"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon): orthogonal matrices as steps.

    momentum     M <- m M + G, and Nesterov's step  G + m M
    step         the nearest orthogonal matrix, by five rounds of a Newton-Schulz iteration
    weight       W <- (1 - lr * decay) W - lr * sqrt(max(1, rows / columns)) * step

All directions of a weight matrix then move equally, not those alone that have large gradients. A
convolution [out, in, k, k] is the matrix [out, in k k]. Biases and BatchNorm's scales and shifts
are no matrices; they move by SGD with momentum, and do not decay.
"""

import math
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration: fast, and only roughly orthogonal
ROUNDS = 5
VECTOR_LR = 5.0  # learning rate of vectors as a multiple of the matrices'
EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions, SGD for vectors.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate of matrices; 0.02 is usual. That of vectors is five times as large.
        momentum: m; 0.95 is usual.
        weight_decay: Decoupled, of matrices.
    """

    def __init__(self, params: Any, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is taken
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        velocity = state["velocity"]
        velocity.mul_(momentum).add_(gradient)
        if weight.ndim < 2:
            weight.sub_(velocity, alpha=VECTOR_LR * lr)
            return
        step = gradient.add(velocity, alpha=momentum).flatten(1)  # [rows, columns]
        rows, columns = step.shape
        size = math.sqrt(max(1.0, rows / columns))
        weight.mul_(1 - lr * group["weight_decay"])
        weight.sub_(orthogonalise(step).view_as(weight), alpha=lr * size)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix [rows, columns] near 1, between 0.7 and 1.2.

    X <- a X + (b X X^T + c (X X^T)^2) X, from X = matrix / ||matrix||.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix  # so that X X^T is the smaller of the two products
    x = x / (x.norm() + EPSILON)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x
