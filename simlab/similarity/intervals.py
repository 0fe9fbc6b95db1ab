"""Confidence intervals of a measure, from values of parts of the samples.

A bootstrap draws samples with replacement: a sample then meets itself, at distance 0, which
inflates CKA, RSA and nearest neighbours alike. Here parts are drawn without replacement.

The samples (or the batches of a pass) are cut into G groups. The variance of the values without one
of the groups each, times (G-1)^2 / G, estimates the variance of the value itself: the jackknife
(Tukey 1958; of groups: Shao & Wu 1989).

A measure of one set of samples is made of pairs, and what is due to pairs the jackknife counts
twice (Efron & Stein 1981). So this is estimated as well, and subtracted once: cut into two random
halves, a mean of single samples has the same mean over both halves whatever the cut, and one of
pairs has not. The variance of that mean from cut to cut is the pairs' share.

Where a few samples decide what the others contribute, leaving some out says little of what other
samples would do. A sample's nearest neighbours change with each that goes, which the jackknife
counts as often as there are neighbours; and other samples are held out of a regression when the
folds are drawn anew. Intervals of such measures rest on the halves alone, which are independent
sets of n/2 samples: half their mean squared difference estimates the variance at n/2 samples, and
half of that the variance at n, as it falls with 1/n for them (subsampling: Politis & Romano 1994).

A correlation varies the less the higher it is, and that of half the samples is lower where a model
was fitted to them. Its variance is therefore estimated on the scale artanh r, on which it hardly
depends on r, and the interval's ends are brought back (Fisher 1915).

The true value that an interval is for is the mean of the measure over all sets of as many samples.
Several measures depend on this number (mutual kNN, CCA, all biased ones); an interval does not take
that away.
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
            f"resamples={groups}: expected {MIN_GROUPS} to {n // 2} groups of {n} samples"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    rests = []
    for group in order.tensor_split(groups):
        keep = torch.ones(n, dtype=torch.bool)
        keep[group] = False
        rests.append(keep.nonzero()[:, 0])
    return rests


def random_halves(n: int, cuts: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Cut n samples at random into halves of ascending indices, several times."""
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for _ in range(cuts):
        order = torch.randperm(n, generator=generator)
        halves.append((order[: n // 2].sort().values, order[n // 2 :].sort().values))
    return halves


def sums_without_each(groups: np.ndarray) -> np.ndarray:
    """Sums over all groups but one: [G, ...] -> [G, ...]."""
    rests: np.ndarray = groups.sum(0) - groups
    return rests


def jackknife_variance(
    without: np.ndarray, halves: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the variance of a value from values of parts of the samples.

    Args:
        without: without one of G groups each [G, ...].
        halves: of both halves of R cuts [R, 2, ...]; None where groups are independent, as batches
            are, so that there are no pairs between them.

    Returns:
        The variance and its degrees of freedom, [...] each; NaN where one of the values is.
    """
    count = len(without)
    deviations = without - without.mean(0)
    variance = (count - 1) / count * (deviations**2).sum(0)
    if halves is None:
        return variance, np.full_like(variance, count - 1)
    # At most half: then all of it is due to pairs.
    of_pairs = np.minimum(halves.mean(1).var(0, ddof=1), variance / 2)
    # Satterthwaite's degrees of freedom of a difference of two estimated variances.
    spread = variance**2 / (count - 1) + of_pairs**2 / (len(halves) - 1)
    variance = variance - of_pairs
    degrees = variance**2 / np.maximum(spread, np.finfo(float).tiny)
    return variance, np.maximum(degrees, 1)


def halving_variance(halves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the variance of a value from those of halves of the samples.

    Args:
        halves: of both halves of R cuts [R, 2, ...].

    Returns:
        The variance and its degrees of freedom, [...] each; NaN where one of the values is.
    """
    difference = halves[:, 0] - halves[:, 1]  # [R, ...]
    variance = (difference**2).mean(0) / 4
    return variance, np.full_like(variance, len(halves))


def fisher(correlation: np.ndarray) -> np.ndarray:
    """Fisher's scale, artanh r, on which a perfect correlation is far away and not infinite."""
    most = 1 - 1e-12
    scaled: np.ndarray = np.arctanh(np.clip(correlation, -most, most))
    return scaled


def interval_of(
    value: np.ndarray,
    without: np.ndarray | None,
    halves: np.ndarray | None = None,
    level: float = 0.95,
    is_correlation: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Make an interval around a value of all samples, from values of parts of them.

    Args:
        value: of all samples [...].
        without: without one of G groups each [G, ...], see `jackknife_variance`; None of a measure
            that is not `jackknifed`.
        halves: of both halves of R cuts [R, 2, ...]; None of groups that are batches.
        level: how often such intervals are to hold the true value.
        is_correlation: whether the variance is estimated on Fisher's scale.

    Returns:
        The lower and the upper ends, [...] each; NaN where one of the values is.

    Raises:
        ValueError: a level that is no share.
    """
    from scipy.special import stdtrit  # loading it takes a second

    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a share between 0 and 1, such as 0.95")
    if is_correlation:
        value = fisher(value)
        without = None if without is None else fisher(without)
        halves = None if halves is None else fisher(halves)
    if without is not None:
        variance, degrees = jackknife_variance(without, halves)
    else:
        assert halves is not None
        variance, degrees = halving_variance(halves)
    half_width = stdtrit(degrees, (1 + level) / 2) * np.sqrt(variance)
    if is_correlation:
        return np.tanh(value - half_width), np.tanh(value + half_width)
    return value - half_width, value + half_width
