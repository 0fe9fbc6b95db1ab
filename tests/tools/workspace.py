"""Run tests in a copy of a checkout, so that the working tree stays as it is."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from suites import Suite, imported_names, parse

FORK = multiprocessing.get_context("fork")
SKIPPED_ANYWHERE = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"
)
SKIPPED_AT = ("runs", "data/downloads")  # folders of a checkout that may be large; see .gitignore


def copy(source: Path, target: Path, root: Path) -> None:
    """Copy a folder of a checkout without what git ignores."""

    def skipped(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(root)
        large = {name for name in names if (inside / name).as_posix() in SKIPPED_AT}
        return SKIPPED_ANYWHERE(folder, names) | large

    shutil.copytree(source, target, ignore=skipped)


class Workspace:
    """A copy of a suite's checkout that holds the package of this one."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self.root = folder / "checkout"
        self.scratch = folder / "scratch"
        copy(suite.root, self.root, suite.root)
        origin = suite.package.root
        if suite.root == origin:
            return
        for path in suite.package.folders:
            target = self.root / path.relative_to(origin)
            shutil.rmtree(target, ignore_errors=True)
            copy(path, target, origin)

    def pytest(self, *arguments: str, timeout: float | None = None) -> tuple[int | None, str]:
        """Run pytest in the copy, on one thread.

        Returns:
            The exit status, None where the time ran out, and the output.
        """
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        log = self.scratch / "log.txt"
        process = FORK.Process(target=run_pytest, args=(self.root, log, arguments))
        process.start()
        process.join(timeout)
        status = process.exitcode
        if status is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        return status, log.read_text(errors="replace")

    def write(self, path: str, source: bytes) -> None:
        """Replace a source file, and forget what was compiled from it."""
        file = self.root / path
        file.write_bytes(source)
        Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)


def preload(*suites: Suite) -> None:
    """Import the libraries that the package and the tests use, once for all processes to come.

    Importing them takes longer than most tests. pytest itself, and what it must see being imported,
    are left to the processes, and so is all that is in the checkout.
    """
    local, libraries = {"pytest", "hypothesis"}, set()
    for suite in suites:
        local |= {*suite.package.roots, *suite.helpers}
        for path in [*suite.package.files.values(), *suite.files]:
            libraries |= imported_names(parse(path))
    for name in sorted(libraries):
        if name.split(".")[0] not in local:
            with contextlib.suppress(Exception):  # an optional library that is not here
                importlib.import_module(name)


def run_pytest(root: Path, log: Path, arguments: Sequence[str]) -> NoReturn:
    """Become pytest: what a forked process does, in a session of its own."""
    os.setsid()
    os.chdir(root)
    with log.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ["PYTHONPATH"] = str(root)
    os.environ["TMPDIR"] = str(log.parent)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(log.parent / "hypothesis")
    tempfile.tempdir = None
    sys.path[0] = str(root)  # instead of these tools
    import pytest

    options = ["-q", "--tb=line", "-rfE", "-p", "no:cacheprovider"]
    options += ["-p", "no:nbval"]  # no notebook is run here, and importing it takes seconds
    status = pytest.main([*options, *arguments])
    sys.stdout.flush()
    os._exit(status)  # what this program would do at its end is not the tests' business
