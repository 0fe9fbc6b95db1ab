"""The tests and the benchmark of GPUs run on a CPU: of GPUs that shows nothing, of them much."""

import os
import subprocess
import sys

import pytest
import torch
from gpu_runs import TEN_STEPS, draws_of_the_cpu, ten_steps
from interface_runs import ROOT, train


@pytest.mark.long
def test_a_generators_twin_draws_what_it_draws(tmp_path):
    twin = ten_steps("lejepa", "cpu", tmp_path / "twin")
    run = train("lejepa", tmp_path / "own", TEN_STEPS)
    assert list(twin.history["loss"]) == list(run.history["loss"])
    generator = torch.Generator().manual_seed(1)
    with draws_of_the_cpu():
        first, second = torch.rand(3, generator=generator), torch.rand(3, generator=generator)
        assert torch.rand(2).shape == torch.randperm(2).shape
    assert torch.equal(torch.cat([first, second]), torch.rand(6, generator=generator))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["-m", "pytest", "-p", "no:xdist", "-p", "no:nbval", "-q", "-m", "cuda",
      "tests/methods/test_gpu.py"], ["benchmarks/bench_gpu.py", "--dry"]],
    ids=["tests", "benchmark"],
)  # fmt: skip
def test_every_line_for_gpus_runs_on_a_cpu(command):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SIMLAB_GPU_TESTS_ON_CPU": "1",
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "skipped" not in done.stdout
