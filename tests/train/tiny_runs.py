"""Runs of a second: images, configurations and an encoder that the tests of training share."""

import math

import torch
import torch.nn as nn
from torch import Tensor

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, from_arrays
from simlab.train import (
    build_task,
    resolve,
)

SHARED = {
    "encoder": "tiny", "augment": "scattered", "view_size": 8, "epochs": 1, "batch_size": 16,
    "lr": 0.5, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3, "schedule": "cosine",
    "warmup_epochs": 0.0, "precision": "float32", "seed": 0, "device": "cpu", "threads": 1,
    "keep_checkpoints": 3,
}  # fmt: skip
MEASURES = {"monitor_every": 1, "knn_k": 5, "knn_temperature": 0.1}
SIMSIAM = "simsiam proj_dim=16 pred_dim=8 pred_lr=2"
SIMCLR = "simclr proj_dim=16"


def pretrain_config(**changes) -> PretrainConfig:
    return PretrainConfig(**SHARED | MEASURES | {"method": SIMSIAM} | changes)


def supervised_config(**changes) -> SupervisedConfig:
    return SupervisedConfig(**SHARED | changes)


def noise(number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 8, 8), generator=generator, dtype=torch.uint8)


def random_data(train: int = 32, test: int = 8) -> Dataset:
    """Random images in four classes."""
    labels = (torch.arange(train) % 4, torch.arange(test) % 4)
    return from_arrays(noise(train), labels[0], noise(test, 1), labels[1])


def easy_data() -> Dataset:
    """The class is the bright quarter of the image."""
    labels = torch.arange(160) % 4
    images = noise(160) // 4
    for i, c in enumerate(labels.tolist()):
        images[i, 4 * (c // 2) :, 4 * (c % 2) :][:4, :4] += 150
    return from_arrays(images, labels)


class Flat(nn.Module):
    """A quick encoder with BatchNorm and dropout.

    From the training batch `breaks_at` on it gives NaN; at `bad_gradient` its gradient alone is NaN.
    """

    def __init__(self, breaks_at: int = 10**9, bad_gradient: int = 10**9):
        super().__init__()
        self.linear, self.bn = nn.Linear(64, 12), nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(0.3)
        self.breaks_at, self.bad_gradient = breaks_at, bad_gradient
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.batches += self.training
        h = self.dropout(torch.relu(self.bn(self.linear(x.flatten(1)))))
        if self.training and int(self.batches) == self.bad_gradient:
            h.register_hook(lambda gradient: gradient * math.nan)
        return h * math.nan if int(self.batches) >= self.breaks_at else h


def task_of(config, data, encoder=None):
    """What the loop trains."""
    return build_task(resolve(config, data, encoder), data, encoder=encoder)


def flat(**options) -> Flat:
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        return Flat(**options)


def outcome(run) -> tuple[list[dict], dict]:
    """The metrics but for the time, and all that training changed: network, optimizer, scaler."""
    state = run.load_checkpoint()
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state["history"]]
    return rows, {name: state[name] for name in ("network", "optimizer", "scaler")}


def same(a, b) -> bool:
    """Equal to the last bit, in nested dicts and lists of tensors and numbers."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
