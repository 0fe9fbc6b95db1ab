"""Confidence intervals of a measure, from values of parts of the samples.

A bootstrap draws samples with replacement: a sample then meets itself, at distance 0, which
inflates CKA, RSA and nearest neighbours alike. Here parts are drawn without replacement.

Over batches, whose sums are independent, the value without one of the G groups of batches each is
enough: its variance times (G-1)^2 / G estimates that of the value (jackknife, Tukey 1958).

In one set of samples a measure is made of pairs and of more than pairs, whose variance the
jackknife counts twice and more. There the samples are cut into two random halves, R times. The two
halves' values a and b are independent, so that (a - b)^2 / 4 estimates the variance of their mean;
what this mean varies by from cut to cut is due to the cut and subtracted. What is left is the
variance of the mean over all cuts, whatever the measure.

The true value that an interval is for is the mean of the measure over all sets of as many samples.
Several measures depend on this number (mutual kNN, CCA, all biased ones); an interval does not take
that away.
"""

import numpy as np
import torch
from torch import Tensor

MIN_GROUPS = 10  # of batches
MIN_CUTS = 10
LEAST_SHARE = 0.25  # of (a - b)^2 / 4: less is left only of measures of four samples and more


def random_halves(n: int, cuts: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Cut n samples at random into halves [n/2] and [n/2] of ascending indices, several times.

    Raises:
        ValueError: fewer than ten cuts, or fewer than eight samples.
    """
    if cuts < MIN_CUTS or n < 8:
        raise ValueError(
            f"cuts={cuts} of {n} samples: expected at least {MIN_CUTS} cuts and 8 samples"
        )
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for _ in range(cuts):
        order = torch.randperm(n, generator=generator)
        halves.append((order[: n // 2].sort().values, order[n // 2 :].sort().values))
    return halves


def interval_of_halves(
    value: np.ndarray, halves: np.ndarray, n: int, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Make an interval of the values of halves.

    Args:
        value: of all samples [...].
        halves: of both halves of R cuts [R, 2, ...].
        n: number of samples.
        level: how often such intervals are to hold the true value.

    Returns:
        The lower and the upper ends, [...] each; NaN where one of the values is.

    Raises:
        ValueError: a level that is no share.
    """
    half_difference = (halves[:, 0] - halves[:, 1]) / 2  # [R, ...]
    mean = (halves[:, 0] + halves[:, 1]) / 2
    total = (half_difference**2).mean(0)
    variance = np.maximum(total - mean.var(0, ddof=1), LEAST_SHARE * total)
    # R random cuts of n - 1 degrees of freedom: their variances add.
    degrees = 1 / (1 / len(halves) + 1 / (n - 1))
    return _around(value, variance, degrees, level)


def sums_without_each(groups: np.ndarray) -> np.ndarray:
    """Sums over all groups but one: [G, ...] -> [G, ...]."""
    return groups.sum(0) - groups


def jackknife_interval(
    value: np.ndarray, without: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Make an interval of values without each of G groups.

    Args:
        value: of all groups [...].
        without: without one group each [G, ...].
        level: see `interval_of_halves`.

    Returns:
        The lower and the upper ends, [...] each; NaN where one of the values is.

    Raises:
        ValueError: a level that is no share.
    """
    count = len(without)
    deviations = without - without.mean(0)
    variance = (count - 1) / count * (deviations**2).sum(0)
    return _around(value, variance, count - 1, level)


def _around(
    value: np.ndarray, variance: np.ndarray, degrees: float, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval around a value."""
    from scipy.special import stdtrit  # loading it takes a second

    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a share between 0 and 1, such as 0.95")
    half_width = stdtrit(degrees, (1 + level) / 2) * np.sqrt(variance)
    return value - half_width, value + half_width
