"""What the first cell installs: what is missing or too old, and nothing else."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from simlab_course import packages

ROOT = Path(__file__).parents[2]
COLAB = {  # as Colab had them in August 2026; it has no tyro
    "torch": "2.11.0+cpu", "torchvision": "0.26.0+cpu", "numpy": "2.1.3", "pandas": "2.2.3",
    "scikit-learn": "1.6.1", "scipy": "1.16.3", "matplotlib": "3.10.0", "pillow": "11.3.0",
    "tqdm": "4.67.3", "filelock": "3.32.3", "psutil": "5.9.5", "ipywidgets": "7.7.1",
}  # fmt: skip


def installs(monkeypatch, versions, code=0):
    """What pip is asked for where these versions are there."""
    commands = []

    def run(words):
        commands.append(words)
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(packages, "installed_version", lambda name: versions.get(name, ""))
    monkeypatch.setattr(subprocess, "run", run)
    packages.install_missing()
    return commands


def test_in_colab_only_what_it_lacks_is_installed(monkeypatch, capsys):
    (words,) = installs(monkeypatch, COLAB)
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[5:] == ["tyro>=0.9"]
    assert "restart" not in capsys.readouterr().out
    assert not installs(monkeypatch, COLAB | {"tyro": "1.0"}), "the second time nothing is"


def test_what_is_too_old_is_lifted_and_the_kernel_has_to_start_anew(monkeypatch, capsys):
    (words,) = installs(monkeypatch, COLAB | {"tyro": "1.0", "pandas": "1.5.3"})
    assert words[5:] == ["pandas>=2.2"]
    assert "restart the kernel" in capsys.readouterr().out


def test_a_failed_installation_says_what_to_install(monkeypatch):
    with pytest.raises(RuntimeError, match='pip install "tyro>=0.9"'):
        installs(monkeypatch, COLAB, code=1)


def test_an_installed_wheel_lacks_the_widgets_at_most(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "PYPROJECT", tmp_path / "pyproject.toml")
    assert packages.requirements() == [packages.WIDGETS]


def test_everything_is_there_where_these_tests_run():
    assert [need for need in packages.requirements() if not packages.is_installed(need)] == []
    assert not packages.is_installed("no-such-package>=0.1")
    assert not packages.is_installed("torch>=99.0") and packages.is_installed("torch>=2.6")


def test_what_the_first_cell_runs_needs_nothing_installed():
    code = "import sys, simlab_course.packages as p; print(p.requirements()[0])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("torch>="), done.stderr
