"""Small things to train on: what an exercise's answer learns is seen in a second or two."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .judge import draws

NOISE = 0.3  # std of a view's noise, and of a cloud
SIDE = 8  # of the drawn images, in pixels
SHAPES = {
    "L": ("#...", "#...", "#...", "###."),
    "mirrored L": ("...#", "...#", "...#", ".###"),
    "T": ("###.", ".#..", ".#..", ".#.."),
    "upside-down T": (".#..", ".#..", ".#..", "###."),
}


class Outcome(NamedTuple):
    """What a training came to."""

    loss: float
    std: float  # of z, normalised: 0 collapsed, 1 healthy

    def __str__(self) -> str:
        return f"loss {self.loss:.2f}, std of z {self.std:.2f} (1 is healthy)"


# ------------------------------------------------------------------------------ clouds of vectors


@functools.cache
def clouds() -> Tensor:
    """Ten clouds of vectors, [512, 20]."""
    generator = draws()
    centres = torch.randn(10, 20, generator=generator)
    return centres[torch.arange(512) % 10] + NOISE * torch.randn(512, 20, generator=generator)


def cloud_of(x: Tensor) -> Tensor:
    """The cloud of each vector [N, 20]: the one whose centre is nearest, [N]."""
    return torch.cdist(x, torch.randn(10, 20, generator=draws())).argmin(1)


def networks(seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """An encoder with projector [N, 20] -> [N, 32], and a predictor; no BatchNorm at their ends."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
        predictor = nn.Sequential(
            nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32)
        )
    return encoder, predictor


def train_on_clouds(
    encoder: nn.Module,
    step: Callable[[Tensor, Tensor], float],
    steps: int = 150,
    batch: int = 128,
    seed: int = 0,
) -> Outcome:
    """Call `step` with two noisy views [batch, 20] again and again, and measure the encoder."""
    x = clouds()
    generator = draws(seed)
    loss = 0.0
    for _ in range(steps):
        sample = x[torch.randint(len(x), (batch,), generator=generator)]
        x1, x2 = (sample + NOISE * torch.randn(sample.shape, generator=generator) for _ in "12")
        loss = float(step(x1, x2))
    with torch.no_grad():
        z = encoder(x)
    return Outcome(loss, normalised_std(z))


def normalised_std(z: Tensor) -> float:
    """Std of the rows' directions, times the root of their width."""
    return float(F.normalize(z.detach(), dim=1).std(0).mean() * z.shape[1] ** 0.5)


def neighbours_agree(z: Tensor, labels: Tensor, k: int = 5) -> float:
    """Accuracy of a vote of each row's k nearest among the other rows."""
    u = F.normalize(z.detach(), dim=1)
    similarity = (u @ u.T).fill_diagonal_(-2)
    votes = labels[similarity.topk(k, dim=1).indices]  # [N, k]
    return float((votes.mode(1).values == labels).float().mean())


# --------------------------------------------------------------------------------- drawn images


@functools.cache
def drawn_images(number: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Four faint shapes, each in a light of its own: images [N, 1, 8, 8], classes [N]."""
    generator = draws(seed)
    dots = "".join("".join(rows) for rows in SHAPES.values())
    shapes = torch.tensor([dot == "#" for dot in dots]).reshape(len(SHAPES), 1, 4, 4)
    shapes = shapes.float().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    labels = torch.arange(number) % len(SHAPES)
    strength = torch.rand(3, number, 1, 1, 1, generator=generator) - 0.5
    noise = 0.05 * torch.randn(number, 1, SIDE, SIDE, generator=generator)
    return 0.5 + 0.15 * shapes[labels] + light(*strength) + noise, labels


def light(level: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Brightness over the image [N, 1, 8, 8]: a level, and how it rises down and to the right.

    Each is [N, 1, 1, 1].
    """
    slope = torch.linspace(-1, 1, SIDE)
    return level + down * slope[:, None] + right * slope[None, :]


def features_that_agree(
    augment: Callable[[Tensor, torch.Generator], Tensor], draws_of_each: int = 6, number: int = 3
) -> Tensor:
    """Learn linear features of the drawn images without labels; returns those of all, [N, number].

    They are the directions in which two views agree most, relative to how much they vary: the
    canonical correlations of view 1 and view 2, which a linear network would be trained towards.
    """
    images, _ = drawn_images()
    generator = draws(1)
    first, second = (
        torch.cat([augment(images.clone(), generator) for _ in range(draws_of_each)]).flatten(1)
        for _ in "12"
    )  # [draws * N, 64] each
    mean = torch.cat([first, second]).mean(0)
    first, second = (first - mean).double(), (second - mean).double()
    n = len(first)
    within = (first.T @ first + second.T @ second) / (2 * n)  # [64, 64]
    across = (first.T @ second + second.T @ first) / (2 * n)
    values, vectors = torch.linalg.eigh(within + 1e-6 * torch.eye(SIDE * SIDE))
    whiten = vectors / values.clamp(min=1e-6).sqrt()  # columns
    agreement, directions = torch.linalg.eigh(whiten.T @ across @ whiten)  # ascending
    best = (whiten @ directions)[:, -number:] * agreement[-number:]
    return (images.flatten(1) - mean).double() @ best
