"""Does a change help? Tables of runs: means, paired differences; what features keep at each depth.

Two runs of one seed share weights, order and pictures, so their difference says more than two means
do. Each mean difference comes with its interval and with the smallest one that the design would
have seen: without that, "no effect" and "too few seeds" look the same.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn as nn
import torch.nn.functional as F
from matplotlib.figure import Figure

from . import plots
from .augment import normalise
from .collapse import effective_rank
from .data import DataSet
from .evaluate import ridge_r2
from .names import near
from .similarity.layers import select, tapped


def paired_differences(table: pd.DataFrame, change: str, y: str, base: object,
                       group: Sequence[str] = ()) -> pd.DataFrame:
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
            rows.append(dict(zip(group, name, strict=True)) | {
                change: value, "n": n, "base": own[base].mean(), "mean": gap.mean(),
                "low": gap.mean() - half, "high": gap.mean() + half, "visible": half + power})
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
        warnings.warn(f"{len(table) - len(good)} of {len(table)} points are not done, or have no "
                      f"{y}", stacklevel=2)
    need_seeds_alone(good, keys, "filter the table, or pass group=")
    rows = good.groupby(keys)[y]
    mean, half = plots.mean_and_interval(rows)
    found = {"n": rows.count(), "mean": mean, "low": mean - half, "high": mean + half}
    return pd.DataFrame(found).reset_index()


def plot_sweep(table: pd.DataFrame, x: str, y: str, group: str | None = None) -> Figure:
    """:func:`interval_table` as a matplotlib Figure; a single seed is a point without a bar."""
    rows = interval_table(table, x, y, group)
    figure, [[axes]] = plots.new_figure(width=6.0, height=4.0)
    for i, (name, part) in enumerate(rows.groupby(group) if group else [("", rows)]):
        axes.errorbar(part[x], part["mean"], part["high"] - part["mean"], color=plots.PALETTE[i % 7],
                      marker=plots.MARKERS[i % 10], capsize=3, label=f"{group} = {name}")
    plots.label(axes, f"mean, 95 % t interval; {rows['n'].min()} or more seeds", x, y)
    if group:
        axes.legend()
    return figure


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


def what_is_kept(encoder: nn.Module, data: DataSet, layers: Sequence[str],
                 pictures: int = 1000) -> pd.DataFrame:
    """What a linear map can read from each layer's output, a row a layer.

    rebuild: R² of the picture itself (16 x 16 pixels), read from the layer's map, averaged to at
    most 4 x 4 positions. One column a known factor of the data: R² read from the average over all
    positions (angles by cosine and sine). rank: effective rank of that average. Ridge regression on
    that many training pictures, its strength by leave-one-out; R² on as many test pictures. ValueError
    for a layer that is not there.
    """
    names, maps, sides = select(encoder, layers), defaultdict(list), []
    with tapped(encoder, names, lambda name, _, y: maps[name].append(y.float())) as forward:
        for part in (data.train, data.test):
            part = part.subset(torch.arange(min(pictures, len(part))))
            x = normalise(part.images, data.mean, data.std)
            forward(x)
            small = F.adaptive_avg_pool2d(x, min(16, data.train.size)).flatten(1)
            sides.append({"rebuild": small} | part.known())
    rows = []
    for name in names:
        side = min(4, maps[name][0].shape[-1])
        grids = [F.adaptive_avg_pool2d(y, side).flatten(1) for y in maps[name]]  # [N, C * side**2]
        means = [y.mean((2, 3)) for y in maps[name]]  # [N, C]
        row = {"layer": name, "rank": effective_rank(means[1])}
        for what, y in sides[0].items():
            row[what] = ridge_r2(*(grids if what == "rebuild" else means), y, sides[1][what])
        rows.append(row)
    return pd.DataFrame(rows)
