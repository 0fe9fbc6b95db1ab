"""The table of a sweep: a row a point."""

from pathlib import Path
from typing import Any

import pandas as pd

from .grid import notebook_parameters
from .parameters import COLUMNS
from .point import read_object


def collect(folder: str | Path) -> pd.DataFrame:
    """Read a sweep's folder.

    Args:
        folder: The sweep's, while it runs or afterwards.

    Returns:
        A row for each planned point: point, all parameters, the options of the method that were
        varied, metrics, status (done, failed or unfinished), duration in seconds, error, and
        version.*. Metrics count only where the point is done. Nested metrics get dotted names; one
        that is named like a parameter is `metric.NAME`.

    Raises:
        FileNotFoundError: There is no sweep in the folder.
    """
    plan = read_object(Path(folder, "sweep.json"))
    if not plan:
        raise FileNotFoundError(f"{folder} holds no sweep: no sweep.json in it")
    heads, metrics, states = [], [], []
    for name, point in plan["points"].items():
        path = Path(folder, "points", name)
        state = _state_of(path)
        is_done = state["status"] == "done"
        changes = notebook_parameters(point, plan["defaults"])
        heads.append({"point": name} | plan["defaults"] | point | changes)
        metrics.append(read_object(path / "metrics.json") if is_done else {})
        states.append(_columns_of(state))
    taken = {*heads[0], *COLUMNS}
    flat = pd.json_normalize(metrics).rename(
        columns=lambda name: f"metric.{name}" if name in taken else name
    )
    return pd.concat([pd.DataFrame(heads), flat, pd.DataFrame(states)], axis=1)


def _state_of(path: Path) -> dict[str, Any]:
    """Return a point's status; papermill knows how long a command of the dry run took."""
    state = {"status": "unfinished"} | read_object(path / "status.json")
    if state == {"status": "done"}:
        executed = read_object(path / "notebook.ipynb")["metadata"]["papermill"]
        state["duration"] = executed["duration"]
        state["versions"] = {"papermill": executed["version"]}
    return state


def _columns_of(state: dict[str, Any]) -> dict[str, Any]:
    columns = {name: state.get(name) for name in COLUMNS if name != "point"}
    for package, version in state.get("versions", {}).items():
        columns[f"version.{package}"] = version
    return columns
