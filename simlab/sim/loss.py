"""The distances of SIM between a prediction and its target: five plain functions.

`compute_sim_loss` chooses one by name, as the published code does. All take two batches of
projected tokens [B, n, C] and return a scalar >= 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..layers import nearest
from . import fast
from .options import LOSS_TYPES


def cos(x: Tensor, y: Tensor) -> Tensor:
    """2 - 2 cosine(x, y) over channels, the mean: 0 for parallel vectors, 4 for opposite ones."""
    return (2 - 2 * functional.cosine_similarity(x, y, dim=-1)).mean()


def kl(x: Tensor, y: Tensor) -> Tensor:
    """KL(softmax(y) || softmax(x)) over channels, summed over tokens, divided by B."""
    return functional.kl_div(
        functional.log_softmax(x, dim=-1), functional.softmax(y, dim=-1), reduction="batchmean"
    )


def smooth_l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean of d^2 / 2 where |d| = |x - y| is below 1, of |d| - 1/2 elsewhere."""
    return functional.smooth_l1_loss(x, y)


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean of (x - y)^2."""
    return functional.mse_loss(x, y)


def norm_mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean L2 norm over channels of the difference, both standardised over their tokens.

    The norm itself, in spite of the name not its square; z = (x - mean) / (std + 1e-6) with the
    sample std. Two standardised tokens are little more than signs: finite, but with hardly a
    gradient.
    """
    zx = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6)
    zy = (y - y.mean(1, keepdim=True)) / (y.std(1, keepdim=True) + 1e-6)
    norms: Tensor = torch.linalg.vector_norm(zx - zy, dim=-1)  # [B, n]
    return norms.mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cos": cos,
    "kl": kl,
    "smooth_l1": smooth_l1,
    "mse": mse,
    "norm_mse": norm_mse,
}


def compute_sim_loss(x_sample: Tensor, y_sample: Tensor, loss_type: str = "mse") -> Tensor:
    """Compute the distance of two projections.

    SIM passes the prediction, made from the block's output, as `x_sample` and the target as
    `y_sample`, as the published code does.

    Args:
        x_sample: Projected tokens [B, n, C]; half precision is compared in float32.
        y_sample: The same number of projected tokens [B, n, C].
        loss_type: "cos", "kl", "smooth_l1", "mse" or "norm_mse": the functions of this file.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: If there is no such loss.
    """
    if loss_type not in LOSS_TYPES:
        raise ValueError(
            f"loss_type={loss_type!r}, expected one of {LOSS_TYPES}"
            + nearest(loss_type, LOSS_TYPES)
        )
    x = x_sample.to(torch.promote_types(x_sample.dtype, torch.float32))
    y = y_sample.to(torch.promote_types(y_sample.dtype, torch.float32))
    # torch.func's transforms (grad, vmap) can't pass the gradient that is written by hand
    is_transformed = torch._C._are_functorch_transforms_active()
    if loss_type == "norm_mse" and x.shape[1] >= fast.FEW_TOKENS and not is_transformed:
        return fast.norm_mse(x, y)
    return LOSSES[loss_type](x, y)


def fewest_tokens(loss_type: str) -> int:
    """Number of tokens below which a loss is NaN: norm_mse standardises over two at least."""
    return 2 if loss_type == "norm_mse" else 1
