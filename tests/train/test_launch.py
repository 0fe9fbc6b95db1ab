"""Several processes are started from a notebook, and stopped."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from distributed_runs import HEADS, ROOT, SMALL, save_images

from simlab.config import PretrainConfig
from simlab.train import pretrain
from simlab.train.launch import flags_of, launch


def test_flags_say_what_differs_from_the_defaults():
    config = PretrainConfig(
        epochs=3, method="simclr proj_dim=8", sim_layers="blocks.*", download=True
    )
    assert flags_of(PretrainConfig()) == []
    assert flags_of(config) == [
        "--download", "--epochs", "3", "--sim-layers", "blocks.*", "--method", "simclr proj_dim=8",
    ]  # fmt: skip


@pytest.mark.parametrize("processes", [0, -1, 1.0, "2", True, None])
def test_a_number_of_processes_that_makes_no_sense_is_refused(processes):
    with pytest.raises(ValueError, match=f"^processes={processes!r}: expected a whole number"):
        launch(PretrainConfig(), processes)


@pytest.mark.distributed
def test_a_notebook_starts_processes_sees_their_progress_and_gets_their_run(tmp_path, capsys):
    save_images(tmp_path / "images")
    changes = {"data": str(tmp_path / "images"), "epochs": 1, "batch_size": 500, "accumulate": 4}
    config = PretrainConfig(**SMALL | HEADS | changes)
    with pytest.warns(UserWarning, match="batch_size=500 is more than the 5. images to train on"):
        run = launch(config, 2, folder=str(tmp_path / "runs"))
    assert run.config["batch_size"] == 48, "8 parts; one process alone would take 52"
    assert run.finished and run.result["environment"]["processes"] == 2
    assert not run.encoder.training
    assert len(list((tmp_path / "runs").glob("*/config.json"))) == 1, "one process finds it"
    assert "images" in capsys.readouterr().err, "the first process' bar"
    odd = {"data": config.data, "batch_size": 15, "accumulate": 2}
    with pytest.raises(RuntimeError, match=r"batch_size=15 can't be cut into 2 .* x 1"):
        wrong = PretrainConfig(**SMALL | HEADS | odd)
        launch(wrong, 1, folder=str(tmp_path / "runs"), restarts=0)


@pytest.mark.distributed
def test_stopping_the_notebook_stops_its_processes_and_the_same_cell_goes_on(tmp_path):
    save_images(tmp_path / "images")
    runs, many = tmp_path / "runs", 40
    # a job in the background inherits that Ctrl-C is ignored; a kernel hears it
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from distributed_runs import *
from simlab.train.launch import launch
config = PretrainConfig(**SMALL | HEADS | {{"data": {str(tmp_path / "images")!r}, "epochs": {many}}})
launch(config, 2, folder={str(runs)!r})"""
    kernel = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    pattern = "*/checkpoints/epoch-*.pt"
    while not (checkpoints := list(runs.glob(pattern))) and time.monotonic() < until:
        assert kernel.poll() is None
        time.sleep(0.1)
    children = psutil.Process(kernel.pid).children(recursive=True)
    kernel.send_signal(signal.SIGINT)
    assert kernel.wait(timeout=120) != 0 and checkpoints and len(children) >= 3
    assert not psutil.wait_procs(children, timeout=60)[1], "nobody is left"
    config = PretrainConfig(**SMALL | HEADS | {"data": str(tmp_path / "images"), "epochs": many})
    run = pretrain(config, folder=str(runs), progress=False)
    log = (run.folder / "train.log").read_text()
    assert run.finished and re.search(r"resumes after epoch \d", log)
