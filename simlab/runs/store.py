"""Where runs are kept, and how one of them is claimed by its configuration.

`claim` gives the run of a configuration with nobody else working on it; `runs_folder` says where
runs are kept; `save_metrics` stores the numbers of a notebook.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from simlab.compute import distributed
from simlab.config import PretrainConfig, TrainConfig

from .files import digest, name_in_errors, write_json
from .identity import code_digest, fields_that_count
from .run import Run


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
) -> Iterator[Run]:
    """Give the run of this configuration, with nobody else working on it.

    Another process that works on the same run is waited for; the lock of a process that died is
    free at once. Of the processes that torchrun started the first has the lock and writes, for all
    of them; it heeds `fresh` when they start, and not when they are restarted because one had died.

    Args:
        kind: What the run does, the first part of its folder's name.
        config: Resolved, so that no choice is left open.
        extra: What else decides the result: the digests of the dataset, and of a method, an
            augmentation and an encoder of the user's; empty where there is none.
        folder: Where runs are kept; empty: `runs_folder()`.
        fresh: Delete what is stored of this run.

    Yields:
        The run, its folder prepared.
    """
    code = code_digest(_method_of_simlab(config, extra))
    identity = {"kind": kind, "config": fields_that_count(config), "code": code, **extra}
    name = f"{kind}-{digest(json.dumps(identity, sort_keys=True).encode())[:12]}"
    home = Path(folder or runs_folder())
    if distributed.rank() > 0:
        yield Run(home / name, identity, read_only=True)
        return
    with _lock(home, name):
        run = Run(home / name, identity)
        if fresh and not distributed.restarted() and run.folder.exists():
            shutil.rmtree(run.folder)
        run.prepare()
        yield run


def _method_of_simlab(config: TrainConfig, extra: dict[str, Any]) -> str:
    """Return the name of the method in use; empty where it is one of the user's."""
    if extra.get("method"):  # the digest of its source, which only a user's has
        return ""
    if isinstance(config, PretrainConfig):
        return config.method.split()[0]
    return "supervised"


def _lock(home: Path, name: str) -> contextlib.AbstractContextManager[object]:
    """Take the lock of a run; where another process has it, say so and wait."""
    lock = filelock.FileLock(home / f".{name}.lock")
    with name_in_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"another process is working on {home / name}; waiting for it", flush=True)
            return lock.acquire()


def save_metrics(name: str, metrics: dict[str, Any]) -> Path:
    """Store a notebook's numbers as metrics.json in the folder of its output.

    That folder is $SIMLAB_OUT where a sweep or `make run` has set it, else runs/book/<name>.
    """
    folder = os.environ.get("SIMLAB_OUT") or runs_folder() / "book" / name
    path = Path(folder, "metrics.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, metrics)
    return path
