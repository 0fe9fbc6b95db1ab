"""SIM under DistributedDataParallel: two real processes over gloo; this file is the worker too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from simlab.sim import attach_sim, compute_loss_sim, forward_with_sim_cache, init_proj

pytestmark = pytest.mark.distributed
STEPS, LR = 3, 0.05


class Decorated(nn.Module):
    @init_proj("c_in", "c_out", beta=1.0)
    def __init__(self, c_in, c_out):
        super().__init__()
        self.c_in, self.c_out = c_in, c_out
        self.conv = nn.Conv2d(c_in, c_out, 3, 2, 1)

    @forward_with_sim_cache()
    def forward(self, x):
        return self.conv(x).relu()


def build():
    torch.manual_seed(0)
    model = nn.Sequential(Decorated(3, 6), nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 4, 1))
    attach_sim(model, ["1", "2"], beta=1.0)
    # norm_mse takes a constant out of the prediction, so that some biases have a gradient of
    # rounding alone; in float32 it differs between machines by more than any useful tolerance
    return model.double()


def batch(rank, step):
    """This rank's images; the seed set here also fixes the positions that SIM samples."""
    torch.manual_seed(100 * rank + step)
    return torch.randn(2, 3, 16, 16).double()


def loss_of(model, x):
    return model(x).square().mean() + compute_loss_sim(model, check=True)


def worker(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(build())  # find_unused_parameters stays False
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, batch(rank, step)).backward()
        optimizer.step()
    torch.save(model.module.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one_that_averages_their_gradients(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(errors)

    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(2):
            (loss_of(model, batch(rank, step)) / 2).backward()
        optimizer.step()
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    start = build().state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name]), name
        torch.testing.assert_close(states[0][name], value, rtol=1e-9, atol=1e-9, msg=name)
        if "weight" in name:
            assert not torch.equal(value, start[name]), f"{name} was not trained"


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_attaching_after_ddp_is_refused_since_it_would_not_see_the_parameters():
    model = nn.parallel.DistributedDataParallel(nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="before DistributedDataParallel"):
        attach_sim(model, nn.Conv2d)


@pytest.mark.usefixtures("one_process")
def test_fsdp_shards_a_model_with_sim_as_a_whole_and_its_blocks_are_refused():
    mesh = init_device_mesh("cpu", (1,))
    model, parts, late = build(), build(), nn.Sequential(nn.Conv2d(3, 3, 1))
    fully_shard(model, mesh=mesh)
    loss_of(model, batch(0, 0)).backward()
    assert all(p.grad is not None for p in model[1].sim.parameters())
    fully_shard(parts[1], mesh=mesh)
    fully_shard(parts, mesh=mesh)
    with pytest.raises(RuntimeError, match=r"SIM on FSDPConv2d: FSDP shards.*fully_shard\(model\)"):
        parts(batch(0, 0))
    nested = nn.Sequential(build(), nn.Conv2d(4, 4, 1).double())
    fully_shard(nested[0], mesh=mesh)
    fully_shard(nested, mesh=mesh)
    nested(batch(0, 0))
    with pytest.raises(RuntimeError, match=r"SIM on '0.0': FSDP shards '0' by itself"):
        compute_loss_sim(nested)
    fully_shard(late, mesh=mesh)
    with pytest.raises(ValueError, match="attach before the model is sharded"):
        attach_sim(late, "0")


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker(int(sys.argv[1]), sys.argv[2])
