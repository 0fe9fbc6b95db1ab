"""A tiny run, the same each time, which the tests of stored runs stop, damage and load.

Run as a script, this file trains it in a process of its own.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

import simlab
from simlab.config import PretrainConfig
from simlab.data import Dataset, from_arrays
from simlab.methods.simsiam import SimSiamModule
from simlab.runs import Run
from simlab.train import pretrain

PACKAGE = Path(simlab.__file__).parent
SHARED = {
    "encoder": "tiny", "augment": "scattered", "view_size": 8, "epochs": 4, "batch_size": 16,
    "lr": 0.5, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3, "schedule": "cosine",
    "warmup_epochs": 0.5, "precision": "float32", "seed": 3, "device": "cpu", "threads": 1,
    "keep_checkpoints": 3,
}  # fmt: skip
METHOD = "simsiam proj_layers=2 proj_dim=16 pred_dim=8 pred_lr=2"
HEADS = {"method": METHOD, "monitor_every": 1, "knn_k": 5, "knn_temperature": 0.1}


def config_of(**changes) -> PretrainConfig:
    return PretrainConfig(**SHARED | HEADS | changes)


def random_data() -> Dataset:
    """48 random images to train on, three batches, and 12 to test on, in four classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 4
    return from_arrays(images[:48], labels[:48], images[48:], labels[48:])


class Flat(nn.Module):
    """A quick encoder with BatchNorm and with dropout, which draws from the global generator."""

    def __init__(self):
        super().__init__()
        self.linear, self.bn = nn.Linear(64, 12), nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(torch.relu(self.bn(self.linear(x.flatten(1)))))


def flat() -> Flat:
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        return Flat()


def run_of(folder, config=None, data=None, **options) -> Run:
    """The tiny run in `folder`, with `Flat` as its encoder where not said otherwise."""
    options = {"encoder": flat(), "progress": False, "folder": str(folder)} | options
    return pretrain(config or config_of(), data or random_data(), **options)


def stop_after(epoch: int):
    """A callback that stops a run like Ctrl-C."""

    def on_epoch(history):
        if len(history) == epoch:
            raise KeyboardInterrupt

    return on_epoch


def outcome(run: Run) -> tuple:
    """Metrics but for the time, all that a checkpoint holds, and the encoder's file."""
    state = run.load_checkpoint()
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state["history"]]
    csv = run.history.drop(columns="seconds").fillna(-1).to_dict("records")
    states = {name: state[name] for name in ("epoch", "network", "optimizer", "scaler")}
    return rows, csv, states, run.load_encoder_state()


def same(a, b) -> bool:
    """Equal to the last bit, in nested dicts and lists of tensors and numbers."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def start(folder: Path, *, stall_at=0, mark="", wait_for="", package=PACKAGE.parent):
    """A process that asks for the run; see `main`."""
    arguments = [str(folder), str(stall_at), str(mark), str(wait_for)]
    return subprocess.Popen(
        [sys.executable, "-u", __file__, *arguments], text=True, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process) -> dict:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def wait(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def main(folder: str, stall_at: str, mark: str, wait_for: str):
    """Ask for the run once `wait_for` exists; at step `stall_at` make `mark` and hang."""
    steps, loss = 0, SimSiamModule.loss

    def counted(*args):
        nonlocal steps
        steps += 1
        if steps == int(stall_at):
            Path(mark).touch()
            time.sleep(600)
        return loss(*args)

    SimSiamModule.loss = counted
    wait(lambda: not wait_for or Path(wait_for).exists())
    run = run_of(folder)
    print(json.dumps({"steps": steps, "run": run.folder.name}))


if __name__ == "__main__":
    main(*sys.argv[1:])
