"""A run that was stopped or killed goes on bit for bit."""

import os
import signal

import pytest
import torch
from stored_runs import (
    METHOD,
    SHARED,
    config_of,
    finish,
    flat,
    outcome,
    random_data,
    run_of,
    same,
    start,
    stop_after,
    wait,
)

from simlab.config import SupervisedConfig
from simlab.methods.simsiam import SimSiamModule
from simlab.runs import Run
from simlab.runs import run as runs
from simlab.train import train_supervised


@pytest.mark.long
def test_killed_in_an_epoch_one_that_waited_goes_on_bit_for_bit_and_the_other_loads(
    reference, tmp_path
):
    folder, mark = tmp_path / "runs", tmp_path / "mark"
    first = start(folder, stall_at=8, mark=mark)  # the second of the third epoch's three steps
    waiting = [start(folder, wait_for=mark) for _ in range(2)]
    try:
        wait(mark.exists)
        run = Run(folder / reference.folder.name, {})
        assert list(run.history["epoch"]) == [1, 2] and not run.finished
        for process in waiting:
            assert "another process is working on" in process.stdout.readline()
        assert all(process.poll() is None for process in waiting)
        os.kill(first.pid, signal.SIGKILL)
        outcomes = [finish(process) for process in waiting]
    finally:
        for process in (first, *waiting):
            process.kill()
            process.wait()
            process.stdout.close()
    assert sorted(one["steps"] for one in outcomes) == [0, 6]  # epochs three and four, and nothing
    assert {one["run"] for one in outcomes} == {reference.folder.name}
    assert same(outcome(run), outcome(reference))
    assert "resumes after epoch 2" in (run.folder / "train.log").read_text()


@pytest.mark.parametrize(
    ("changes", "encoder"),
    [
        ({}, flat()),
        ({"optimizer": "adam", "lr": 0.02}, None),
        ({"precision": "bfloat16", "method": f"{METHOD} fix_pred_lr=false"}, None),
        ({"precision": "float16"}, flat()),
    ],
    ids=["dropout", "adam", "bfloat16", "float16"],
)
def test_stopped_between_epochs_and_resumed_gives_the_same_bits(changes, encoder, tmp_path):
    config = config_of(**{"epochs": 3} | changes)
    never = run_of(tmp_path / "never", config, encoder=encoder)
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run_of(tmp_path / "twice", config, encoder=encoder, on_epoch=stop_after(epoch))
        torch.rand(4)
    resumed = run_of(tmp_path / "twice", config, encoder=encoder)
    assert resumed.folder.name == never.folder.name
    assert same(outcome(resumed), outcome(never))
    assert resumed.history["seconds"].is_monotonic_increasing


def test_supervised_training_stopped_and_resumed_gives_the_same_bits(tmp_path):
    config = SupervisedConfig(**SHARED | {"epochs": 2, "labels": 40})
    runs_of = []
    for name in ("never", "stopped"):
        options = {"encoder": flat(), "folder": str(tmp_path / name), "progress": False}
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                train_supervised(config, random_data(), **options, on_epoch=stop_after(1))
        runs_of.append(train_supervised(config, random_data(), **options))
    assert same(outcome(runs_of[0]), outcome(runs_of[1]))


def test_a_run_that_died_before_its_last_file_finishes_without_a_step(
    reference, tmp_path, monkeypatch
):
    write_json = runs.write_json

    def dies(path, content):
        if path.name == "metrics.json":
            raise KeyboardInterrupt
        write_json(path, content)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(runs, "write_json", dies)
        run_of(tmp_path)
    monkeypatch.setattr(SimSiamModule, "loss", None)
    run = run_of(tmp_path)
    assert run.finished and same(outcome(run), outcome(reference))
