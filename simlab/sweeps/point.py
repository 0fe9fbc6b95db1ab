"""One point of a sweep: its process, its status, and the shell command that does the same."""

import contextlib
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from simlab.runs import code_digest, read_json, write_json

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
PLACES = ("SIMLAB_RUNS", "SIMLAB_DATA")  # another machine's points shall find the same ones
LONGEST_TRACEBACK = 20_000  # characters of a failed point's log that its status keeps


@dataclass(frozen=True)
class Task:
    """What a process, here or on another machine, needs to know to run one point.

    Attributes:
        folder: The point's folder.
        module: Of `python -m`: papermill or simlab.
        arguments: The words behind it.
        cwd: The folder in which it runs.
        parameters: All parameters.
        environment: Variables that its process gets beside those of whoever starts it.
    """

    folder: str
    module: str
    arguments: list[str]
    cwd: str
    parameters: dict[str, Any]
    environment: dict[str, str]

    @property
    def name(self) -> str:
        """The point's name."""
        return Path(self.folder).name


class Processes:
    """The processes of the points that run here: all end when the sweep is stopped."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self.stopped = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Remember a process; where everything is being stopped, end it at once."""
        with self._lock:
            self._running.append(process)
            if self.stopped:
                _end_input(process)

    def stop(self) -> None:
        """End them all: each one watches its standard input."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                _end_input(process)


def run_point(task: Task, processes: Processes | None = None) -> dict[str, Any]:
    """Run one point in a process of its own, here or on another machine.

    Args:
        task: The point.
        processes: Where its process is remembered, if somebody may want to stop it.

    Returns:
        The point's status, as its status.json has it. A point that was stopped has none stored.
    """
    started = time.time()
    process = start_process(task)
    if processes:
        processes.add(process)
    exit_code = process.wait()
    _end_input(process)
    if processes and processes.stopped:
        return {"status": "unfinished", "error": "stopped"}
    folder = Path(task.folder)
    log = (folder / "log").read_text("utf-8", errors="replace").strip()
    error = _error_of(exit_code, folder, log)
    status = {
        "status": "failed" if error else "done",
        "error": error,
        "traceback": log[-LONGEST_TRACEBACK:] if error else None,
        "duration": time.time() - started,
        "started": started,
        "threads": int(task.environment["OMP_NUM_THREADS"]),
        "versions": versions(),
    }
    write_json(folder / "status.json", status)
    return status


def start_process(task: Task) -> subprocess.Popen[bytes]:
    """Start a process for one point, which locks it as long as it lives."""
    folder = Path(task.folder)
    lock = folder.parents[1] / f".{folder.name}.lock"
    with filelock.FileLock(lock, timeout=30):  # a worker whose sweep was killed may be at it
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()  # and not its parents: a worker must see the sweep's own folder
        write_json(folder / "parameters.json", task.parameters)
    script = Path(__file__).with_name("point_process.py")
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, str(script), str(lock), task.module, *task.arguments],
            cwd=task.cwd,
            env=os.environ | task.environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )


def _end_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        process.stdin.close()


def _error_of(exit_code: int, folder: Path, log: str) -> str | None:
    if exit_code:
        last_line = log.splitlines()[-1] if log else "it said nothing"
        return f"{last_line} (exit code {exit_code})"
    if not read_object(folder / "metrics.json"):
        return "it wrote no metrics.json, a JSON object, to $SIMLAB_OUT"
    return None


def environment_of(folder: Path, threads: int) -> dict[str, str]:
    """Return the variables of a point's process, wherever it runs.

    Args:
        folder: The point's folder.
        threads: Threads of the process.
    """
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    variables["SIMLAB_OUT"] = str(folder)
    # of several kernels that are called python3 this interpreter's
    variables["JUPYTER_PREFER_ENV_PATH"] = "1"
    for name in PLACES:
        if name in os.environ:
            variables[name] = os.environ[name]
    return variables


def shell_command(task: Task) -> str:
    """Return a line for bash that does what `run_point` does, and leaves the shortest status."""
    environment = [f"{name}={shlex.quote(value)}" for name, value in task.environment.items()]
    words = shlex.join([sys.executable, "-m", task.module, *task.arguments])
    folder = shlex.quote(task.folder)
    return (
        f"mkdir -p {folder} && cd {shlex.quote(task.cwd)} && {' '.join(environment)} {words} && "
        f'test -s {folder}/metrics.json && echo \'{{"status": "done"}}\' > {folder}/status.json'
    )


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "papermill")}
    return {"python": sys.version.split()[0], "code": code_digest(), **packages}


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} where there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        content = read_json(path)
        return content if isinstance(content, dict) else {}
    return {}
