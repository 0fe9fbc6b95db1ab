"""A sweep's grid: the points that words or values make of a program's parameters.

A name with a dot is an option of a method: method.temperature=.1,.2 runs the program with
method="simclr temperature=0.1" and "simclr temperature=0.2", and is a column of numbers in the
table.
"""

import ast
import contextlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simlab._checks import near
from simlab.methods import method_names, parse_method, with_method_option
from simlab.runs import digest

from .parameters import check_value

MAX_POINTS = 100_000
RANGE = re.compile(r"([+-]?\d{1,18}):([+-]?\d{1,18})(?::([+-]?\d{1,18}))?(?![^,])")
METHOD = "method"  # the parameter whose options a name with a dot addresses

Point = dict[str, Any]


def parse_grid(words: Iterable[str], parameters: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Read a grid from shell words, typed by the defaults of what runs.

    `epochs=5,10`; `seed=0:3` and `0:10:2`, ranges without their end (int parameters only);
    `flag=true,false`; `name=a,b` or, where one is empty or has a comma, `name="a,b",""`; lists and
    dicts are JSON: `layers=["a","b"],["c"]`; an option of a method: `method.temperature=.1,.2`. A
    path without quotes, such as `data=./photos`, starts here; a notebook runs in its own folder.

    Args:
        words: name=values each.
        parameters: Of what runs, with their defaults.

    Returns:
        The values by name.

    Raises:
        ValueError: A name is unknown or there twice, or the word has another form.
        TypeError: A value has another type than the default.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name in grid:
            raise ValueError(f"{word!r}: expected name=values, each name once")
        default = _default_of(name, parameters)
        if type(default) is str and not text.startswith('"'):
            values = [_path_from_anywhere(value) for value in _split_strings(word, text)]
        else:
            values = _parse_literals(word, text, default)
        grid[name] = [check_value(name, value, default) for value in values]
    return grid


def _default_of(name: str, parameters: Mapping[str, Any]) -> Any:
    """Return the default of a parameter, or of an option of the method."""
    parameter, dot, option = name.partition(".")
    if parameter not in parameters:
        raise ValueError(f"there is no parameter {name!r}{near(parameter, parameters)}")
    if not dot:
        return parameters[name]
    if parameter != METHOD:
        raise ValueError(f"{name!r}: only an option of {METHOD!r} is written with a dot")
    return _default_of_option(option, parameters[METHOD])


def _default_of_option(option: str, method: str) -> Any:
    """Return the default of an option: the method's in the notebook, or else any other method's.

    The grid may change the method too; whether each of its methods has the option is checked where
    the option is put into the text.
    """
    options: dict[str, Any] = {}
    for text in (*method_names(), method):
        options |= vars(parse_method(text))
    if option not in options:
        raise ValueError(f"the methods have no option {option!r}{near(option, options)}")
    return options[option]


def _split_strings(word: str, text: str) -> list[str]:
    values = text.split(",")
    if "" in values or '"' in text:
        raise ValueError(f"{word!r}: quote all strings if one is empty or has a comma")
    return values


def _path_from_anywhere(value: str) -> str:
    """Make a path that exists absolute: it is written from here, and used in another folder."""
    if "/" not in value and os.sep not in value:
        return value
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # too long, a NUL, nobody's home
        path = os.path.abspath(Path(value).expanduser())
        return path if os.path.exists(path) else value
    return value


def _parse_literals(word: str, text: str, default: Any) -> list[Any]:
    if type(default) is int:
        text = RANGE.sub(_expand_range, text)
    values = None
    for read in (ast.literal_eval, json.loads):  # the first reads .5 and True, the second true
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            values = read(f"[{text}]")
    if type(values) is not list:
        raise TypeError(f"{word!r}: expected values like {json.dumps(default)}, commas between")
    return values


def _expand_range(match: re.Match[str]) -> str:
    """Return the numbers of a range, with commas."""
    bounds = [int(group) for group in match.groups() if group]
    values = range(*bounds)
    if not 0 < len(values) <= MAX_POINTS:
        raise ValueError(f"the range {match[0]} is empty or has more than {MAX_POINTS} values")
    return ",".join(map(str, values))


def grid_points(grid: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Point]:
    """Return every combination by the name of its folder, the last parameter changing fastest.

    Args:
        grid: By name a list, tuple or range of values; anything else is one value.
        parameters: Of what runs, with their defaults.

    Raises:
        ValueError: A name is unknown, a value is there twice, or there are no points or too many.
        TypeError: A value has another type than the default.
    """
    columns = {}
    for name, values in grid.items():
        values = list(values) if type(values) in (list, tuple, range) else [values]
        default = _default_of(name, parameters)
        columns[name] = [check_value(name, value, default) for value in values]
        if len({hash_of(value) for value in columns[name]}) < len(values):
            raise ValueError(f"{name}={values!r}: a value is there twice")
    count = math.prod(len(values) for values in columns.values()) if columns else 0
    if not 0 < count <= MAX_POINTS:
        raise ValueError(f"{dict(grid)!r} has {count} points: expected 1 to {MAX_POINTS}")
    points = [dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values())]
    for point in points:
        notebook_parameters(point, parameters)  # refuses an option that a method does not have
    return {_folder_name(point): point for point in points}


def notebook_parameters(point: Point, parameters: Mapping[str, Any]) -> Point:
    """Return what a point changes of the notebook's parameters, options put into the method's text.

    Raises:
        ValueError: The method has no such option.
    """
    changes = {name: value for name, value in point.items() if "." not in name}
    for name, value in point.items():
        parameter, dot, option = name.partition(".")
        if dot:
            text = changes.get(parameter, parameters[parameter])
            changes[parameter] = with_method_option(text, option, value)
    return changes


def _folder_name(point: Point) -> str:
    """Name a point so that it can be read; its hash makes the name unique.

    (1 and "1" look alike, and so do A and a in some file systems.) The order of the parameters does
    not matter.
    """
    words = []
    for name, value in sorted(point.items()):
        words.append(f"{name}={value if type(value) is str else json.dumps(value)}")
    readable = re.sub(r"[^A-Za-z0-9=,.+-]+", "-", ",".join(words))[:60]
    return f"{readable}_{hash_of(point)[:8]}"


def hash_of(value: Any) -> str:
    """Return a digest of a JSON value."""
    return digest(json.dumps(value, sort_keys=True).encode())
