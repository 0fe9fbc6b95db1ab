"""Does a change help? Means over seeds with their intervals, and differences paired by seed.

Two runs of one seed share weights, order and images, so their difference says more than two means
do. Each mean difference comes with its interval and with the smallest one that the design would
have seen: without that, "no effect" and "too few seeds" look the same. `seeds_for` says how many
seeds it takes to see a difference of a given size.
"""

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from simlab._checks import near

CONFIDENCE = 0.95  # of every interval
POWER = 0.80  # share of repetitions in which a true difference of size `visible` would be found
MOST_SEEDS = 100_000


def paired_differences(
    table: pd.DataFrame,
    change: str,
    y: str,
    base: Hashable,
    group: Sequence[str] = (),
    *,
    tasks: Sequence[str] = (),
    pool: bool = False,
    holm: bool = False,
    points: float = 0.0,
) -> pd.DataFrame:
    """Subtract the same seed's y at `change` == `base`, for each value of `change` and each group.

    Args:
        table: A row a run, with a column `seed`.
        change: The column whose effect is asked about.
        y: The column that was measured.
        base: The value of `change` that the others are compared with.
        group: Columns within whose values the comparison is made separately.
        tasks: Columns over whose values a seed's y is averaged first: the effect on these tasks
            together, in equal parts. A seed that lacks a task at one value lacks that value.
        pool: Take one standard deviation for all rows, from `pooled_deviation`: a few seeds of
            each row say little about it. It must be plausible that all spread alike.
        holm: Also give `p`, of the t test of no difference, and `p_holm`: Holm's, which keeps the
            chance of any false finding among all rows at 5 %.
        points: Also give `seeds`: how many it takes to see a difference of this size.

    Returns:
        A row for each value of `change` and group: n, base (its mean), mean, low and high
        (Student's 95 % interval of the mean difference), and visible: the true difference that n
        such pairs find in four of five repetitions at 5 %, (t(.975) + t(.8)) sd / sqrt(n). Where
        one of `tasks`, `pool`, `holm` and `points` is given, also sd: the standard deviation of a
        pair's difference.

    Raises:
        ValueError: A column is missing, a seed is there twice, or `base` never occurs.
    """
    keys = [*group, change]
    require_columns(table, *keys, y, "seed", *tasks)
    if table.duplicated([*keys, *tasks, "seed"]).any():
        names = ", ".join([*keys, *tasks])
        raise ValueError(f"rows of one seed differ in more than {names}: give group= or tasks=")
    wide = _a_seed_a_row(table, change, y, list(group), list(tasks))
    if base not in wide:
        raise ValueError(f"{change} is never {base!r}: {', '.join(map(str, wide.columns))}")
    pooled = pooled_deviation([members for _, members in _groups(wide, group)]) if pool else None
    rows = []
    for value in wide.columns.drop([base]):
        pairs = wide[[base, value]].dropna()
        for names, members in _groups(pairs, group):
            row: dict[str, Any] = dict(zip(group, names, strict=True))
            row[change] = value
            rows.append(row | _describe(members[base], members[value], pooled))
    differences = pd.DataFrame(rows)
    if holm and rows:
        differences["p_holm"] = holm_adjusted(differences["p"])
    if points and rows:
        deviations = differences["sd"].dropna()  # a single pair has none
        differences["seeds"] = deviations.map(lambda sd: seeds_for(points, sd))
    is_plain = not (tasks or pool or holm or points)
    unwanted = ([] if holm else ["p"]) + (["sd"] if is_plain else [])
    return differences.drop(columns=unwanted, errors="ignore")


def _a_seed_a_row(
    table: pd.DataFrame, change: str, y: str, group: list[str], tasks: list[str]
) -> pd.DataFrame:
    """Arrange y: a row for each group and seed, a column for each value of `change`."""
    wide = table.set_index([*group, change, "seed", *tasks])[y].unstack(change)
    if not tasks:
        return wide
    all_tasks = wide.unstack(tasks)  # with every task, where a seed lacks one as well
    columns = all_tasks.columns.get_level_values(change)
    means = {value: all_tasks[value].mean(axis=1, skipna=False) for value in columns.unique()}
    return pd.DataFrame(means)


def _groups(wide: pd.DataFrame, group: Sequence[str]) -> Any:
    return wide.groupby(list(group)) if group else [((), wide)]


def _describe(
    base: pd.Series, other: pd.Series, pooled: tuple[float, int] | None
) -> dict[str, float]:
    """Return the statistics of the paired difference other - base."""
    from scipy.stats import t  # loading it takes a second

    difference = other - base
    n = len(difference)
    mean = difference.mean()
    sd, freedom = pooled or (difference.std(), max(n - 1, 1))
    standard_error = sd / n**0.5
    half_width = t.ppf((1 + CONFIDENCE) / 2, freedom) * standard_error
    with np.errstate(divide="ignore", invalid="ignore"):  # where all pairs differ alike
        statistic = np.abs(np.divide(mean, standard_error))
    return {
        "n": n,
        "base": base.mean(),
        "mean": mean,
        "low": mean - half_width,
        "high": mean + half_width,
        "visible": half_width + t.ppf(POWER, freedom) * standard_error,
        "sd": sd,
        "p": 2 * t.sf(statistic, freedom),
    }


def pooled_deviation(groups: Sequence[pd.DataFrame]) -> tuple[float, int]:
    """Estimate the standard deviation of a pair's difference from all values of all groups.

    Each number is taken as effect of its seed + effect of its value + noise, of one variance. The
    residuals of that least-squares fit have (seeds - 1)(values - 1) degrees of freedom where none
    is missing; a difference of two has twice their variance. With one group and two values this is
    the standard deviation of the differences.

    Args:
        groups: Tables with a row a seed and a column a value; NaN where one is missing.

    Returns:
        The standard deviation, and its degrees of freedom.

    Raises:
        ValueError: No group has two seeds with two values.
    """
    squares = 0.0
    freedom = 0
    for wide in groups:
        long = wide.reset_index(drop=True).melt(ignore_index=False).reset_index().dropna()
        seed = pd.get_dummies(long["index"], dtype=float)
        value = pd.get_dummies(long.iloc[:, 1], dtype=float)
        design = np.hstack([seed, value])  # [M, seeds + values]
        y = long["value"].to_numpy(float)
        solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
        squares += float(((y - design @ solution) ** 2).sum())
        freedom += len(y) - int(rank)
    if not freedom:
        raise ValueError("pool=True: expected two seeds or more, each with two values or more")
    return (2 * squares / freedom) ** 0.5, freedom


def holm_adjusted(p: pd.Series) -> pd.Series:
    """Adjust p-values for their number, by Holm's step-down procedure (1979).

    Args:
        p: One for each comparison of a family; NaN is no comparison.

    Returns:
        The adjusted ones: those below .05 may be called differences, all of them together with a
        chance of 5 % of one false finding or more.
    """
    ordered = p.dropna().sort_values()
    factors = np.arange(len(ordered), 0, -1)  # the smallest by the number of all, and so on
    adjusted = (ordered * factors).cummax().clip(upper=1.0)
    return adjusted.reindex(p.index)


def seeds_for(points: float, sd: float) -> int:
    """Return how many seeds a paired t test at 5 % needs to find a difference in 80 % of studies.

    The exact power, from the noncentral t distribution, with the standard deviation taken as known;
    one that was estimated from few seeds is itself uncertain.

    Args:
        points: The smallest true mean difference that shall be found.
        sd: The standard deviation of the difference of a pair: column `sd` of
            `paired_differences`.

    Raises:
        ValueError: `points` is zero or NaN, `sd` negative or NaN, or it takes over 100,000 seeds.
    """
    if not abs(points) > 0 or not sd >= 0:
        raise ValueError(f"points={points}, sd={sd}: expected a difference, and at least two pairs")
    if sd == 0:
        return 2
    effect = abs(points) / sd
    enough = 2
    while power_of(effect, enough) < POWER:
        enough *= 2
        if enough > MOST_SEEDS:
            raise ValueError(f"points={points} is {effect:.2g} sd: over {MOST_SEEDS} seeds")
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if power_of(effect, middle) < POWER:
            too_few = middle
        else:
            enough = middle
    return enough


def power_of(effect: float, n: int) -> float:
    """Return the power of a two-sided paired t test at 5 %.

    Args:
        effect: The true mean difference, in standard deviations of a pair's difference.
        n: The number of pairs, at least 2.
    """
    from scipy.stats import nct, t

    limit = t.ppf((1 + CONFIDENCE) / 2, n - 1)
    shift = effect * n**0.5
    return float(nct.sf(limit, n - 1, shift) + nct.cdf(-limit, n - 1, shift))


def mean_and_interval(groups: Any) -> tuple[pd.Series, pd.Series]:
    """Average grouped numbers.

    Args:
        groups: A pandas groupby of one column.

    Returns:
        The means, and half the width of their 95 % t-interval (NaN where there is one number).
    """
    from scipy.stats import t

    n = groups.count()
    quantile = t.ppf((1 + CONFIDENCE) / 2, (n - 1).clip(lower=1))
    half_width = quantile * groups.std() / n**0.5
    return groups.mean(), half_width.where(n > 1)


def interval_table(table: pd.DataFrame, x: str, y: str, group: str | None = None) -> pd.DataFrame:
    """Average y over the seeds, for each x (and group), with Student's 95 % interval.

    Args:
        table: A sweep's table.
        x: The column that was varied.
        y: The column that was measured.
        group: A second column that was varied.

    Returns:
        Columns: the keys, n, mean, low, high. A single seed has no interval (NaN).

    Raises:
        ValueError: A column is missing, or a mean would mix more than seeds.
    """
    keys = [group, x] if group else [x]
    require_columns(table, *keys, y)
    complete = table[(table["status"] == "done") & table[y].notna()]
    missing = len(table) - len(complete)
    if missing:
        warnings.warn(
            f"{missing} of {len(table)} points are not done, or have no {y}", stacklevel=2
        )
    require_seeds_alone(complete, keys, "filter the table, or pass group=")
    groups = complete.groupby(keys)[y]
    mean, half_width = mean_and_interval(groups)
    columns = {
        "n": groups.count(),
        "mean": mean,
        "low": mean - half_width,
        "high": mean + half_width,
    }
    return pd.DataFrame(columns).reset_index()


def require_columns(table: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError for a column that the table lacks."""
    for column in columns:
        if column not in table:
            raise ValueError(f"the table has no column {column!r}{near(column, table.columns)}")


def require_seeds_alone(table: pd.DataFrame, keys: Sequence[str], remedy: str) -> None:
    """Raise ValueError where rows of equal keys differ in more than the seed.

    Args:
        table: The rows.
        keys: The columns whose equal values are averaged over.
        remedy: The end of the message: what to do about it.
    """
    columns = list(keys)
    if "seed" in table:
        columns.append("seed")
    if table.duplicated(columns).any():
        mixed = f"rows of the same {', '.join(keys)} differ in more than the seed"
        raise ValueError(f"{mixed}: {remedy}")
