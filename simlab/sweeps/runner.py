"""Sweeps: a grid in; many runs, and one table out.

    simlab sweep pretrain lr=.03,.1 seed=0:5 --out DIR --jobs 2
    simlab sweep NOTEBOOK.ipynb epochs=5,10 seed=0:3 --out DIR

or `sweep("pretrain", {"lr": [0.03, 0.1], "seed": range(5)}, out="DIR", jobs=2)`. `pretrain` and
`supervised` are the commands of that name: a parameter is a field of the configuration, and the
metrics are the last row of the run's history.

What a notebook does for it: one code cell tagged `parameters`, one literal a line
(`epochs: int = 5  # passes`), and at its end `metrics.json`, one JSON object, in the folder
`os.environ.get("SIMLAB_OUT", ".")`. It runs in its own folder, in this interpreter's kernel.

DIR holds `sweep.json` (the plan), `table.csv`, of a notebook the copy that runs and, in
`points/NAME/`, parameters.json, metrics.json, log and, written last, status.json: a point without
it is half done and runs again, as a failed one does; a finished one never.
"""

import contextlib
import json
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from simlab.runs import write_bytes, write_json

from .grid import Point, grid_points, notebook_parameters
from .launchers import Launcher, here, on_dask, printed, say
from .point import Task, environment_of, read_object, versions
from .programs import Program, find_program
from .slurm import slurm_script
from .table import collect


def sweep(
    program: str | Path,
    grid: Mapping[str, Any],
    out: str | Path,
    jobs: int = 1,
    threads: int = 1,
    dry_run: bool = False,
    scheduler: Any = None,
    slurm: str = "",
    *,
    recipe: str = "",
    callbacks: Sequence[str] = (),
) -> pd.DataFrame:
    """Run a training command or a notebook at every point of a grid. What is finished stays.

    A failed point is a row of the table and stops no other.

    Args:
        program: "pretrain", "supervised", or a notebook's file.
        grid: By name a list, tuple or range of a parameter's values; anything else is one value.
        out: The sweep's folder.
        jobs: Number of points at once, each in a process of its own. Where there are GPUs each
            point sees one of them.
        threads: Threads of each process.
        dry_run: Start nothing: write the plan, and print shell commands, one a line, for what is
            left.
        scheduler: A Dask scheduler, by its address or as a Client: run on its workers, which must
            see the same files, as many at once as they have threads.
        slurm: Start nothing: write a script for `sbatch` with these options, such as
            "partition=gpu,gres=gpu:1,time=2:00:00", for what is left.
        recipe: A published configuration that "pretrain" starts from.
        callbacks: Of a training command, by name: "tensorboard", or "module:Class".

    Returns:
        These points' rows of `collect(out)`.

    Raises:
        ValueError: The grid is wrong, or what runs has changed since `out` was begun.
        TypeError: A value has another type than the parameter's default.
        RuntimeError: Another sweep works in `out`, or no scheduler answers. Nothing has started
            after any of these.
    """
    out = Path(out).resolve()
    if any(type(number) is not int or number < 1 for number in (jobs, threads)):
        raise ValueError(f"jobs={jobs!r}, threads={threads!r}: expected integers from 1 on")
    what_runs = find_program(program, recipe, callbacks)
    points = grid_points(grid, what_runs.parameters)
    for point in points.values():
        what_runs.check(notebook_parameters(point, what_runs.parameters))
    with _launcher(out, jobs, threads, dry_run, scheduler, slurm) as launch:
        (out / "points").mkdir(parents=True, exist_ok=True)
        with _alone_in(out):
            _write_plan(what_runs, out, grid, points, jobs, threads)
            tasks = _unfinished_tasks(what_runs, out, points, threads)
            if not dry_run:
                say(f"{len(points)} points, {len(tasks)} to run: {out}")
            launch(tasks)
            table = collect(out)
            write_bytes(out / "table.csv", table.to_csv(index=False).encode())
    return table[table["point"].isin(points)].reset_index(drop=True)


def _launcher(
    out: Path, jobs: int, threads: int, dry_run: bool, scheduler: Any, slurm: str
) -> Launcher:
    """Choose where the points run."""
    ways = {"dry_run": bool(dry_run), "scheduler": bool(scheduler), "slurm": bool(slurm)}
    chosen = [name for name, is_chosen in ways.items() if is_chosen]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)}: expected one of them")
    if dry_run:
        return printed()
    if scheduler:
        return on_dask(scheduler)
    if slurm:
        return slurm_script(out, slurm, jobs, threads)
    return here(jobs, threads)


def _alone_in(out: Path) -> contextlib.AbstractContextManager[object]:
    try:
        return filelock.FileLock(out / ".lock").acquire(timeout=0)
    except filelock.Timeout:
        raise RuntimeError(f"another sweep is working in {out}") from None


def _write_plan(
    program: Program,
    out: Path,
    grid: Mapping[str, Any],
    points: dict[str, Point],
    jobs: int,
    threads: int,
) -> None:
    """Write sweep.json, and keep what runs; points of earlier calls stay in the plan."""
    plan = read_object(out / "sweep.json")
    begun = plan.get("program", plan.get("notebook", program.name))  # the older name of the key
    if begun != program.name:
        raise ValueError(f"{out} is a sweep of {begun}: take another folder")
    if plan.get("digest", program.digest) != program.digest:
        raise ValueError(
            f"the code or the recipe of {program.name} changed since {out} was begun: take another "
            "folder, or remove this one"
        )
    current = versions()
    if plan.get("versions", current) != current:
        warnings.warn(f"{out} was begun with other versions: {plan['versions']}", stacklevel=3)
    words = _grid_as_words(grid, points)
    numbers = ["--jobs", str(jobs), "--threads", str(threads)]
    command = ["simlab", "sweep", program.name, *words, "--out", out.name]
    text = shlex.join([*command, *program.options, *numbers])
    program.keep(out)
    content = {
        "program": program.name,
        "digest": program.digest,
        "grid": words,
        "versions": current,
        "command": text,
        "commands": list(dict.fromkeys([*plan.get("commands", []), text])),
        "defaults": program.parameters,
        "points": plan.get("points", {}) | points,
    }
    write_json(out / "sweep.json", content)


def _grid_as_words(grid: Mapping[str, Any], points: dict[str, Point]) -> list[str]:
    words = []
    for name in grid:
        values = dict.fromkeys(json.dumps(point[name]) for point in points.values())
        words.append(f"{name}={','.join(values)}")
    return words


def _unfinished_tasks(
    program: Program, out: Path, points: dict[str, Point], threads: int
) -> list[Task]:
    tasks = []
    for name, point in points.items():
        folder = out / "points" / name
        if read_object(folder / "status.json").get("status") == "done":
            continue
        changes = notebook_parameters(point, program.parameters)
        task = Task(
            folder=str(folder),
            module=program.module,
            arguments=program.arguments(out, folder, changes),
            cwd=program.cwd,
            parameters=program.parameters | changes,
            environment=environment_of(folder, threads),
        )
        tasks.append(task)
    return tasks
