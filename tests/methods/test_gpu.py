"""On one GPU and on two every method computes what it computes on a CPU; lower precision runs.

They never ran in the project's own tests, which have no GPU: `make gpu` runs them where there is
one. With SIMLAB_GPU_TESTS_ON_CPU=1 they run on the CPU, which is a test of the tests.
"""

import functools
import math
import os
import subprocess
import sys

import pytest
import torch
from gpu_runs import DEVICE, DRY, full_float32, ten_steps
from interface_runs import ROOT, RUNS, SKETCHES, SMALL, data, stop

from simlab import methods
from simlab.config import PretrainConfig
from simlab.models import build_encoder
from simlab.train import build_task, resolve

GPUS = 2 if DRY else torch.cuda.device_count()
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(GPUS < 1, reason="needs a CUDA GPU"),
]
needs_two = pytest.mark.skipif(GPUS < 2, reason=f"needs two GPUs, there are {GPUS}")


@pytest.fixture(scope="module", autouse=True)
def registry():
    with pytest.MonkeyPatch.context() as patch:
        for name, entry in SKETCHES.items():
            patch.setitem(methods.METHODS, name, entry)
        yield


@pytest.fixture(autouse=True)
def exactly():
    full_float32()


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """A run's ten steps on the CPU, made once."""
    folder = tmp_path_factory.mktemp("cpu")
    return functools.cache(lambda name: ten_steps(name, "cpu", folder))


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """The folder with all runs' ten steps on two GPUs."""
    folder = tmp_path_factory.mktemp("two")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        str(ROOT / "tests" / "methods" / "gpu_runs.py"), str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def check_as_on_cpu(run, reference):
    """The losses of the first epochs: later ones drift apart by rounding, as on other CPUs."""
    assert run.finished and len(run.history) == 5
    for column in ("loss", "std_ratio"):
        wanted = reference.history[column].to_numpy()
        difference = (run.history[column].to_numpy() - wanted) / (abs(wanted) + 0.1)
        assert abs(difference[0]) < 2e-3 and abs(difference[1]) < 0.02, (column, difference)


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_trains_as_the_cpu_does(name, on_cpu, tmp_path):
    run = ten_steps(name, DEVICE, tmp_path)
    assert run.result["environment"]["device"] == DEVICE
    check_as_on_cpu(run, on_cpu(name))


@needs_two
@pytest.mark.distributed
@pytest.mark.parametrize("name", RUNS)
def test_two_gpus_train_as_the_cpu_does(name, on_cpu, on_two):
    one = on_cpu(name)
    run = type(one)(on_two / one.folder.name, {})
    assert run.result["environment"]["processes"] == 2
    check_as_on_cpu(run, one)


def test_a_run_on_a_gpu_resumes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ten_steps("byol with SIM", DEVICE, tmp_path, on_epoch=stop)
    run = ten_steps("byol with SIM", DEVICE, tmp_path)
    assert "resumes after epoch 1" in (run.folder / "train.log").read_text()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["byol with SIM", "simclr", "swav", "w_mse"])
def test_lower_precision_trains_nearly_as_float32(name, precision, on_cpu, tmp_path):
    run = ten_steps(name, DEVICE, tmp_path, {"precision": precision})
    losses = run.history["loss"]
    assert losses.map(math.isfinite).all()
    assert losses[0] == pytest.approx(on_cpu(name).history["loss"][0], rel=0.1, abs=0.1)
    assert all(p.dtype == torch.float32 for p in run.encoder.parameters())


def test_weights_and_views_are_channels_last(tmp_path):
    run = ten_steps("simclr", DEVICE, tmp_path)
    convolutions = [p for p in run.encoder.parameters() if p.dim() == 4]
    assert convolutions
    for weight in convolutions:
        assert weight.device.type == DEVICE
        assert weight.is_contiguous(memory_format=torch.channels_last)
    config = resolve(PretrainConfig(**SMALL | {"device": DEVICE}), data())
    task = build_task(config, data())
    views = next(task.views.epoch(task.seed_epoch(config, 0, torch.device(DEVICE)), iter))
    for view in views:
        assert view.device.type == DEVICE
        assert view.is_contiguous(memory_format=torch.channels_last)


def test_a_compiled_encoder_trains_as_the_same_one_uncompiled(tmp_path):
    def encoder():
        torch.manual_seed(5)
        return build_encoder("tiny", 3, 8)[0]

    backend = "aot_eager" if DRY else "inductor"
    plain = ten_steps("simclr", DEVICE, tmp_path, encoder=encoder())
    compiled = ten_steps(
        "simclr", DEVICE, tmp_path, encoder=torch.compile(encoder(), backend=backend)
    )
    check_as_on_cpu(compiled, plain)
