"""Confidence intervals of a measure, from the same measure without some of the samples.

A bootstrap draws samples with replacement: a sample then meets itself, at distance 0, which
inflates CKA, RSA and nearest neighbours alike. Here samples are only left out.

The samples are cut into G groups at random. The variance of the G values without one of the groups,
times (G-1)^2 / G, estimates that of the value itself (jackknife, Tukey 1958; of groups: Shao & Wu
1989), and Student's t with G - 1 degrees of freedom makes an interval of it. The true value it is
for is the mean of the measure over all sets of as many samples: several measures depend on their
number (mutual kNN, CCA, all biased ones), and an interval does not take that away.
"""

import numpy as np
import torch
from torch import Tensor

MIN_GROUPS = 10


def groups_left_out(n: int, groups: int, seed: int) -> list[Tensor]:
    """Cut n samples into random groups and return the others' indices, ascending, for each.

    Raises:
        ValueError: fewer than ten groups, or fewer than two samples for each.
    """
    if not MIN_GROUPS <= groups <= n // 2:
        raise ValueError(
            f"jackknife={groups}: expected {MIN_GROUPS} to {n // 2} groups of {n} samples"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    rests = []
    for group in order.tensor_split(groups):
        keep = torch.ones(n, dtype=torch.bool)
        keep[group] = False
        rests.append(keep.nonzero()[:, 0])
    return rests


def sums_without_each(groups: np.ndarray) -> np.ndarray:
    """Sums over all groups but one: [G, ...] -> [G, ...]."""
    return groups.sum(0) - groups


def jackknife_interval(
    value: np.ndarray, without: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Make an interval of values without each of G groups.

    Args:
        value: of all samples [...].
        without: without one group each [G, ...].
        level: how often such intervals are to hold the true value.

    Returns:
        The lower and the upper ends, [...] each; NaN where one of the values is.

    Raises:
        ValueError: a level that is no share.
    """
    from scipy.special import stdtrit  # loading it takes a second

    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a share between 0 and 1, such as 0.95")
    count = len(without)
    deviations = without - without.mean(0)
    variance = (count - 1) / count * (deviations**2).sum(0)
    half_width = stdtrit(count - 1, (1 + level) / 2) * np.sqrt(variance)
    return value - half_width, value + half_width
