"""Shapes: how far apart two representations are after the best rotation."""

from typing import Any

import numpy as np
import torch

from ...layers import one_of
from ..representation import paired


def procrustes_distance(x: Any, y: Any, *, form: str = "squared") -> float:
    """Distance after the best rotation, both scaled to Frobenius norm 1 (Ding 2021).

    With c = |X'Y|_* of the scaled matrices. Invariant to rotation, isotropic scale and shift.

    Args:
        x: [n, p].
        y: [n, q].
        form: "squared": 2 - 2c in [0, 2]; "angle": arccos c in [0, pi/2], a metric;
            "complement": 1 - c in [0, 1], as in simtorch.

    Returns:
        The distance.
    """
    one_of(form, ("squared", "angle", "complement"), "form")
    a, b = paired(x, y)
    u, s = a.basis
    v, t = b.basis
    if not len(s) or not len(t):
        return np.nan
    # In n x n only: U diag(s) is X up to a rotation.
    cross = (u * (s / s.norm())).T @ (v * (t / t.norm()))
    c = min(float(torch.linalg.svdvals(cross).sum()), 1.0)
    if form == "squared":
        return 2 - 2 * c
    return float(np.arccos(c)) if form == "angle" else 1 - c
