"""A page of a sweep: `simlab report SWEEP` writes a folder that opens as a page.

report/
    index.html          all of it; needs no network
    table.csv           a row a point
    means.csv           means over the seeds, with 95 % intervals
    differences.csv     paired differences from the base, Holm-corrected, and what was visible
    figure.png, .pdf
    configuration.json  defaults, grid, versions
    commands.sh         what made it
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from simlab._checks import near
from simlab.runs import write_bytes, write_json
from simlab.stats import interval_table, paired_differences, require_columns

from .page import page_of
from .parameters import COLUMNS
from .point import read_object
from .table import collect

MEASURED = ("knn", "test_accuracy", "accuracy")  # y, where nobody chose one
CONFIGURATION = ("program", "versions", "grid", "defaults", "digest")
MARKERS = "osD^vPX*"
SPREAD = 10  # values further apart than this are drawn on a logarithmic axis


@dataclass(frozen=True)
class Axes:
    """What of a sweep is compared.

    Attributes:
        y: The column that was measured.
        x: The parameter whose values are compared.
        others: The other parameters that were varied, but for the seed.
        base: The value of x that the others are compared with.
    """

    y: str
    x: str
    others: list[str]
    base: Any


def report(
    folder: str | Path, y: str = "", x: str = "", base: str = "", out: str | Path = ""
) -> Path:
    """Write a page of a sweep, with what is finished of it.

    Args:
        folder: The sweep's.
        y: The column that was measured. Empty: knn, test_accuracy, accuracy, or the only one.
        x: The parameter whose values are compared. Empty: the first that was varied.
        base: The value of x that the others are compared with, as it is written in the table.
            Empty: the first.
        out: The page's folder. Empty: report/ in the sweep's.

    Returns:
        The page, index.html.

    Raises:
        FileNotFoundError: There is no sweep in the folder.
        ValueError: A column or value is unknown, or no point is done.
    """
    folder = Path(folder).resolve()
    table = collect(folder).map(_as_word)
    plan = read_object(folder / "sweep.json")
    done = table[table["status"] == "done"]
    if done.empty:
        raise ValueError(f"{folder}: no point is done")
    axes = _choose(done, plan, y, x, base)
    done = done.dropna(subset=[axes.y])
    done = done.assign(others=_words_of(done, axes.others))
    means = interval_table(done, axes.x, axes.y, "others" if axes.others else None)
    differences = _differences(done, axes)
    place = Path(out).resolve() if out else folder / "report"
    place.mkdir(parents=True, exist_ok=True)
    tables = {"table": table, "means": means, "differences": differences}
    for name, rows in tables.items():
        write_bytes(place / f"{name}.csv", rows.to_csv(index=False).encode())
    figure = draw(means, axes)
    for ending in ("png", "pdf"):
        figure.savefig(place / f"figure.{ending}", dpi=200)
    configuration = {name: plan[name] for name in CONFIGURATION if name in plan}
    write_json(place / "configuration.json", configuration)
    commands = "\n".join(plan.get("commands", [plan["command"]]))
    write_bytes(place / "commands.sh", f"{commands}\n".encode())
    title = f"{folder.name}: {axes.y} against {axes.x}"
    base_words = f"{axes.x} = {axes.base}"
    page = page_of(title, base_words, tables, configuration, commands)
    write_bytes(place / "index.html", page.encode())
    return place / "index.html"


def _as_word(value: Any) -> Any:
    """Write lists and dicts as JSON, so that they can be compared."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _choose(table: pd.DataFrame, plan: dict[str, Any], y: str, x: str, base: str) -> Axes:
    """Choose what is compared, as far as nobody said it."""
    varied = _varied(plan)
    if x and x not in varied:
        raise ValueError(f"x={x!r} was not varied{near(x, varied)}")
    x = x or next(iter([*varied, *plan["defaults"]]))  # of seeds alone: one mean
    y = y or _measured(table, plan)
    require_columns(table, y)
    values = {str(value): value for value in table[x]}
    if base and base not in values:
        raise ValueError(f"base={base!r}: {x} never has this value{near(base, values)}")
    chosen = values[base] if base else table[x].iloc[0]
    return Axes(y, x, [name for name in varied if name != x], chosen)


def _varied(plan: dict[str, Any]) -> list[str]:
    """Return the parameters that have several values, the seed apart."""
    values: dict[str, set[str]] = {}
    for point in plan["points"].values():
        for name, value in point.items():
            values.setdefault(name, set()).add(repr(value))
    return [name for name, several in values.items() if len(several) > 1 and name != "seed"]


def _measured(table: pd.DataFrame, plan: dict[str, Any]) -> str:
    """Return the column that is usually asked about, or the only one that was measured."""
    for name in MEASURED:
        if name in table:
            return name
    taken = {*plan["defaults"], *_varied(plan), *COLUMNS}
    numbers = table.select_dtypes("number").columns
    measured = [name for name in numbers if name not in taken and not name.startswith("metric.")]
    if len(measured) != 1:
        raise ValueError(f"which column is asked about? y=...: {', '.join(measured)}")
    return str(measured[0])


def _words_of(table: pd.DataFrame, names: list[str]) -> list[str]:
    """Word what a row has of some parameters: "lr=0.1, method=simclr"."""
    rows = table[names].to_dict("records")
    return [", ".join(f"{name}={value}" for name, value in row.items()) for row in rows]


def _differences(done: pd.DataFrame, axes: Axes) -> pd.DataFrame:
    """Compare with the base, where two values of x share seeds; else there are no rows."""
    if "seed" not in done or axes.base not in list(done[axes.x]):
        return pd.DataFrame()
    rows = paired_differences(
        done, axes.x, axes.y, axes.base, ["others"] if axes.others else [], holm=True
    )
    return rows


def draw(means: pd.DataFrame, axes: Axes) -> Figure:
    """Draw the means with their intervals; a single seed is a point without a bar."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.subplots()
    groups = list(means.groupby("others")) if axes.others else [("", means)]
    is_number = pd.api.types.is_numeric_dtype(means[axes.x])
    for number, (name, rows) in enumerate(groups):
        x = rows[axes.x] if is_number else rows[axes.x].astype(str)
        ax.errorbar(
            x,
            rows["mean"],
            (rows["high"] - rows["mean"]).fillna(0),
            marker=MARKERS[number % len(MARKERS)],
            capsize=3,
            label=name,
        )
    if is_number and 0 < SPREAD * means[axes.x].min() < means[axes.x].max():
        ax.set_xscale("log")
    ax.set(xlabel=axes.x, ylabel=axes.y, title="mean over seeds, 95 % t interval")
    if axes.others:
        ax.legend()
    return figure
