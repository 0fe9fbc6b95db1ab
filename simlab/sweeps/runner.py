"""Sweeps: a strict, small front end to papermill; a grid in, executed notebooks and one table out.

    simlab sweep NOTEBOOK.ipynb epochs=5,10 lr=0.03,0.1 seed=0:3 --out DIR --jobs 2

or `sweep("NOTEBOOK.ipynb", {"epochs": [5, 10], "seed": range(3)}, out="DIR", jobs=2)`.

What a notebook does for it: one code cell tagged `parameters`, one literal a line
(`epochs: int = 5  # passes`), and at its end `metrics.json`, one JSON object, in the folder
`os.environ.get("SIMLAB_OUT", ".")`. It runs in its own folder, in this interpreter's kernel.

DIR holds `sweep.json` (the plan), `notebook.ipynb` (the copy that runs), `table.csv` and, in
`points/NAME/`, parameters.json, notebook.ipynb, metrics.json, log and, written last, status.json: a
point without it is half done and runs again, as a failed one does; a finished one never.
"""

import contextlib
import json
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
from tqdm.auto import tqdm

from simlab._checks import near
from simlab.runs import write_bytes, write_json

from .grid import Point, grid_points, hash_of, notebook_parameters
from .parameters import read_parameters
from .point import Processes, Task, read_object, run_point, shell_command, versions
from .table import collect


def sweep(
    notebook: str | Path,
    grid: Mapping[str, Any],
    out: str | Path,
    jobs: int = 1,
    threads: int = 1,
    dry_run: bool = False,
    scheduler: str | None = None,
) -> pd.DataFrame:
    """Run a notebook at every point of a grid. What is finished in `out` stays.

    A failed point is a row of the table and stops no other.

    Args:
        notebook: The notebook's file.
        grid: By name a list, tuple or range of a parameter's values; anything else is one value.
        out: The sweep's folder.
        jobs: Number of points at once, each in a process of its own.
        threads: Threads of each process.
        dry_run: Start nothing: write the plan, and print shell commands, one a line, for what is
            left.
        scheduler: Address of a Dask scheduler: run on its workers, which must see the same files,
            as many at once as they have threads.

    Returns:
        These points' rows of `collect(out)`.

    Raises:
        ValueError: The grid is wrong, or the notebook's code has changed since `out` was begun.
        TypeError: A value has another type than the notebook's default.
        RuntimeError: Another sweep works in `out`. Nothing has started after any of these.
    """
    notebook, out = Path(notebook).resolve(), Path(out).resolve()
    _require_notebook(notebook)
    if any(type(number) is not int or number < 1 for number in (jobs, threads)):
        raise ValueError(f"jobs={jobs!r}, threads={threads!r}: expected integers from 1 on")
    parameters = read_parameters(notebook)
    points = grid_points(grid, parameters)
    (out / "points").mkdir(parents=True, exist_ok=True)
    with _alone_in(out):
        _write_plan(notebook, out, grid, points, parameters, jobs, threads)
        tasks = _unfinished_tasks(notebook, out, points, parameters, threads)
        if dry_run:
            for task in tasks:
                print(shell_command(task))
        else:
            print(
                f"{len(points)} points, {len(tasks)} to run, {jobs} at once with {threads} "
                f"thread(s) each: {out}",
                file=sys.stderr,
            )
            _run(tasks, jobs, scheduler)
        table = collect(out)
        write_bytes(out / "table.csv", table.to_csv(index=False).encode())
    return table[table["point"].isin(points)].reset_index(drop=True)


def _require_notebook(notebook: Path) -> None:
    if not notebook.is_file():
        names = [path.name for path in notebook.parent.glob("*.ipynb")]
        raise FileNotFoundError(f"no notebook {notebook}{near(notebook.name, names)}")


def _alone_in(out: Path) -> contextlib.AbstractContextManager[object]:
    try:
        return filelock.FileLock(out / ".lock").acquire(timeout=0)
    except filelock.Timeout:
        raise RuntimeError(f"another sweep is working in {out}") from None


# ---------------------------------------------------------------------------------------- the plan


def _write_plan(
    notebook: Path,
    out: Path,
    grid: Mapping[str, Any],
    points: dict[str, Point],
    parameters: dict[str, Any],
    jobs: int,
    threads: int,
) -> None:
    """Write sweep.json and the copy that runs; points of earlier calls stay in the plan."""
    plan = read_object(out / "sweep.json")
    code = _code_digest(notebook)
    if plan.get("digest", code) != code:
        raise ValueError(
            f"the code of {notebook.name} changed since {out} was begun: take another folder, or "
            "remove this one"
        )
    current = versions()
    if plan.get("versions", current) != current:
        warnings.warn(f"{out} was begun with other versions: {plan['versions']}", stacklevel=3)
    words = _grid_as_words(grid, points)
    numbers = ["--jobs", str(jobs), "--threads", str(threads)]
    command = ["simlab", "sweep", notebook.name, *words, "--out", out.name, *numbers]
    write_bytes(out / "notebook.ipynb", notebook.read_bytes())
    content = {
        "notebook": notebook.name,
        "digest": code,
        "grid": words,
        "versions": current,
        "command": shlex.join(command),
        "defaults": parameters,
        "points": plan.get("points", {}) | points,
    }
    write_json(out / "sweep.json", content)


def _code_digest(notebook: Path) -> str:
    """Return a digest of the code alone: a corrected sentence must not undo a night's sweep."""
    import nbformat

    cells = nbformat.read(notebook, 4).cells
    return hash_of([cell.source for cell in cells if cell.cell_type == "code"])


def _grid_as_words(grid: Mapping[str, Any], points: dict[str, Point]) -> list[str]:
    words = []
    for name in grid:
        values = dict.fromkeys(json.dumps(point[name]) for point in points.values())
        words.append(f"{name}={','.join(values)}")
    return words


def _unfinished_tasks(
    notebook: Path,
    out: Path,
    points: dict[str, Point],
    parameters: dict[str, Any],
    threads: int,
) -> list[Task]:
    tasks = []
    for name, point in points.items():
        folder = out / "points" / name
        if read_object(folder / "status.json").get("status") == "done":
            continue
        changes = notebook_parameters(point, parameters)
        task = Task(
            folder=str(folder),
            notebook=str(out / "notebook.ipynb"),
            cwd=str(notebook.parent),
            changes=changes,
            parameters=parameters | changes,
            threads=threads,
        )
        tasks.append(task)
    return tasks


# --------------------------------------------------------------------------------------- the points


def _run(tasks: list[Task], jobs: int, scheduler: str | None) -> None:
    """Run the tasks, here or on Dask's workers, with a bar; a failed one is named."""
    make_executor = _on_dask(scheduler) if scheduler and tasks else _here(jobs)
    with make_executor as (executor, processes):
        futures: dict[Future[dict[str, Any]], Task] = {}
        for task in tasks:
            arguments = (task,) if processes is None else (task, processes)
            futures[executor.submit(run_point, *arguments)] = task
        with tqdm(total=len(tasks)) as bar:
            for future in as_completed(futures):
                status = _status_of(future, futures[future])
                bar.update()
                if status["status"] == "failed":
                    bar.write(f"failed: {status['error']}", sys.stderr)


def _status_of(future: Future[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Return a point's status; where its worker died, write one that says so."""
    error = future.exception()
    if error is None:
        return future.result()
    status = {"status": "failed", "error": repr(error)}
    write_json(Path(task.folder, "status.json"), status)
    return status


@contextlib.contextmanager
def _here(jobs: int) -> Iterator[tuple[Executor, Processes | None]]:
    """Run `jobs` points at once in processes of this machine; when stopped, end them all."""
    processes = Processes()
    executor = ThreadPoolExecutor(jobs)  # a thread waits for each process
    try:
        yield executor, processes
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        processes.stop()
        executor.shutdown(wait=True)


@contextlib.contextmanager
def _on_dask(scheduler: str) -> Iterator[tuple[Executor, Processes | None]]:
    """Run points on the workers of a Dask scheduler."""
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ImportError("scheduler= needs Dask: pip install 'dask[distributed]'") from error
    with Client(scheduler) as client:
        yield client.get_executor(pure=False), None
