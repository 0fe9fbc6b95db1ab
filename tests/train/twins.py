"""A run with SIM and its twin without it, on an encoder with dropout: what both are made of."""

from pathlib import Path

import torch
from torch import nn

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import from_arrays
from simlab.runs import Run
from simlab.train import pretrain, train_supervised

SHARED = {
    "view_size": 8, "epochs": 3, "batch_size": 16, "lr": 0.1, "precision": "float32",
    "device": "cpu", "threads": 1, "augment": "scattered",
}  # fmt: skip
HEADS = {"method": "simsiam proj_dim=16 pred_dim=8", "monitor_every": 3, "knn_k": 5}
WITH_SIM = {"sim_layers": "blocks.*", "sim_sampling": "v0"}
KINDS = ("supervised", "simsiam")


class Dropping(nn.Module):
    """Two convolutions that SIM can be put on, and dropout before each."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Dropout(0.2), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)),
            nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 12, 3, padding=1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [N, 1, S, S] -> [N, 12]
        return self.blocks(x).mean((2, 3))


def encoder() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        return Dropping()


def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (56, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(56) % 4
    return from_arrays(images[:40], labels[:40], images[40:], labels[40:])


def config_of(kind: str, **changes):
    if kind == "supervised":
        return SupervisedConfig(**SHARED | changes)
    return PretrainConfig(**SHARED | HEADS | changes)


def train(kind: str, folder, changes: dict, **options) -> Run:
    entry = train_supervised if kind == "supervised" else pretrain
    run_options = {"folder": str(folder), "progress": False, "encoder": encoder()}
    return entry(config_of(kind, **changes), data(), **run_options, **options)


def without_sim(state: dict) -> dict:
    """A state_dict without SIM's own weights."""
    return {name: value for name, value in state.items() if ".sim." not in name}


def twin_states(folder) -> list[dict]:
    """The last weights of each kind's plain run and of its twin with a SIM of weight 0."""
    states = []
    for kind in KINDS:
        for name, changes in (("plain", {}), ("sim", WITH_SIM | {"sim_beta": 0.0})):
            run = train(kind, Path(folder) / f"twins {name}", changes)
            states.append(without_sim(last_network(run)))
    return states


def last_network(run: Run) -> dict:
    """The weights of encoder and heads after the last epoch; the first process has stored them."""
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    return checkpoint["network"]
