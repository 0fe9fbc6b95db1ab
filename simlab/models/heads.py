"""Heads: what stands between an encoder's features and the loss of a method.

    projector    h [N, D] -> z [N, d]     SimSiam's and SimCLR's
    predictor    z [N, d] -> p [N, d]     SimSiam's, with a bottleneck

A hidden layer is Linear, BatchNorm, ReLU. Biases that a BatchNorm would take out again are left
out.
"""

import itertools
from typing import Literal

from torch import nn

HeadNorm = Literal["all", "hidden", "none"]


def build_mlp(*widths: int, batch_norm: bool = True, bias: bool = True) -> nn.Sequential:
    """Build linear layers of these widths with BatchNorm and ReLU between them: [N, w0] -> [N, wk].

    Nothing follows the last layer.

    Args:
        *widths: Of the input, the hidden layers and the output; two or more.
        batch_norm: Whether the hidden layers have BatchNorm.
        bias: Whether the last layer has a bias.

    Returns:
        The layers, in their order.
    """
    *hidden, _ = itertools.pairwise(widths)
    modules: list[nn.Module] = []
    for in_dim, out_dim in hidden:
        modules += _hidden_layer(in_dim, out_dim, "hidden" if batch_norm else "none")
    modules.append(nn.Linear(widths[-2], widths[-1], bias=bias))
    return nn.Sequential(*modules)


def build_projector(
    feature_dim: int, layers: int, dim: int, head_bn: HeadNorm = "all"
) -> nn.Sequential:
    """Build a projector: [N, feature_dim] -> [N, dim].

    Args:
        feature_dim: Width D of the features.
        layers: Number of linear layers; SimSiam has 2 for small images, else 3 (section 3 and
            appendix D).
        dim: Hidden and output width d.
        head_bn: BatchNorm in all layers, in the hidden ones alone, or in none (section 4.4).

    Returns:
        The layers, in their order.

    Raises:
        ValueError: There is less than one layer.
    """
    if layers < 1:
        raise ValueError(f"proj_layers={layers}: expected at least 1")
    modules: list[nn.Module] = []
    width = feature_dim
    for _ in range(layers - 1):
        modules += _hidden_layer(width, dim, head_bn)
        width = dim
    modules.append(nn.Linear(width, dim, bias=head_bn != "all"))
    if head_bn == "all":
        # without scale and shift, which the normalised z would lose
        modules.append(nn.BatchNorm1d(dim, affine=False))
    return nn.Sequential(*modules)


def build_predictor(dim: int, hidden_dim: int, head_bn: HeadNorm = "all") -> nn.Sequential:
    """Build a predictor: [N, dim] -> [N, hidden_dim] -> [N, dim], without a BatchNorm at its end.

    Args:
        dim: Width d of the projections.
        hidden_dim: The bottleneck; a quarter of d in SimSiam (section 3).
        head_bn: As in `build_projector`.

    Returns:
        The layers, in their order.
    """
    return nn.Sequential(*_hidden_layer(dim, hidden_dim, head_bn), nn.Linear(hidden_dim, dim))


def _hidden_layer(in_dim: int, out_dim: int, head_bn: HeadNorm) -> list[nn.Module]:
    if head_bn == "none":
        return [nn.Linear(in_dim, out_dim), nn.ReLU()]
    return [nn.Linear(in_dim, out_dim, bias=False), nn.BatchNorm1d(out_dim), nn.ReLU()]
