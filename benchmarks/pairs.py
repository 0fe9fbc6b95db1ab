"""The pairs of RESULTS.md: something of simlab's and what it is compared with, at two sizes.

Each case is a function of a size that returns two calls, simlab's and the peer's, on the same
data. A peer that is not installed is left out, and said. `benchmarks/all_benchmarks.py` runs them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from peer_views import MEAN, STD, kornia_view
from timing import Call
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """What is compared with what, and at which sizes; the first one is the quick one's."""

    name: str
    peer: str
    unit: str
    sizes: tuple[int, int]
    make: Callable[[int], tuple[Call, Call]]


def random_images(n: int) -> Tensor:
    """Smooth colour images, uint8 [n, 3, 32, 32]."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fine = F.interpolate(coarse, 32, mode="bicubic").clamp(0, 1)
    return (fine * 255).to(torch.uint8)


def simlab_views(images: Tensor) -> Call:
    from simlab.augment import RECIPES, Normalize, two_views

    normalize = Normalize(torch.tensor(MEAN), torch.tensor(STD))
    recipe = RECIPES["simsiam-cifar"]
    return lambda: [two_views(block, recipe, normalize) for block in images.split(256)]


def views_and_torchvision(n: int) -> tuple[Call, Call]:
    from torchvision.transforms import v2

    images = random_images(n)
    view = v2.Compose([
        v2.RandomResizedCrop(32, scale=(0.2, 1.0)),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])  # fmt: skip
    return simlab_views(images), lambda: [(view(image), view(image)) for image in images]


def views_and_kornia(n: int) -> tuple[Call, Call]:
    view = kornia_view()
    images = random_images(n)

    def peers() -> list[tuple[Tensor, Tensor]]:
        return [(view(block / 255), view(block / 255)) for block in images.split(256)]

    return simlab_views(images), peers


def knn_and_sklearn(n: int) -> tuple[Call, Call]:
    from sklearn.neighbors import KNeighborsClassifier

    from simlab.evaluate import knn_predict

    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(n, 128, generator=generator)
    queries = torch.randn(1000, 128, generator=generator)
    labels = torch.arange(n) % 10

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / 0.1)

    def peers() -> np.ndarray:
        model = KNeighborsClassifier(200, metric="cosine", n_jobs=-1, weights=weights)
        return model.fit(bank.numpy(), labels.numpy()).predict(queries.numpy())

    return lambda: knn_predict(bank, labels, queries, 200, 0.1), peers


def cka_and_its_formula(n: int) -> tuple[Call, Call]:
    from simlab.similarity import cka_similarity

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 256, generator=generator)
    y = x @ torch.randn(256, 128, generator=generator) / 16 + torch.randn(n, 128)

    def peers() -> Tensor:
        centre = torch.eye(n, dtype=torch.float64) - 1 / n
        k, g = (centre @ (v.double() @ v.double().T) @ centre for v in (x, y))
        return (k * g).sum() / (k.norm() * g.norm())

    return lambda: cka_similarity(x, y, debiased=False), peers


def nt_xent_and_lightly(n: int) -> tuple[Call, Call]:
    from lightly.loss import NTXentLoss

    from simlab.methods.simclr import nt_xent

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, n, 128, generator=generator).requires_grad_()
    criterion = NTXentLoss(temperature=0.5)
    return lambda: nt_xent(z[0], z[1], 0.5).backward(), lambda: criterion(z[0], z[1]).backward()


def loop_and_its_bare_step(steps: int) -> tuple[Call, Call]:
    from bench_train import loop_and_bare

    return loop_and_bare("tiny", steps, batch_size=64)


CASES = (
    Case(
        "two views of 32 x 32 colour images",
        "torchvision v2, image by image",
        "images",
        (256, 1024),
        views_and_torchvision,
    ),
    Case(
        "two views of 32 x 32 colour images",
        "kornia",
        "images",
        (1024, 4096),
        views_and_kornia,
    ),
    Case(
        "kNN, k = 200, 1,000 queries, 128 features",
        "scikit-learn, cosine",
        "images in the bank",
        (5000, 20000),
        knn_and_sklearn,
    ),
    Case(
        "CKA of 256 with 128 features",
        "its formula on n x n matrices",
        "samples",
        (500, 2000),
        cka_and_its_formula,
    ),
    Case(
        "NT-Xent, forward and backward, width 128",
        "lightly",
        "images",
        (256, 1024),
        nt_xent_and_lightly,
    ),
    Case(
        "the default training loop",
        "its bare step: views, forward, backward, optimizer",
        "steps of 64 images",
        (30, 120),
        loop_and_its_bare_step,
    ),
)
