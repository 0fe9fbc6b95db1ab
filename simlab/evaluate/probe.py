"""The linear probe: how much of the classes a frozen encoder's features give away to a linear map.

Features are made once, clean and with BatchNorm frozen (`encode`). A validation split, cut from the
labelled images, chooses the regulariser by its loss; the probe is then fitted on all labelled
images and the test images are asked once. What was chosen is stored with each number.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from simlab._names import near
from simlab.augment import Augment, view
from simlab.data.images import Dataset

from .features import ROWS, accuracy, features, refuse_diverged, ridge_r2, stratified

SOLVERS = ("lbfgs", "sgd")
REGULARISERS = (
    1e-4,
    1e-3,
    1e-2,
    1e-1,
    1.0,
    10.0,
)  # of the squared norm, for unit-variance features
PART = 8  # rows for every feature that tell the curvature well enough
TOLERANCE = 3e-4  # of the gradient there: the loss is within about 1e-6 of its minimum
HELD_OUT = 0.2  # share of the labelled images that chooses among them


class Features(NamedTuple):
    """An encoder's features [N, D] and the labels [N] of both splits; `views` copies of each
    training image follow one another block by block."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    views: int = 1


@dataclass(frozen=True)
class Probe:
    """A probe's accuracy, with everything that decided it."""

    accuracy: float  # on the test images, 0 .. 1
    validation: float  # on the held-out labelled images, at the chosen regulariser
    regulariser: float
    labels: int  # labelled training images
    seed: int  # which images are labelled, and which of them are held out
    solver: str
    views: int  # augmented views of each labelled image; 1: the clean image alone
    epochs: int = 0  # of SGD


def encode(
    encoder: Callable[[Tensor], Tensor],
    data: Dataset,
    views: int = 1,
    augment: Augment | None = None,
    seed: int = 0,
) -> Features:
    """Features of all training and test images.

    views: above 1, the clean training images are followed by views - 1 augmented copies of all.
    """
    if views < 1 or (views > 1 and augment is None):
        raise ValueError(f"views={views}: expected 1, or more together with a recipe in `augment`")
    generator = torch.Generator(data.train.device).manual_seed(seed)

    def augmented(images: Tensor) -> Tensor:
        return view(images, augment, data.normalize, generator=generator)

    train = [
        features(encoder, data.train, normalize=normalize)
        for normalize in (data.normalize, *[augmented] * (views - 1))
    ]
    test = features(encoder, data.test)
    return Features(torch.cat(train), data.train.labels, test, data.test.labels, views)


def linear_probe(
    feats: Features, labels: int = 0, seed: int = 0, solver: str = "lbfgs", epochs: int = 90
) -> Probe:
    """Fit a linear classifier on `labels` images (0: all) and ask it the test images.

    Args:
        labels: as many of each class, drawn by the seed.
        solver: "lbfgs", multinomial logistic regression on standardised features with the squared
            norm's weight chosen among `REGULARISERS`; or "sgd" as in the papers (SimSiam, appendix A:
            features as they are, lr 30, momentum .9, no decay, batch 256, cosine), where the held-out
            images choose nothing and are only reported.
        epochs: of sgd.
    Raises: ValueError for an unknown solver or a budget that does not fit.
    """
    return _probe(feats, labels, seed, solver, epochs)[0]


def predictions(feats: Features, labels: int = 0, seed: int = 0, **options) -> Tensor:
    """The classes [M] that the probe of `linear_probe` gives to the test images."""
    return _probe(feats, labels, seed, **options)[1](feats.test).argmax(1)


def _probe(
    feats: Features, labels: int, seed: int, solver: str = "lbfgs", epochs: int = 90
) -> tuple[Probe, Callable[[Tensor], Tensor]]:
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is unknown{near(solver, SOLVERS)}")
    refuse_diverged(feats.train, feats.test)
    classes = int(feats.train_labels.max()) + 1
    n, device = len(feats.train_labels), feats.train.device
    generator = torch.Generator().manual_seed(seed)
    chosen = stratified(feats.train_labels, labels or n, generator).to(device)
    held_out = max(classes, round(HELD_OUT * len(chosen)))
    if len(chosen) <= held_out:
        raise ValueError(f"labels={labels}: expected at least two for each of {classes} classes")
    check, rest = chosen[:held_out], chosen[held_out:]
    check_x, check_y = feats.train[check], feats.train_labels[check]

    def rows(index: Tensor) -> tuple[Tensor, Tensor]:  # every view of the chosen images
        every = torch.cat([index + block * n for block in range(feats.views)])
        return feats.train[every], feats.train_labels[index].repeat(feats.views)

    if solver == "sgd":
        best, held = 0.0, _sgd(*rows(rest), classes, epochs, seed)(check_x)
        classifier = _sgd(*rows(chosen), classes, epochs, seed)
    else:
        part, epochs = _LogisticRegression(*rows(rest), classes), 0
        outputs = {l2: part.fit(l2)(check_x) for l2 in reversed(REGULARISERS)}
        # by the loss: among twenty images, accuracies differ by chance
        best = min(outputs, key=lambda l2: float(F.cross_entropy(outputs[l2], check_y)))
        held, classifier = outputs[best], _LogisticRegression(*rows(chosen), classes).fit(best)
    found = Probe(
        accuracy(classifier(feats.test), feats.test_labels),
        accuracy(held, check_y),
        best,
        len(chosen),
        seed,
        solver,
        feats.views,
        epochs,
    )
    return found, classifier


def probe_table(
    encoded: dict[str, Features], budgets: Sequence[int], seeds: Sequence[int], **options
) -> pd.DataFrame:
    """A row for every encoder, label budget and seed: the fields of `Probe` and `encoder`."""
    jobs = list(itertools.product(encoded, budgets, seeds))
    return pd.DataFrame(
        [
            {"encoder": name} | asdict(linear_probe(encoded[name], *which, **options))
            for name, *which in tqdm(jobs, "linear probes", leave=False)
        ]
    )


def factor_scores(encoder: Callable[[Tensor], Tensor], data: Dataset) -> dict[str, float]:
    """How well a linear map finds each known factor in the features: R^2 on the test images.

    1: exactly; 0: no better than the mean (may be a little below). Ridge regression from all
    training images; an angle in degrees is asked for as its cosine and sine.
    """
    known, in_test = data.train.factor_targets(), data.test.factor_targets()
    if not known:
        raise ValueError(f"{data.name} has no known factors: fashion-scattered has")
    x = encode(encoder, data)
    return {
        name: ridge_r2(x.train, x.test, values, in_test[name]) for name, values in known.items()
    }


class _LogisticRegression:
    """Softmax regression by L-BFGS, quick because the problem is turned first.

    Along the features' principal axes, each scaled by the loss's curvature there, the loss is nearly
    round and a few iterations reach the minimum; the squared norm is the original weights'. A part of
    the rows says where the minimum is about, before all of them are asked.
    """

    def __init__(self, x: Tensor, y: Tensor, classes: int):
        self.mean, self.y = x.mean(0), y
        self.x, squares = torch.empty_like(x), torch.zeros_like(self.mean)  # [N, D], [D]
        for centred, some in zip(self.x.split(ROWS), x.split(ROWS), strict=True):
            torch.sub(some, self.mean, out=centred)
            squares += centred.square().sum(0)
        std = (squares / max(1, len(x) - 1)).sqrt()
        # what never changes here may change in other images
        std = torch.where(std > 1e-6 * (1 + self.mean.abs()), std, 1)
        self.part = max(1, len(x) // (PART * x.shape[1]))  # every so-manieth row
        some = self.x[:: self.part] / std
        axes = _principal_axes(some)  # [D, R]
        self.turned = F.pad(some @ axes, (0, 1), value=1.0)  # [n, R + 1], the last for the bias
        self.back = axes.T / std  # [R, D], from weights along the axes to those of the features
        self.weights = torch.zeros(classes, self.turned.shape[1], device=x.device)

    def fit(self, l2: float) -> Callable[[Tensor], Tensor]:
        """The map from features [M, D] to logits at this regulariser, from the last fit on."""
        for part in dict.fromkeys((self.part, 1)):
            p = F.linear(self.turned, self.weights).softmax(1)
            curvature = (p * (1 - p)).T @ self.turned.square() / len(p)  # [classes, R + 1]
            scale = (curvature + 2 * l2 + 1e-6).rsqrt()
            self._descend(scale, l2, self.x[::part], self.y[::part])
        w, bias = self.weights[:, :-1] @ self.back, self.weights[:, -1]
        return lambda z: F.linear(z - self.mean, w, bias)

    def _descend(self, scale: Tensor, l2: float, x: Tensor, y: Tensor):
        free = self.weights / scale
        optimizer = torch.optim.LBFGS(
            [free],
            max_iter=60,
            tolerance_grad=TOLERANCE,
            tolerance_change=1e-7,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            w, bias = (free * scale).split((free.shape[1] - 1, 1), dim=1)  # [C, R], [C, 1]
            value, by_w, by_bias = _cross_entropy(x, y, w @ self.back, bias[:, 0])
            by_w = by_w @ self.back.T + 2 * l2 * w
            free.grad = torch.cat((by_w, by_bias[:, None]), 1) * scale
            return value + l2 * w.square().sum()  # not the bias

        optimizer.step(loss)
        self.weights = free * scale


def _cross_entropy(x: Tensor, y: Tensor, w: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean cross-entropy of x [N, D], and its gradients by w [C, D] and bias [C].

    By hand, some rows at a time, so that the gradient finds them in the processor's cache.
    """
    loss, by_w, by_bias = x.new_zeros(()), torch.zeros_like(w), torch.zeros_like(bias)
    for rows, labels in zip(x.split(ROWS), y.split(ROWS), strict=True):
        log_p = F.linear(rows, w, bias).log_softmax(1)  # [n, C]
        loss += F.nll_loss(log_p, labels, reduction="sum")
        excess = log_p.exp_().sub_(F.one_hot(labels, len(w)))
        by_w.addmm_(excess.T, rows)
        by_bias += excess.sum(0)
    return loss / len(x), by_w / len(x), by_bias / len(x)


def _principal_axes(x: Tensor) -> Tensor:
    """Orthonormal axes [D, R] of centred x [N, D].

    With fewer rows than columns only those that the rows span: the squared norm keeps the weights at
    zero along all others.
    """
    n, d = x.shape
    if n >= d:
        return torch.linalg.eigh(x.T @ x / n)[1]
    variance, turned = torch.linalg.eigh(x @ x.T / n)
    kept = variance > 1e-6 * variance[-1].clamp_min(1e-30)
    return x.T @ turned[:, kept] / (n * variance[kept]).sqrt()


def _sgd(x: Tensor, y: Tensor, classes: int, epochs: int, seed: int) -> Callable[[Tensor], Tensor]:
    """The papers' linear classifier on features as they are; lr is 30 for a batch of 256."""
    generator = torch.Generator().manual_seed(seed)
    weight = (0.01 * torch.randn(x.shape[1], classes, generator=generator)).to(x.device)
    bias = torch.zeros(classes, device=x.device)
    batch = min(256, len(x))
    steps, top = len(x) // batch, 30 * batch / 256
    optimizer = torch.optim.SGD([weight.requires_grad_(), bias.requires_grad_()], top, momentum=0.9)
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator)[: steps * batch].to(x.device)
        for step, index in enumerate(order.split(batch)):
            done = (epoch + step / steps) / epochs
            optimizer.param_groups[0]["lr"] = top * 0.5 * (1 + math.cos(math.pi * done))
            loss = F.cross_entropy(x[index] @ weight + bias, y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return lambda z: z @ weight.detach() + bias.detach()
