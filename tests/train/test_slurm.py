"""Processes that srun started; test_distributed.py trains with three of them."""

import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from distributed_runs import ROOT, WORK, train

from simlab.compute.distributed import gpu_of_process
from simlab.compute.slurm import first_host, torchrun_variables, understand_srun
from simlab.runs import Run

STEP = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_NODELIST": "gpu[06-08]",
}  # fmt: skip
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def nobodys_processes(monkeypatch):
    for name in (*TORCHRUN, *STEP):  # setenv first, so that what a test leaves is taken away
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def said(monkeypatch, **variables):
    """What torchrun would have said, after srun's variables were read."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    understand_srun()
    return {name: os.environ[name] for name in TORCHRUN if name in os.environ}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[003-010,12],gpu7", "node003"),
        ("gpu7,node[1-2]", "gpu7"),
        ("a", "a"),
        ("node-[01,03]", "node-01"),
        ("rack[1-2]node[3,5-9],x", "rack1node3"),
        ("h1.example.org,h2.example.org", "h1.example.org"),
    ],
)
def test_the_first_machine_of_a_list(nodes, first):
    assert first_host(nodes) == first


def test_a_task_of_srun_is_what_torchrun_would_have_said(monkeypatch):
    variables = said(monkeypatch, **STEP)
    port = int(variables.pop("MASTER_PORT"))
    assert variables == {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07",
    }  # fmt: skip
    assert 1024 < port < 32768, "below the ports that connections get"
    others = [STEP | {"SLURM_PROCID": "0"}, STEP | {"SLURM_STEP_ID": "3"}]
    same, other = (int(torchrun_variables(each)["MASTER_PORT"]) for each in others)
    assert same == port != other


def test_an_address_of_the_users_stays(monkeypatch):
    variables = said(monkeypatch, **STEP, MASTER_ADDR="10.0.0.1", MASTER_PORT="1234")
    assert variables["MASTER_ADDR"] == "10.0.0.1" and variables["MASTER_PORT"] == "1234"
    assert variables["RANK"] == "5"


def test_torchrun_within_a_task_of_srun_has_the_last_word(monkeypatch):
    assert said(monkeypatch, **STEP, WORLD_SIZE="1") == {"WORLD_SIZE": "1"}


def test_one_task_a_shell_and_a_batch_script_are_one_process(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert said(monkeypatch) == {}
        assert said(monkeypatch, SLURM_JOB_ID="4711", SLURM_NTASKS="1", SLURM_PROCID="0") == {}
        assert said(monkeypatch, SLURM_STEP_NUM_TASKS="1", SLURM_STEP_ID="0") == {}
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.delenv("SLURM_STEP_ID")
    with pytest.warns(UserWarning, match="8 tasks and simlab runs outside of srun, as one process"):
        assert said(monkeypatch, SLURM_NTASKS="8") == {}


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_LOCALID"])
def test_a_variable_that_is_missing_is_named(name):
    with pytest.raises(ValueError, match=f"SLURM_STEP_NUM_TASKS=8 without {name}"):
        torchrun_variables({key: value for key, value in STEP.items() if key != name})


def test_without_a_list_of_machines_the_jobs_is_taken():
    alone = {key: value for key, value in STEP.items() if key != "SLURM_STEP_NODELIST"}
    assert torchrun_variables(alone)["MASTER_ADDR"] == "gpu06"


def test_a_process_has_the_gpu_of_its_number_or_the_one_that_it_was_given():
    assert gpu_of_process({}, 1) == 0
    assert gpu_of_process({"LOCAL_RANK": "3"}, 4) == 3
    assert gpu_of_process({"LOCAL_RANK": "3", "SLURM_GPUS_PER_TASK": "1"}, 1) == 0
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU: there are 1"):
        gpu_of_process({"LOCAL_RANK": "1"}, 1)


@pytest.mark.slow
@pytest.mark.distributed
def test_srun_alone_trains_as_one_process_does(tmp_path):
    """Needs a running Slurm with two cores."""
    if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("there is no Slurm here that runs")
    command = ["srun", "-n2", sys.executable, WORK, "--machine", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    one = train("simsiam", tmp_path / "one")
    two = Run(tmp_path / "two" / one.folder.name, {})
    assert two.result["environment"]["processes"] == 2
    losses = torch.tensor(one.history["loss"])
    torch.testing.assert_close(torch.tensor(two.history["loss"]), losses, rtol=1e-3, atol=1e-4)
