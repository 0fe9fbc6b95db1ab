"""Emoji at half their size, and a small network that learns to look them up in seconds."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from simlab.data import Images, load_data

from .judge import draws

STEPS = 80  # of a training
STUDIO = torch.tensor([0, 1, 2, 2])  # Fluent's flat and modern drawings have the same outlines

DRAWN_BY = {  # made up, for trying an answer; thing: who drew it, once for each drawing
    103: "AB", 104: "ABC", 105: "A", 107: "ACC", 109: "CC", 110: "BC", 112: "ABCC", 115: "AAB",
    118: "BC", 120: "B", 121: "AC", 124: "AB",
}  # fmt: skip


class Drawings(NamedTuple):
    """Drawings, what each of them shows, and who drew it."""

    images: Tensor  # [N, 3, 16, 16], from 0 to 1
    things: Tensor  # [N], int64
    designers: Tensor  # [N], int64
    styles: Tensor  # [N], int64: as designers, but flat and modern apart


@functools.cache
def emoji() -> tuple[Drawings, Drawings, tuple[str, ...]]:
    """The drawings to train on, those of held-out things, and the things' names."""
    data = load_data("emoji")
    return _drawings(data.train), _drawings(data.test), data.train.factor_levels["thing"]


def _drawings(images: Images) -> Drawings:
    things, styles = (
        images.factors[:, images.factor_names.index(name)].long() for name in ("thing", "designer")
    )
    small = F.avg_pool2d(images.images.float() / 255, 2)  # [N, 3, 16, 16]
    return Drawings(small, things, STUDIO[styles], styles)


@functools.cache
def all_by(style: int) -> tuple[Tensor, list[str]]:
    """One designer's drawings of all things [N, 3, 16, 16], and what they show."""
    train, test, names = emoji()
    images = torch.cat([split.images[split.styles == style] for split in (train, test)])
    things = torch.cat([split.things[split.styles == style] for split in (train, test)])
    return images, [names[thing] for thing in things.tolist()]


@functools.cache
def channel_statistics() -> tuple[Tensor, Tensor]:
    """Mean and std of each channel over the drawings to train on, [1, 3, 1, 1] each."""
    images = emoji()[0].images
    return images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)


def standardised(images: Tensor) -> Tensor:
    """Images [N, 3, H, W] less each channel's mean, divided by its std."""
    mean, std = channel_statistics()
    return (images - mean) / std


def new_encoder(seed: int = 0) -> nn.Module:
    """A convolutional network [N, 3, 16, 16] -> [N, 64], randomly initialised."""
    layers: list[nn.Module] = []
    channels = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            layers += [
                nn.Conv2d(channels, width, 3, stride, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 64))


def train(encoder: nn.Module, loss_of_step: Callable[[torch.Generator], Tensor]) -> None:
    """Take `STEPS` steps down a loss that is computed anew for each, from random numbers."""
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3, weight_decay=0.01)
    generator = draws()
    encoder.train()
    for _ in range(STEPS):
        loss = loss_of_step(generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def features_of(encoder: nn.Module, images: Tensor) -> Tensor:
    """What an encoder makes of drawings, [N, 64], with BatchNorm's running statistics."""
    encoder.eval()
    with torch.no_grad():
        return encoder(standardised(images))


def shelf() -> tuple[Tensor, Tensor]:
    """Some drawings in a random order: what each shows [N], and who drew it [N]."""
    pairs = [(thing, "ABC".index(name)) for thing, names in DRAWN_BY.items() for name in names]
    shuffled = torch.tensor(pairs)[torch.randperm(len(pairs), generator=draws())]
    return shuffled[:, 0].contiguous(), shuffled[:, 1].contiguous()
