"""Does a change help? Means over seeds with their intervals, and differences paired by seed.

Two runs of one seed share weights, order and images, so their difference says more than two means
do. Each mean difference comes with its interval and with the smallest one that the design would
have seen: without that, "no effect" and "too few seeds" look the same.
"""

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from simlab._checks import near

CONFIDENCE = 0.95  # of every interval
POWER = 0.80  # share of repetitions in which a true difference of size `visible` would be found


def paired_differences(
    table: pd.DataFrame, change: str, y: str, base: Hashable, group: Sequence[str] = ()
) -> pd.DataFrame:
    """Subtract the same seed's y at `change` == `base`, for each value of `change` and each group.

    Args:
        table: A row a run, with a column `seed`.
        change: The column whose effect is asked about.
        y: The column that was measured.
        base: The value of `change` that the others are compared with.
        group: Columns within whose values the comparison is made separately.

    Returns:
        A row for each value of `change` and group: n, base (its mean), mean, low and high
        (Student's 95 % interval of the mean difference), and visible: the true difference that n
        such pairs find in four of five repetitions at 5 %, (t(.975) + t(.8)) sd / sqrt(n).

    Raises:
        ValueError: A column is missing, a seed is there twice, or `base` never occurs.
    """
    keys = [*group, change]
    require_columns(table, *keys, y, "seed")
    if table.duplicated([*keys, "seed"]).any():
        raise ValueError(f"rows of one seed differ in more than {', '.join(keys)}: give group=")
    wide = table.set_index([*keys, "seed"])[y].unstack(change)
    if base not in wide:
        raise ValueError(f"{change} is never {base!r}: {', '.join(map(str, wide.columns))}")
    rows = []
    for value in wide.columns.drop([base]):
        pairs = wide[[base, value]].dropna()
        groups = pairs.groupby(list(group)) if group else [((), pairs)]
        for names, members in groups:
            row: dict[str, Any] = dict(zip(group, names, strict=True))
            row[change] = value
            rows.append(row | _describe(members[base], members[value]))
    return pd.DataFrame(rows)


def _describe(base: pd.Series, other: pd.Series) -> dict[str, float]:
    """Return the statistics of the paired difference other - base."""
    from scipy.stats import t  # loading it takes a second

    difference = other - base
    n = len(difference)
    mean = difference.mean()
    standard_error = difference.std() / n**0.5
    freedom = max(n - 1, 1)
    half_width = t.ppf((1 + CONFIDENCE) / 2, freedom) * standard_error
    return {
        "n": n,
        "base": base.mean(),
        "mean": mean,
        "low": mean - half_width,
        "high": mean + half_width,
        "visible": half_width + t.ppf(POWER, freedom) * standard_error,
    }


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
