"""Where runs are kept, and how one of them is claimed by its configuration.

`claim` gives the run of a configuration with nobody else working on it; `runs_folder` says where
runs are kept; `save_metrics` stores the numbers of a notebook.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from simlab._checks import near
from simlab.compute import distributed
from simlab.config import PretrainConfig, TrainConfig

from .files import name_in_errors, write_json
from .identity import code_digest, fields_that_count, run_name
from .neighbours import folder_of, nearest
from .reuse import ALLOWED, ENDLESS, continue_from
from .run import Run
from .sources import simlab_version

# how a file system says that it has no locks
WITHOUT_LOCKS = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS}


def runs_folder() -> Path:
    """Return where runs are kept: $SIMLAB_RUNS (~ is the user's home), else runs/ in the checkout.

    An installed package has no checkout, and keeps them in runs/ right here.
    """
    checkout = Path(__file__).parents[2]
    is_checkout = (checkout / "pyproject.toml").exists()
    home = checkout if is_checkout else Path.cwd()
    return Path(os.environ.get("SIMLAB_RUNS") or home / "runs").expanduser()


@contextlib.contextmanager
def claim(
    kind: str,
    config: TrainConfig,
    extra: dict[str, Any],
    folder: str | Path = "",
    fresh: bool = False,
    reuse: str | Path = "",
) -> Iterator[Run]:
    """Give the run of this configuration, with nobody else working on it.

    Another process that works on the same run is waited for; the lock of a process that died is
    free at once. Of the processes that torchrun started the first has the lock and writes, for all
    of them; it heeds `fresh` when they start, and not when they are restarted because one had died.

    A line tells of a run that is stored already, and names a neighbour of a new one.

    Args:
        kind: What the run does, the first part of its name.
        config: Resolved, so that no choice is left open.
        extra: What else decides the result: the digests of the dataset, and of a method, an
            augmentation and an encoder of the user's; empty where there is none.
        folder: Where runs are kept; empty: `runs_folder()`.
        fresh: Delete what is stored of this run.
        reuse: A stored run from which a new one goes on, by its folder or name; see `reuse`.

    Yields:
        The run, its folder prepared.
    """
    code = code_digest(_method_of_simlab(config, extra))
    identity = {"kind": kind, "config": fields_that_count(config), "code": code, **extra}
    name = run_name(identity)
    identity = {"name": name, "simlab": simlab_version(), **identity}
    home = Path(folder or runs_folder())
    if distributed.rank() > 0:
        yield Run(folder_of(home, name), identity, read_only=True)
        return
    with _lock(home, name):
        run = Run(folder_of(home, name), identity)
        if fresh and not distributed.restarted() and run.folder.exists():
            shutil.rmtree(run.folder)
        is_new = not (run.folder / "config.json").exists()
        if is_new and reuse:
            continue_from(run, find_folder(reuse, home))
        elif is_new:
            _name_a_neighbour(run, home)
        run.prepare()
        if not is_new:
            _announce(run)
        yield run


def _announce(run: Run) -> None:
    """Say in a line that a run is stored: when it was trained, and where it lies."""
    if run.finished:
        when = run.result.get("finished", "an unknown day")
        print(f"loads {run.folder}, trained on {when} (fresh=True trains it anew)", flush=True)
    elif run.checkpoint_paths():
        print(f"resumes {run.folder} after epoch {max(run.checkpoint_paths())}", flush=True)


def _name_a_neighbour(run: Run, home: Path) -> None:
    """Say in a line which stored run a new one nearly is, and what differs."""
    neighbour = nearest(home, run.identity)
    if neighbour is None:
        return
    folder, words = neighbour
    line = f"new run {run.name}, like {folder.name} but for: {', '.join(words.values())}"
    is_longer = "epochs" not in words or run.config["schedule"] in ENDLESS
    if set(words) <= ALLOWED and is_longer:
        line += f'; reuse="{folder.name}" (--continue {folder.name}) goes on from it'
    print(line, flush=True)


def find_folder(name: str | Path, home: Path | None = None) -> Path:
    """Return the folder of a stored run.

    Args:
        name: The folder, or the run's name: the one that it got, or that it was renamed to.
        home: Where runs are kept; None: `runs_folder()`.

    Raises:
        FileNotFoundError: There is no such run; the message names the nearest one.
    """
    home = home or runs_folder()
    folder = Path(name).expanduser()
    if (folder / "config.json").exists():
        return folder
    folder = folder_of(home, str(name))
    if (folder / "config.json").exists():
        return folder
    names = [path.parent.name for path in home.glob("*/config.json")]
    raise FileNotFoundError(
        f"there is no run {name}, neither here nor in {home}{near(name, names)}"
    )


def _method_of_simlab(config: TrainConfig, extra: dict[str, Any]) -> str:
    """Return the name of the method in use; empty where it is one of the user's."""
    if extra.get("method"):  # the digest of its source, which only a user's has
        return ""
    if isinstance(config, PretrainConfig):
        return config.method.split()[0]
    return "supervised"


@contextlib.contextmanager
def _lock(home: Path, name: str) -> Iterator[None]:
    """Hold the lock of a run; where another process has it, say so and wait."""
    with _runs_folder_in_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        lock = _acquire(home / f".{name}.lock", home / name)
    with lock:
        yield


def _acquire(path: Path, run: Path) -> contextlib.AbstractContextManager[object]:
    try:
        return _wait_for(filelock.FileLock(path), run)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    # a file that is there or not: after a kill it stays, and has to be deleted by hand
    print(f"{path.parent} has no file locks; {path} stands for one", flush=True)
    return _wait_for(filelock.SoftFileLock(path), run)


def _wait_for(lock: filelock.BaseFileLock, run: Path) -> contextlib.AbstractContextManager[object]:
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"another process is working on {run}; waiting for it", flush=True)
        return lock.acquire()


@contextlib.contextmanager
def _runs_folder_in_errors(home: Path) -> Iterator[None]:
    """Let an error of the file system say where runs are kept, and how that is changed."""
    try:
        with name_in_errors(home):
            yield
    except OSError as error:
        hint = "; runs are kept elsewhere with SIMLAB_RUNS=/some/folder"
        raise OSError(error.errno, f"{error.strerror}{hint}") from error


def save_metrics(name: str, metrics: dict[str, Any]) -> Path:
    """Store a notebook's numbers as metrics.json in the folder of its output.

    That folder is $SIMLAB_OUT where a sweep or `make run` has set it, else runs/book/<name>.
    """
    folder = os.environ.get("SIMLAB_OUT") or runs_folder() / "book" / name
    path = Path(folder, "metrics.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, metrics)
    return path
