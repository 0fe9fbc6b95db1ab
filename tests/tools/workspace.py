"""Run tests in a copy of a checkout, so that the working tree stays as it is."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from suites import Suite

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
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(self.root),
            "TMPDIR": str(self.scratch),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self.scratch / "hypothesis"),
        }
        log = self.scratch / "log.txt"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--tb=line",
            "-rfE",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:nbval",  # no notebook is run here, and its import takes seconds
            *arguments,
        ]
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = None
        return status, log.read_text(errors="replace")

    def write(self, path: str, source: bytes) -> None:
        """Replace a source file, and forget what was compiled from it."""
        file = self.root / path
        file.write_bytes(source)
        Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
