"""A notebook's parameters: what they are called, their types and their defaults.

Strict, since papermill is not: it only warns of a misspelled parameter and runs the default.
"""

import ast
import contextlib
import importlib.util
import json
from pathlib import Path
from typing import Any

# what runs notebooks; simlab is loaded without them
NOTEBOOK_PACKAGES = {"papermill": "papermill", "yaml": "pyyaml"}
TYPES: dict[str, type] = {t.__name__: t for t in (bool, int, float, str, list, dict)}
COLUMNS = ("point", "status", "duration", "error")  # the table's own names, which no parameter has


def read_parameters(notebook: str | Path) -> dict[str, Any]:
    """Read a notebook's parameters with their defaults.

    They are compared with what papermill sees there: it silently misses `float | None` and lines
    with a second `=`. Literals only: a default computed from another one would not follow it.

    Args:
        notebook: The notebook's file; one code cell is tagged `parameters`.

    Returns:
        The defaults by name, in the notebook's order.

    Raises:
        ValueError: There is not one such cell, or a line in it is unclear.
        ImportError: What runs notebooks is not installed.
    """
    require_notebook_packages()
    import papermill

    source = _parameters_cell(notebook)
    line = "..."
    parameters: dict[str, Any] = {}
    try:
        for node in ast.parse(source).body:
            line = ast.unparse(node)
            name, kind, default = _read_line(node)
            if name in parameters or name in COLUMNS:
                raise ValueError("the name is set twice, or is one of the table's columns")
            parameters[name] = check_value(name, default, TYPES[kind]())
        papermills = list(papermill.inspect_notebook(papermill_path(notebook)))
        if papermills != list(parameters):
            raise ValueError(f"papermill reads {papermills}, Python {list(parameters)}")
    except (KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f"{notebook}, parameters, {line}: {error}. Expected `name: type = literal`, one a "
            f"line, type one of {', '.join(TYPES)} (no `float | None`), and no second '=' in the "
            "line or its comment"
        ) from None
    return parameters


def require_notebook_packages() -> None:
    """Check that notebooks can run here.

    Raises:
        ImportError: A package is missing; the message says how all of them are installed.
    """
    missing = [name for name in NOTEBOOK_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        install = " ".join(NOTEBOOK_PACKAGES.values())
        raise ImportError(
            f"a sweep over a notebook needs {', '.join(missing)}: pip install {install}"
        )


def _parameters_cell(notebook: str | Path) -> str:
    import nbformat

    cells = []
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            cells.append(cell.source)
    if len(cells) != 1:
        raise ValueError(f"{notebook}: {len(cells)} code cells are tagged 'parameters', not one")
    source: str = cells[0]
    return source


def _read_line(node: ast.stmt) -> tuple[str, str, Any]:
    """Return the name, the type's name and the value of `name = value` or `name: type = value`."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        target: ast.expr = node.target
        annotation = ast.unparse(node.annotation).strip("'")
        kind = annotation.partition("[")[0]  # list[str] is a list
        literal = node.value
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        kind = ""
        literal = node.value
    else:
        raise ValueError("this is not an assignment of one value to one name")
    if not isinstance(target, ast.Name):
        raise ValueError(f"{ast.unparse(target)} is not a plain name")
    value = ast.literal_eval(literal)
    return target.id, kind or type(value).__name__, value


def check_value(name: str, value: Any, default: Any) -> Any:
    """Return a value as the type of the default; papermill would make a string of what isn't JSON.

    Raises:
        TypeError: The value has another type, or can't be written as JSON.
    """
    if type(default) is float and type(value) is int and abs(value) <= 2**53:
        value = float(value)
    is_json = _survives_json(value)
    if is_json and type(value) is type(default):
        return value
    hint = "" if is_json else "; x.item(), x.tolist(), list(x) or str(x) may be meant"
    raise TypeError(
        f"{name}={value!r} is {type(value).__name__}: expected a JSON value of type "
        f"{type(default).__name__}, like {default!r}{hint}"
    )


def _survives_json(value: Any) -> bool:
    """Tell whether a value comes back the same from JSON.

    repr distinguishes a tuple from a list, numpy.float64 from float, the key 1 from "1".
    """
    with contextlib.suppress(TypeError, ValueError):
        return repr(json.loads(json.dumps(value, allow_nan=False))) == repr(value)
    return False


def papermill_path(path: str | Path) -> str:
    """Return a path as papermill takes it, which formats paths as templates."""
    return str(path).replace("{", "{{").replace("}", "}}")
