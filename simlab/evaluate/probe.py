"""The linear probe: how well a linear classifier on a frozen encoder's features tells the classes.

Features are computed once, without augmentation and with BatchNorm frozen (`encode`). A validation
split of the labelled training images chooses the regulariser by its loss; the probe is then fitted
on all labelled images, and the test split is evaluated once. Every choice is stored with the
accuracy.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from simlab._checks import near
from simlab.augment import Augment, view
from simlab.data import Dataset

from .features import Encoder, features, refuse_diverged
from .labels import counted, fraction_right, per_class_accuracy, stratified
from .linear import LinearClassifier, LinearProbe, SGDProbe, StandardisedRows

SOLVERS = ("lbfgs", "sgd")
REGULARISERS = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # candidates; see `LinearProbe` for the unit
HELD_OUT = 0.2  # fraction of the labelled images that chooses among them


class Features(NamedTuple):
    """An encoder's features of both splits, and the labels.

    `views` copies of the training images follow one another: first all clean ones, then all images
    augmented once, and so on. The labels are given once.
    """

    train: Tensor  # [views * N, D]
    train_labels: Tensor  # [N]
    test: Tensor  # [M, D]
    test_labels: Tensor  # [M]
    views: int = 1
    classes: tuple[str, ...] = ()  # their names


@dataclass(frozen=True)
class Probe:
    """A probe's accuracy, with everything that decided it, and the fitted classifier."""

    accuracy: float  # on the test split, 0 to 1
    validation: float  # on the held-out labelled images, at the chosen regulariser
    regulariser: float
    labels: int  # labelled training images
    tested: int  # test images that count: see `labels`
    seed: int  # decides which images are labelled, and which of them are held out
    solver: str
    views: int  # views of each labelled image; 1: the clean image alone
    epochs: int  # of SGD
    classifier: LinearClassifier = field(repr=False, compare=False)  # fitted on all labelled images
    per_class: pd.DataFrame = field(repr=False, compare=False)  # `per_class_accuracy`

    def numbers(self) -> dict[str, float | int | str]:
        """Return all fields but the last two, by name: a row of a table."""
        names = [entry.name for entry in fields(self) if entry.compare]
        return {name: getattr(self, name) for name in names}


def encode(
    encoder: Encoder,
    data: Dataset,
    views: int = 1,
    augment: Augment | None = None,
    seed: int = 0,
) -> Features:
    """Compute the features of all training and test images.

    Args:
        encoder: from normalised images [B, C, H, W] to features [B, D].
        data: the images.
        views: above 1, the clean training images are followed by views - 1 augmented copies of all.
        augment: the recipe of the augmented copies.
        seed: of the augmentation.

    Raises:
        ValueError: if `views` is not 1, or more together with a recipe.
    """
    if views < 1 or (views > 1 and augment is None):
        raise ValueError(f"views={views}: expected 1, or more together with a recipe in `augment`")
    generator = torch.Generator(data.train.device).manual_seed(seed)
    train = [features(encoder, data.train)]
    if augment is not None:
        draw_view = partial(view, augment=augment, normalize=data.normalize, generator=generator)
        for _ in range(views - 1):
            train.append(features(encoder, data.train, normalize=draw_view))
    test = features(encoder, data.test)
    labels, test_labels = data.train.labels, data.test.labels
    return Features(torch.cat(train), labels, test, test_labels, views, data.classes)


def linear_probe(
    feats: Features, labels: float = 0, seed: int = 0, solver: str = "lbfgs", epochs: int = 90
) -> Probe:
    """Fit a linear classifier to `labels` training images and evaluate it on the test split.

    Args:
        feats: features and labels of both splits, from `encode`.
        labels: number of labelled images, the same number of each class; below 1: that fraction of
            each class; 0: all of them. See `stratified`.
        seed: draws the labelled images; of sgd also the weights and the order.
        solver: "lbfgs", a `LinearProbe` whose regulariser is chosen from `REGULARISERS` by the loss
            on the held-out images; or "sgd", the `SGDProbe` of the papers, where the held-out
            images choose nothing and are only reported.
        epochs: of sgd.

    Raises:
        ValueError: if the solver is unknown, the number of labels does not fit the classes, or no
            training or test image has a label.
        FloatingPointError: if a feature is not finite.
        RuntimeError: if L-BFGS did not converge.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is unknown{near(solver, SOLVERS)}")
    refuse_diverged(feats.train, feats.test)
    images = counted(feats.train_labels, feats.test_labels, feats.classes)
    images.check()
    held_out, rest = _held_out_and_rest(feats.train_labels, labels, seed)
    validation_x = feats.train[held_out]
    validation_y = feats.train_labels[held_out]
    labelled = torch.cat([held_out, rest])
    if solver == "sgd":
        regulariser = 0.0
        trial: LinearClassifier = SGDProbe(epochs, seed).fit(*_rows(feats, rest))
        classifier: LinearClassifier = SGDProbe(epochs, seed).fit(*_rows(feats, labelled))
    else:
        best = _best_probe(*_rows(feats, rest), validation_x, validation_y)
        regulariser = best.regulariser
        trial = best
        classifier = LinearProbe(regulariser).fit(*_rows(feats, labelled))
    test_labels = feats.test_labels[images.test]
    predicted = classifier.predict(feats.test[images.test])
    return Probe(
        accuracy=fraction_right(predicted, test_labels),
        validation=trial.score(validation_x, validation_y),
        regulariser=regulariser,
        labels=len(labelled),
        tested=len(test_labels),
        seed=seed,
        solver=solver,
        views=feats.views,
        epochs=epochs if solver == "sgd" else 0,
        classifier=classifier,
        per_class=per_class_accuracy(predicted, test_labels, feats.classes),
    )


def _held_out_and_rest(train_labels: Tensor, labels: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the labelled images, and split their indices: [H] to choose with, [L - H] to fit to."""
    generator = torch.Generator().manual_seed(seed)
    labelled = stratified(train_labels, labels, generator)
    classes = len(train_labels.cpu()[labelled].unique())
    number = max(classes, round(HELD_OUT * len(labelled)))
    if len(labelled) <= number:
        raise ValueError(
            f"labels={labels:.10g}: expected at least two for each of {classes} classes"
        )
    labelled = labelled.to(train_labels.device)
    return labelled[:number], labelled[number:]


def _rows(feats: Features, index: Tensor) -> tuple[Tensor, Tensor]:
    """Select every view of the training images at `index` [L]: [views * L, D], [views * L]."""
    n = len(feats.train_labels)
    every_view = torch.cat([index + block * n for block in range(feats.views)])
    return feats.train[every_view], feats.train_labels[index].repeat(feats.views)


def _best_probe(
    x: Tensor, labels: Tensor, validation_x: Tensor, validation_labels: Tensor
) -> LinearProbe:
    """Fit weaker and weaker regularisers until the loss on the held-out rows no longer falls.

    By the loss, as accuracies of twenty images differ by chance. The weak ones, where the solver
    takes longest, are often not needed.
    """
    rows = StandardisedRows(x, labels)
    best = LinearProbe(REGULARISERS[0]).fit_rows(rows)
    lowest = _loss(best, validation_x, validation_labels)
    for regulariser in REGULARISERS[1:]:
        probe = LinearProbe(regulariser).fit_rows(rows)
        loss = _loss(probe, validation_x, validation_labels)
        if loss >= lowest:
            break
        best = probe
        lowest = loss
    return best


def _loss(probe: LinearProbe, features: Tensor, labels: Tensor) -> float:
    """Compute the mean cross-entropy of held-out rows.

    A row whose class has no other labelled image is left out: no regulariser could predict it.
    """
    labels = labels.cpu()
    seen = torch.isin(labels, probe.classes_)
    target = torch.searchsorted(probe.classes_, labels[seen])  # index into the ascending classes
    return float(F.cross_entropy(probe.logits(features)[seen], target))


def predictions(
    feats: Features, labels: float = 0, seed: int = 0, solver: str = "lbfgs", epochs: int = 90
) -> Tensor:
    """Predict the classes [M] of the test images with the probe of `linear_probe`."""
    probe = linear_probe(feats, labels, seed, solver, epochs)
    return probe.classifier.predict(feats.test)


def probe_table(
    encoded: dict[str, Features],
    budgets: Sequence[float],
    seeds: Sequence[int],
    solver: str = "lbfgs",
    epochs: int = 90,
) -> pd.DataFrame:
    """Probe every encoder with every label budget and seed.

    Args:
        encoded: features by the encoder's name.
        budgets: numbers of labelled images, or fractions of each class.
        seeds: seeds of `linear_probe`.
        solver: as in `linear_probe`.
        epochs: as in `linear_probe`.

    Returns:
        A row for each, with the column `encoder` and the numbers of `Probe`.
    """
    rows: list[dict[str, object]] = []
    jobs = list(itertools.product(encoded, budgets, seeds))
    for name, labels, seed in tqdm(jobs, "linear probes", leave=False):
        probe = linear_probe(encoded[name], labels, seed, solver, epochs)
        rows.append({"encoder": name, **probe.numbers()})
    return pd.DataFrame(rows)
