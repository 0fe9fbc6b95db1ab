"""Sweeps: a strict, small front end to papermill; a grid in, executed notebooks and one table out.

    simlab sweep NOTEBOOK.ipynb epochs=5,10 lr=0.03,0.1 seed=0:3 --out DIR --jobs 2

or ``sweep("NOTEBOOK.ipynb", {"epochs": [5, 10], "seed": range(3)}, out="DIR", jobs=2)``.

What a notebook does for it: one code cell tagged ``parameters``, one literal a line
(``epochs: int = 5  # passes``), and at its end ``metrics.json``, one JSON object, in the folder
``os.environ.get("SIMLAB_OUT", ".")``. It runs in its own folder, in this interpreter's kernel.

DIR holds ``sweep.json`` (the plan), ``notebook.ipynb`` (the copy that runs), ``table.csv`` and, in
``points/NAME/``, parameters.json, notebook.ipynb, metrics.json, log and, written last, status.json:
a point without it is half done and runs again, as a failed one does; a finished one never.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import nbformat
import pandas as pd
import yaml
from tqdm.auto import tqdm

from simlab._names import near
from simlab.runs.identity import code_digest
from simlab.runs.run import read_json, write_bytes, write_json

from .grid import COLUMNS, grid_points, hash_of, papermill_path, parse_grid, read_parameters

# A point's process: papermill, but it and its kernel are killed when standard input ends, so when
# the parent is gone; until then it holds the point's lock. Without the second line a grammar of
# jsonschema's takes 2.4 s of every start.
POINT = """
import os, sys, threading
sys.modules["rfc3987_syntax"] = None
import filelock, psutil
lock = filelock.FileLock(sys.argv.pop(1))
lock.acquire(timeout=30)
def watch():
    os.read(0, 1)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
from papermill.cli import papermill
papermill()
"""


def _read(path: Path) -> dict:
    """A JSON object, {} where there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        data = read_json(path)
        return data if isinstance(data, dict) else {}
    return {}


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "papermill")}
    return {"python": sys.version.split()[0], "code": code_digest(), **packages}


def _environment(task: dict) -> dict[str, str]:
    names = [f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")]
    return {
        "SIMLAB_OUT": task["folder"],
        **dict.fromkeys(names, str(task["threads"])),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }  # of several kernels called python3 this interpreter's


def _arguments(task: dict) -> list[str]:
    """papermill's. The parameters are YAML by its own writer: -p makes 'true' a string, and JSON's
    1e-05 is a string to papermill's YAML."""
    style = {"default_flow_style": True, "width": math.inf, "sort_keys": False}
    text = yaml.safe_dump(task["point"], **style).strip()
    if "\n" in text:  # a line break inside a string
        text = yaml.safe_dump(task["point"], **style, default_style='"').strip()
    return [
        "--kernel",
        "python3",
        "--language",
        "python",
        "--no-progress-bar",
        "--cwd",
        task["cwd"],
        "-y",
        text,
        papermill_path(task["notebook"]),
        papermill_path(task["folder"] + "/notebook.ipynb"),
    ]


def _command(task: dict) -> str:
    """A line for bash that does what `run_point` does, and leaves a status as short as can be."""
    env = [f"{name}={shlex.quote(value)}" for name, value in _environment(task).items()]
    words = shlex.join([sys.executable, "-m", "papermill", *_arguments(task)])
    folder = shlex.quote(task["folder"])
    return (
        f"mkdir -p {folder} && {' '.join(env)} {words} && test -s {folder}/metrics.json && "
        f'echo \'{{"status": "done"}}\' > {folder}/status.json'
    )


def _start(task: dict) -> subprocess.Popen:
    """A process for one point, which locks it as long as it lives."""
    folder = Path(task["folder"])
    lock = folder.parents[1] / f".{folder.name}.lock"
    with filelock.FileLock(lock, timeout=30):  # a worker whose sweep was killed may be at it
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()  # and not its parents: a worker must see the sweep's own folder
        write_json(folder / "parameters.json", task["parameters"])
    task |= {"started": time.time(), "versions": _versions()}
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", POINT, str(lock), *_arguments(task)],
            cwd=folder,
            env=os.environ | _environment(task),
            stdout=log,
            stderr=log,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )


def _end(task: dict, process: subprocess.Popen) -> dict:
    """Wait for the process and write the point's status."""
    code, folder, error = process.wait(), Path(task["folder"]), None
    process.stdin.close()
    log = (folder / "log").read_text("utf-8", errors="replace").strip()
    if code:
        error = f"{log.splitlines()[-1] if log else 'no word'} (exit code {code})"
    elif not _read(folder / "metrics.json"):
        error = "the notebook wrote no metrics.json, a JSON object, to $SIMLAB_OUT"
    status = {
        "status": "failed" if error else "done",
        "error": error,
        "traceback": log[-20_000:] if error else None,
        "duration": time.time() - task["started"],
        **{key: task[key] for key in ("started", "threads", "versions")},
    }
    write_json(folder / "status.json", status)
    return status


def run_point(task: dict) -> dict:
    """Run one point in a process of its own, which is also what a Dask worker does; its status."""
    return _end(task, _start(task))


def _run_here(tasks: list[dict], jobs: int) -> Iterator[dict]:
    queue, running = tasks[::-1], []
    try:
        while queue or running:
            while queue and len(running) < jobs:
                running.append((queue[-1], _start(queue.pop())))
            for pair in [pair for pair in running if pair[1].poll() is not None]:
                running.remove(pair)
                yield _end(*pair)
            time.sleep(0.05)
    finally:
        for _, process in running:
            process.stdin.close()
            process.wait()


def _run_dask(tasks: list[dict], scheduler: str) -> Iterator[dict]:
    """On Dask's workers, which must see the same files; as many at once as they have threads."""
    try:
        from dask.distributed import Client, as_completed
    except ImportError as error:
        raise ImportError("scheduler= needs Dask: pip install 'simlab[cluster]'") from error
    with Client(scheduler) as client:
        futures = {client.submit(run_point, task, pure=False): task for task in tasks}
        for future in as_completed(futures):
            if future.status == "finished":
                yield future.result()
            else:  # its worker died
                state = {"status": "failed", "error": repr(future.exception())}
                write_json(Path(futures[future]["folder"], "status.json"), state)
                yield state


def sweep(
    notebook: str | Path,
    grid: Mapping[str, Any],
    out: str | Path,
    jobs: int = 1,
    threads: int = 1,
    dry_run: bool = False,
    scheduler: str | None = None,
) -> pd.DataFrame:
    """Run a notebook at every point of a grid; these points' rows of :func:`collect`.

    ``jobs`` points at once, each in its own process of ``threads`` threads, or on the workers of a
    Dask ``scheduler`` (its address). What is finished in ``out`` stays. ``dry_run`` starts nothing:
    it writes the plan, and prints shell commands, one a line, for what is left. A failed point is a
    row of the table and stops no other.

    Raises ValueError or TypeError for a wrong grid, or if the notebook's code changed since ``out``
    was begun, RuntimeError while another sweep works in ``out``; all before anything starts.
    """
    notebook, out = Path(notebook).resolve(), Path(out).resolve()
    if not notebook.is_file():
        names = [path.name for path in notebook.parent.glob("*.ipynb")]
        raise FileNotFoundError(f"no notebook {notebook}{near(notebook.name, names)}")
    if any(type(number) is not int or number < 1 for number in (jobs, threads)):
        raise ValueError(f"jobs={jobs!r}, threads={threads!r}: expected integers from 1 on")
    parameters, versions = read_parameters(notebook), _versions()
    points = grid_points(grid, parameters)
    # of the code alone, so that a corrected sentence does not undo a night's sweep
    code = hash_of([c.source for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"])
    (out / "points").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(out / ".lock", timeout=0))
        except filelock.Timeout:
            raise RuntimeError(f"another sweep is at work in {out}") from None
        plan = _read(out / "sweep.json")
        if plan.get("digest", code) != code:
            raise ValueError(
                f"the code of {notebook.name} changed since {out} was begun: take "
                "another folder, or remove this one"
            )
        if plan.get("versions", versions) != versions:
            warnings.warn(f"{out} was begun with other versions: {plan['versions']}", stacklevel=2)
        tasks = [
            {
                "folder": str(out / "points" / name),
                "notebook": str(out / "notebook.ipynb"),
                "cwd": str(notebook.parent),
                "point": point,
                "parameters": parameters | point,
                "threads": threads,
            }
            for name, point in points.items()
        ]
        left = [
            task
            for task in tasks
            if _read(Path(task["folder"], "status.json")).get("status") != "done"
        ]
        words = [
            f"{name}={','.join(dict.fromkeys(json.dumps(p[name]) for p in points.values()))}"
            for name in grid
        ]
        write_bytes(out / "notebook.ipynb", notebook.read_bytes())
        write_json(
            out / "sweep.json",
            {
                "notebook": notebook.name,
                "digest": code,
                "grid": words,
                "versions": versions,
                "command": shlex.join(
                    [
                        "simlab",
                        "sweep",
                        notebook.name,
                        *words,
                        "--out",
                        out.name,
                        "--jobs",
                        str(jobs),
                        "--threads",
                        str(threads),
                    ]
                ),
                "defaults": parameters,
                "points": plan.get("points", {}) | points,
            },
        )
        if dry_run:
            print("\n".join(map(_command, left)))
        else:
            print(
                f"{len(points)} points, {len(left)} to run, {jobs} at once with {threads} "
                f"thread(s) each: {out}",
                file=sys.stderr,
            )
            runs = _run_dask(left, scheduler) if scheduler and left else _run_here(left, jobs)
            with contextlib.closing(runs), tqdm(runs, total=len(left)) as bar:
                for state in bar:
                    if state["status"] == "failed":
                        bar.write(f"failed: {state['error']}", sys.stderr)
        table = collect(out)
        write_bytes(out / "table.csv", table.to_csv(index=False).encode())
    return table[table["point"].isin(points)].reset_index(drop=True)


def collect(folder: str | Path) -> pd.DataFrame:
    """A row a planned point: point, all parameters, metrics, status, duration (s), error, version.*

    Status is done, failed or unfinished; metrics count only where it is done. Nested metrics get
    dotted names, one named like a parameter is ``metric.NAME``. FileNotFoundError without a sweep.
    """
    plan = _read(Path(folder, "sweep.json"))
    if not plan:
        raise FileNotFoundError(f"{folder} holds no sweep: no sweep.json in it")
    heads, metrics, states = [], [], []
    for name, point in plan["points"].items():
        path = Path(folder, "points", name)
        state = {"status": "unfinished"} | _read(path / "status.json")
        if state == {"status": "done"}:  # by a command of the dry run: papermill knows how long
            run = _read(path / "notebook.ipynb")["metadata"]["papermill"]
            state |= {"duration": run["duration"], "versions": {"papermill": run["version"]}}
        versions = {f"version.{key}": value for key, value in state.get("versions", {}).items()}
        heads.append({"point": name} | plan["defaults"] | point)
        metrics.append(_read(path / "metrics.json") if state["status"] == "done" else {})
        states.append({key: state.get(key) for key in COLUMNS[1:]} | versions)
    taken = {*heads[0], *COLUMNS}
    flat = pd.json_normalize(metrics).rename(
        columns=lambda name: f"metric.{name}" if name in taken else name
    )
    return pd.concat([pd.DataFrame(heads), flat, pd.DataFrame(states)], axis=1)


def main(argv: list[str] | None = None) -> int:
    """``simlab sweep``: 0 if every point is done, 1 if not, 2 if refused.

    Stopped by ctrl-c, the command ends with 130 (in ``__main__``).
    """
    parser = argparse.ArgumentParser(
        "simlab sweep",
        description="Run a notebook over a grid.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("notebook", help="the notebook's file")
    parser.add_argument("grid", nargs="+", metavar="name=values", help="epochs=5,10 seed=0:3")
    parser.add_argument(
        "--out", required=True, default=argparse.SUPPRESS, help="the sweep's folder (required)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="points at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of each point")
    parser.add_argument("--dry-run", action="store_true", help="print a command a line instead")
    parser.add_argument("--scheduler", metavar="tcp://...", help="run on Dask's workers")
    args = parser.parse_intermixed_args(argv)
    try:
        if Path(args.notebook).is_file():  # else sweep says what there is
            args.grid = parse_grid(args.grid, read_parameters(args.notebook))
        table = sweep(**vars(args))
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"simlab sweep: {error}", file=sys.stderr)
        return 2
    if not args.dry_run:
        print(table[[name for name in table if not name.startswith("version.")]].to_string())
    return int(not args.dry_run and (table["status"] != "done").any())
