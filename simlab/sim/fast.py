"""The same numbers in less time: three steps of SIM where the plain way was measured to be slow.

Each has its plain reference beside it, to read and for the tests to compare with: `take_tokens` and
`predict` in the docstring, `norm_mse` in loss.py. benchmarks/bench_sim.py measures what SIM costs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

# So few tokens may differ so little that only equal rounding on both sides gives equal gradients:
# below this number the plain way is taken.
FEW_TOKENS = 16


def take_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """Take positions of a map; the plain way is `x.transpose(1, 2)[rows, positions]`.

    That rearranges the entire map first; here only the tokens are read and rearranged.

    Args:
        x: [B, K, N].
        positions: [B, n].

    Returns:
        Tokens [B, n, K], contiguous.
    """
    channels = x.shape[1]
    if x.stride(1) == 1:  # a token's channels lie side by side: [B, N, C], or a channels-last map
        index = positions[:, :, None].expand(-1, -1, channels)
        return x.transpose(1, 2).gather(1, index)
    index = positions[:, None, :].expand(-1, channels, -1)
    return x.gather(2, index).transpose(1, 2).contiguous()


def predict(
    pre_proj: nn.Sequential, proj_y: nn.Sequential, predictor: nn.Sequential, tokens: Tensor
) -> Tensor:
    """Predict the target; the plain way is `predictor(proj_y(pre_proj(tokens)))`.

    The last layer of proj_y and the predictor are both linear, and as one layer,
    P (W h + b) + c = (P W) h + (P b + c), they cost a fifth less.

    Args:
        pre_proj: Linear K_out -> K_in, or empty.
        proj_y: The projection, whose last layer is Linear.
        predictor: One Linear.
        tokens: Tokens of y, [..., K_out].

    Returns:
        Predictions [..., proj_dim].
    """
    last = cast(nn.Linear, proj_y[-1])
    head = cast(nn.Linear, predictor[0])
    hidden = proj_y[:-1](pre_proj(tokens))  # [..., proj_dim]
    weight = head.weight @ last.weight
    bias = nn.functional.linear(last.bias, head.weight, head.bias)
    return nn.functional.linear(hidden, weight, bias)


def norm_mse(x: Tensor, y: Tensor) -> Tensor:
    """Compute `loss.norm_mse` of [B, n, C] with a hand-written backward pass, twice as fast."""
    loss: Tensor = _NormMSE.apply(x, y)
    return loss


class _NormMSE(torch.autograd.Function):
    """norm_mse and its gradient: autograd's way reads and writes [B, n, C] twice as often."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        zx, std_x = _standardise(x)
        zy, std_y = _standardise(y)
        difference = zx - zy  # [B, n, C]
        norm: Tensor = torch.linalg.vector_norm(difference, dim=-1, keepdim=True)  # [B, n, 1]
        # dL/dzx = difference / norm / (B n), and dL/dzy is its negative
        tiny = torch.finfo(x.dtype).tiny
        grad_z = difference.mul_(1 / norm.clamp_min(tiny) / norm.numel())
        grad_x = _input_gradient(grad_z, zx, std_x, sign=1) if ctx.needs_input_grad[0] else None
        grad_y = _input_gradient(grad_z, zy, std_y, sign=-1) if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(grad_x, grad_y)
        return norm.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
        grad_x, grad_y = ctx.saved_tensors
        return (
            None if grad_x is None else grad_loss * grad_x,
            None if grad_y is None else grad_loss * grad_y,
        )


def _standardise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise [B, n, C] over its tokens: z = (x - mean) / (std + 1e-6), and std [B, 1, C]."""
    n = x.shape[1]
    z = x - x.mean(dim=1, keepdim=True)
    # from the squares: torch.std takes ten times as long
    std = (z.square().sum(dim=1, keepdim=True) / (n - 1)).sqrt_()
    z.mul_(1 / (std + 1e-6))
    return z, std


def _input_gradient(grad_z: Tensor, z: Tensor, std: Tensor, sign: int) -> Tensor:
    """Gradient of x where z = (x - mean) / (std + 1e-6) and sign * g is the gradient of z.

    sign * ((g - mean(g)) / (std + 1e-6) - z sum(g z) / ((n - 1) std)), mean and sum over the n
    tokens.
    """
    n = z.shape[1]
    tiny = torch.finfo(z.dtype).tiny
    along_z = (grad_z * z).sum(dim=1, keepdim=True) / std.clamp_min(tiny) / (n - 1)  # [B, 1, C]
    grad_x = (grad_z - grad_z.mean(dim=1, keepdim=True)).mul_(sign / (std + 1e-6))
    return grad_x.addcmul_(z, along_z, value=-sign)
