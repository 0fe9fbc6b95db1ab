"""A sweep's grid: what a notebook's parameters are, and the points that words or values make of them.

Strict, since papermill is not: it only warns of a misspelled parameter and runs the default.
"""

import ast
import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill

from simlab._names import near
from simlab.runs.identity import digest

TYPES = {t.__name__: t for t in (bool, int, float, str, list, dict)}
COLUMNS = ("point", "status", "duration", "error")  # the table's own names
MAX_POINTS = 100_000
RANGE = re.compile(r"([+-]?\d{1,18}):([+-]?\d{1,18})(?::([+-]?\d{1,18}))?(?![^,])")


def read_parameters(notebook: str | Path) -> dict[str, Any]:
    """A notebook's parameters with their defaults; ValueError where its parameters cell is unclear.

    Compared with what papermill sees there: it silently misses ``float | None`` and lines with a
    second ``=``. Literals only: a default computed from another would not follow that one.
    """
    cells = [
        cell.source
        for cell in nbformat.read(notebook, 4).cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) != 1:
        raise ValueError(f"{notebook}: {len(cells)} code cells are tagged 'parameters', not one")
    found, line = {}, "..."
    try:
        for node in ast.parse(cells[0]).body:
            line = ast.unparse(node)
            name = (getattr(node, "target", None) or node.targets[0]).id
            default = ast.literal_eval(node.value)
            if name in {*found, *COLUMNS}:
                raise ValueError("the name is set twice, or is one of the table's columns")
            kind = type(default).__name__
            if isinstance(node, ast.AnnAssign):
                kind = ast.unparse(node.annotation).strip("'").partition("[")[0]
            found[name] = _checked(name, default, TYPES[kind]())
        if list(seen := papermill.inspect_notebook(papermill_path(notebook))) != list(found):
            raise ValueError(f"papermill reads {list(seen)}, Python {list(found)}")
    except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f"{notebook}, parameters, {line}: {error}. Expected `name: type = literal`, one a "
            f"line, type one of {', '.join(TYPES)} (no `float | None`), and no second '=' in the "
            "line or its comment"
        ) from None
    return found


def _checked(name: str, value: Any, default: Any) -> Any:
    """The value as the default's type. papermill would turn what is not JSON into a string."""
    if type(default) is float and type(value) is int and abs(value) <= 2**53:
        value = float(value)
    same = False
    with contextlib.suppress(TypeError, ValueError):
        # repr tells a tuple from a list, numpy.float64 from float, the key 1 from "1"
        same = repr(json.loads(json.dumps(value, allow_nan=False))) == repr(value)
    if not same or type(value) is not type(default):
        hint = "" if same else "; x.item(), x.tolist(), list(x) or str(x) may be meant"
        raise TypeError(
            f"{name}={value!r} is {type(value).__name__}: expected a JSON value of "
            f"type {type(default).__name__}, like {default!r}{hint}"
        )
    return value


def _default(name: str, parameters: Mapping[str, Any]) -> Any:
    if name not in parameters:
        raise ValueError(f"the notebook has no parameter {name!r}{near(name, parameters)}")
    return parameters[name]


def _spelled(match: re.Match) -> str:
    """The numbers of a range, with commas."""
    values = range(*(int(group) for group in match.groups() if group))
    if not 0 < len(values) <= MAX_POINTS:
        raise ValueError(f"the range {match[0]} is empty or has more than {MAX_POINTS} values")
    return ",".join(map(str, values))


def parse_grid(words: Iterable[str], parameters: Mapping[str, Any]) -> dict[str, list]:
    """Shell words to a grid, typed by the defaults of the notebook; ValueError, TypeError if wrong.

    ``epochs=5,10``; ``seed=0:3`` and ``0:10:2``, ranges without their end (int parameters only);
    ``flag=true,false``; ``name=a,b`` or, where one is empty or has a comma, ``name="a,b",""``;
    lists and dicts are JSON: ``layers=["a","b"],["c"]``.
    """
    grid: dict[str, list] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name in grid:
            raise ValueError(f"{word!r}: expected name=values, each name once")
        default, values = _default(name, parameters), None
        if type(default) is str and not text.startswith('"'):
            values = text.split(",")
            if "" in values or '"' in text:
                raise ValueError(f"{word!r}: quote all strings if one is empty or has a comma")
        else:
            text = RANGE.sub(_spelled, text) if type(default) is int else text
            for read in (ast.literal_eval, json.loads):  # the first reads .5 and True
                with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                    values = read(f"[{text}]")
        if type(values) is not list:
            raise TypeError(f"{word!r}: expected values like {json.dumps(default)}, commas between")
        grid[name] = [_checked(name, value, default) for value in values]
    return grid


def grid_points(grid: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, dict]:
    """Every combination by the name of its folder, the last parameter changing fastest.

    A list, tuple or range holds a parameter's values; anything else is one value.
    """
    columns = {}
    for name, values in grid.items():
        values = values if type(values) in (list, tuple, range) else [values]
        columns[name] = [_checked(name, v, _default(name, parameters)) for v in values]
        if len(set(map(hash_of, columns[name]))) < len(values):
            raise ValueError(f"{name}={values!r}: a value is there twice")
    count = math.prod(map(len, columns.values())) if columns else 0
    if not 0 < count <= MAX_POINTS:
        raise ValueError(f"{dict(grid)!r} has {count} points: expected 1 to {MAX_POINTS}")
    rows = (dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values()))
    return {_name(point): point for point in rows}


def _name(point: dict) -> str:
    """Readable, by its hash unique (1 and "1"; a file system's A and a), and whatever the order."""
    pairs = sorted(point.items())
    text = ",".join(f"{k}={v if type(v) is str else json.dumps(v)}" for k, v in pairs)
    return re.sub(r"[^A-Za-z0-9=,.+-]+", "-", text)[:60] + "_" + hash_of(point)[:8]


def hash_of(data: Any) -> str:
    return digest(json.dumps(data, sort_keys=True).encode())


def papermill_path(path: str | Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill formats paths
