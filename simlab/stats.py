"""Does a change help? Tables of runs: means, paired differences; what features keep at each depth.

Two runs of one seed share weights, order and images, so their difference says more than two means
do. Each mean difference comes with its interval and with the smallest one that the design would
have seen: without that, "no effect" and "too few seeds" look the same.
"""

import warnings
from collections.abc import Sequence

import pandas as pd

from simlab._names import near


def paired_differences(
    table: pd.DataFrame, change: str, y: str, base: object, group: Sequence[str] = ()
) -> pd.DataFrame:
    """y minus the same seed's y at `change` == `base`, for each value of `change` and each group.

    Columns: n, base (its mean), mean, low and high (Student's 95 % interval of the mean
    difference), visible: the true difference that n such pairs find in four of five tries at 5 %,
    (t(.975) + t(.8)) sd / sqrt(n). Raises ValueError for an unknown column, a seed that is there
    twice, or a base that is not there.
    """
    from scipy.stats import t

    keys = [*group, change]
    need_columns(table, *keys, y, "seed")
    if table.duplicated([*keys, "seed"]).any():
        raise ValueError(f"rows of one seed differ in more than {', '.join(keys)}: give group=")
    wide = table.set_index([*keys, "seed"])[y].unstack(change)
    if base not in wide:
        raise ValueError(f"{change} is never {base!r}: {', '.join(map(str, wide.columns))}")
    rows = []
    for value in wide.columns.drop(base):
        pairs = wide[[base, value]].dropna()
        for name, own in pairs.groupby(list(group)) if group else [((), pairs)]:
            gap, n = own[value] - own[base], len(own)
            error = gap.std() / n**0.5
            half, power = t.ppf([0.975, 0.8], max(n - 1, 1)) * error
            rows.append(
                dict(zip(group, name, strict=True))
                | {
                    change: value,
                    "n": n,
                    "base": own[base].mean(),
                    "mean": gap.mean(),
                    "low": gap.mean() - half,
                    "high": gap.mean() + half,
                    "visible": half + power,
                }
            )
    return pd.DataFrame(rows)


def interval_table(table: pd.DataFrame, x: str, y: str, group: str | None = None) -> pd.DataFrame:
    """For each x (and group) n, mean of y over the seeds, low and high: Student's 95 % interval.

    A single seed has no interval (NaN). ValueError for an unknown column, or where a mean would mix
    more than seeds; a warning if points are not done or have no y.
    """
    keys = [group, x] if group else [x]
    need_columns(table, *keys, y)
    good = table[(table["status"] == "done") & table[y].notna()]
    if len(good) < len(table):
        warnings.warn(
            f"{len(table) - len(good)} of {len(table)} points are not done, or have no {y}",
            stacklevel=2,
        )
    need_seeds_alone(good, keys, "filter the table, or pass group=")
    rows = good.groupby(keys)[y]
    mean, half = mean_and_interval(rows)
    found = {"n": rows.count(), "mean": mean, "low": mean - half, "high": mean + half}
    return pd.DataFrame(found).reset_index()


def need_columns(table: pd.DataFrame, *columns: str):
    """ValueError for a column that the table has not."""
    for column in columns:
        if column not in table:
            raise ValueError(f"the table has no column {column!r}{near(column, table.columns)}")


def need_seeds_alone(table: pd.DataFrame, keys: Sequence[str], way_out: str):
    """ValueError where rows of equal keys differ in more than the seed: a mean would mix them."""
    if table.duplicated([*keys, *({"seed"} & set(table))]).any():
        mixed = f"rows of the same {', '.join(keys)} differ in more than the seed"
        raise ValueError(f"{mixed}: {way_out}")


def mean_and_interval(groups) -> tuple[pd.Series, pd.Series]:
    """Means of grouped numbers, and half the width of their 95 % t-interval (NaN for one)."""
    from scipy import stats  # scikit-learn brings it; loading it takes a second

    n = groups.count()
    half = stats.t.ppf(0.975, (n - 1).clip(lower=1)) * groups.std() / n**0.5
    return groups.mean(), half.where(n > 1)
