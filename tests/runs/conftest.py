"""The tiny run of stored_runs.py: finished, stopped, and copies of both to be damaged."""

import shutil
from pathlib import Path

import pytest
from stored_runs import (
    run_of,
    stop_after,
)

from simlab.methods.simsiam import SimSiamModule
from simlab.runs import Run


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Run:
    """The run, never stopped. Not to be changed."""
    return run_of(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A runs folder in which the run stopped after three of its four epochs. Not to be changed."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        run_of(folder, on_epoch=stop_after(3))
    return folder


@pytest.fixture
def half(stopped, tmp_path) -> Run:
    """A copy of the stopped run."""
    shutil.copytree(stopped, tmp_path / "half")
    return Run(next((tmp_path / "half").glob("pretrain-*")), {})


@pytest.fixture
def done(reference, tmp_path) -> Run:
    """A copy of the finished run."""
    shutil.copytree(reference.folder.parent, tmp_path / "done")
    return Run(tmp_path / "done" / reference.folder.name, {})


@pytest.fixture
def no_training(monkeypatch):
    """A step of training is an error."""
    monkeypatch.setattr(SimSiamModule, "loss", None)
