"""The notebooks run where there is no browser. Where there is one, test_browser.py runs the same."""

import os
import subprocess
import sys

import browser
import lessons
import pytest

pytestmark = [
    pytest.mark.notebook,
    pytest.mark.skipif(browser.RUNS, reason="test_browser.py runs the notebooks here"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The notebooks with parameters of seconds, beside their runs."""
    home = tmp_path_factory.mktemp("lessons")
    lessons.prepare(home)
    return home


@pytest.mark.parametrize("path", lessons.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(path, home):
    words = [
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=1200",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *words, path.name], cwd=home, text=True,
        capture_output=True, env={**os.environ, "SIMLAB_RUNS": str(home / "runs")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    assert (home / "runs" / "book" / path.stem / "metrics.json").exists() == bool(
        path.stem[:2] != "00"
    )
