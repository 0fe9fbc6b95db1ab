"""The linear probe: how well a linear classifier on a frozen encoder's features tells the classes.

Features are computed once, without augmentation and with BatchNorm frozen (`encode`). A validation
split of the labelled training images chooses the regulariser by its loss; the probe is then fitted
on all labelled images, and the test split is evaluated once. Every choice is stored with the
accuracy.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Self

import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from tqdm.auto import tqdm

from simlab._names import near
from simlab.augment import Augment, view
from simlab.data.images import Dataset

from .features import features, refuse_diverged, ridge_r2, stratified

SOLVERS = ("lbfgs", "sgd")
REGULARISERS = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # candidates; see `LinearProbe` for the unit
HELD_OUT = 0.2  # share of the labelled images that chooses among them
TOLERANCE = 1e-4  # the solver goes on until the norm of the objective's gradient is below it
MAX_ITERATIONS = 10_000  # far more than the solver has ever needed; reaching it is an error


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


class LinearClassifier:
    """A linear map from features to logits; `LinearProbe` and `SGDProbe` differ in how they fit it.

    Attributes, once fitted (as in scikit-learn, those that end in an underscore):
        classes_: the labels seen while fitting, ascending, int64 [C].
        coef_: weights for the standardised features (x - mean_) / scale_, float64 [C, D].
        intercept_: float64 [C].
        mean_: what is subtracted from each feature, float64 [D].
        scale_: what each feature is then divided by, float64 [D].
    """

    classes_: Tensor
    coef_: Tensor
    intercept_: Tensor
    mean_: Tensor
    scale_: Tensor

    def fit(self, features: Tensor, labels: Tensor) -> Self:
        """Fit the map to features [N, D] and labels [N]."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Compute a score for every class: float64 [M, C] on the CPU, for features [M, D].

        Raises:
            NotFittedError: if `fit` was not called before.
            ValueError: if the features have another width than those of `fit`.
        """
        if not hasattr(self, "coef_"):
            name = type(self).__name__
            raise NotFittedError(f"this {name} is not fitted: call fit(features, labels) first")
        expected = self.coef_.shape[1]
        if features.ndim != 2 or features.shape[1] != expected:
            raise ValueError(
                f"features of shape {list(features.shape)}: expected [M, {expected}], "
                "as wide as those of fit"
            )
        standardised = (features.cpu().double() - self.mean_) / self.scale_  # [M, D]
        return standardised @ self.coef_.T + self.intercept_

    def predict(self, features: Tensor) -> Tensor:
        """Predict a label for each row of features [M, D]: int64 [M], on the features' device."""
        best = self.logits(features).argmax(1)  # [M]
        return self.classes_[best].to(features.device)

    def score(self, features: Tensor, labels: Tensor) -> float:
        """Compute the accuracy on features [M, D] and labels [M], 0 to 1."""
        return float((self.predict(features) == labels).float().mean())


class LinearProbe(LinearClassifier):
    """Multinomial logistic regression on standardised features.

    With x standardised to mean 0 and variance 1, W = `coef_` and b = `intercept_`, it minimises

        mean over rows of cross_entropy(W x + b, label)  +  regulariser * (sum of all W_ij ** 2)

    by scikit-learn's L-BFGS, in float64. The intercept is not penalised. As the cross-entropy is a
    mean, the regulariser has the same meaning for any number of rows.
    """

    def __init__(self, regulariser: float = 1e-2):
        """Set the weight of the squared norm.

        Raises:
            ValueError: if it is not a positive, finite number.
        """
        if not 0 < regulariser < math.inf:
            raise ValueError(f"regulariser={regulariser}: expected a positive, finite number")
        self.regulariser = regulariser

    def __repr__(self) -> str:
        return f"LinearProbe(regulariser={self.regulariser})"

    def fit(self, features: Tensor, labels: Tensor) -> Self:
        """Fit the classifier to features [N, D] and labels [N].

        Raises:
            ValueError: if the features are not finite, or do not fit the labels; if a label is
                negative; if there is one class only.
            RuntimeError: if the solver did not converge.
        """
        _check_rows(features, labels)
        x = features.cpu().double()
        self.classes_, target = labels.cpu().unique(return_inverse=True)
        self.mean_ = x.mean(0)
        self.scale_ = _scale(x)
        x = (x - self.mean_) / self.scale_  # [N, D]

        binary = len(self.classes_) == 2
        # scikit-learn minimises C * (sum of the rows' losses) + (squared norm) / 2. For two classes
        # its only weight vector w is the difference of the two here, w / 2 and -w / 2, and the sum
        # of their squares is |w| ** 2 / 2.
        weight = self.regulariser if binary else 2 * self.regulariser
        # scikit-learn looks at the gradient's largest entry: if each of P entries is below
        # TOLERANCE / sqrt(P), the norm is below TOLERANCE.
        parameters = len(self.classes_) * (x.shape[1] + 1)
        model = LogisticRegression(
            C=1 / (weight * len(x)),
            tol=TOLERANCE / math.sqrt(parameters),
            max_iter=MAX_ITERATIONS,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.fit(x.numpy(), target.numpy())
            except ConvergenceWarning as warning:
                raise RuntimeError(f"{self} did not converge: {warning}") from warning

        coef = torch.from_numpy(model.coef_)  # [C, D]; [1, D] for two classes
        intercept = torch.from_numpy(model.intercept_)  # [C]; [1] for two classes
        self.coef_ = torch.cat([-coef, coef]) / 2 if binary else coef
        self.intercept_ = torch.cat([-intercept, intercept]) / 2 if binary else intercept
        return self


class SGDProbe(LinearClassifier):
    """The linear classifier of the papers: SGD on the features as they are.

    Learning rate 30 for a batch of 256, momentum 0.9, no weight decay, cosine schedule
    (SimSiam, arXiv 2011.10566, appendix A; MoCo, arXiv 1911.05722, section 4.1).
    """

    BATCH_SIZE = 256
    LEARNING_RATE = 30.0  # for that batch; proportionally less where there are fewer rows

    def __init__(self, epochs: int = 90, seed: int = 0):
        """Set the number of passes over the rows, and the seed of the weights and the order.

        Raises:
            ValueError: if there is not at least one epoch.
        """
        if epochs < 1:
            raise ValueError(f"epochs={epochs}: expected at least 1")
        self.epochs = epochs
        self.seed = seed

    def __repr__(self) -> str:
        return f"SGDProbe(epochs={self.epochs}, seed={self.seed})"

    def fit(self, features: Tensor, labels: Tensor) -> Self:
        """Fit the classifier to features [N, D] and labels [N], on the features' device.

        Raises:
            ValueError: if the features are not finite, or do not fit the labels; if a label is
                negative; if there is one class only.
        """
        _check_rows(features, labels)
        n, width = features.shape
        classes, target = labels.unique(return_inverse=True)
        generator = torch.Generator().manual_seed(self.seed)
        layer = nn.utils.skip_init(nn.Linear, width, len(classes))  # leaves the global seed alone
        nn.init.normal_(layer.weight, std=0.01, generator=generator)
        nn.init.zeros_(layer.bias)
        layer.to(features.device)

        batch_size = min(self.BATCH_SIZE, n)
        batches = n // batch_size  # rows that do not fill a batch wait for another epoch
        rate = self.LEARNING_RATE * batch_size / self.BATCH_SIZE
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * batches)
        for _ in range(self.epochs):
            order = torch.randperm(n, generator=generator).to(features.device)
            for index in order[: batches * batch_size].split(batch_size):
                loss = F.cross_entropy(layer(features[index]), target[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

        self.classes_ = classes.cpu()
        self.coef_ = layer.weight.detach().cpu().double()
        self.intercept_ = layer.bias.detach().cpu().double()
        self.mean_ = torch.zeros(width, dtype=torch.float64)
        self.scale_ = torch.ones(width, dtype=torch.float64)
        return self


def _check_rows(features: Tensor, labels: Tensor) -> None:
    """Refuse what no classifier can be fitted to."""
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features of shape {list(features.shape)} and labels of shape {list(labels.shape)}: "
            "expected [N, D] and [N]"
        )
    refuse_diverged(features)
    if int(labels.min()) < 0:
        raise ValueError("an image has no label (-1): the probe needs all of them")
    if bool((labels == labels[0]).all()):
        raise ValueError(f"all labels are {int(labels[0])}: expected at least two classes")


def _scale(x: Tensor) -> Tensor:
    """Compute the standard deviation of each column of x [N, D]: [D]; 1 where a column is constant.

    A constant column, such as a black corner's pixel, may vary among other images: divided by a
    rounding error, it would outweigh all others there.
    """
    std = x.std(0)
    varies = std > 1e-6 * (1 + x.mean(0).abs())
    return torch.where(varies, std, 1.0)


@dataclass(frozen=True)
class Probe:
    """A probe's accuracy, with everything that decided it, and the fitted classifier."""

    accuracy: float  # on the test split, 0 to 1
    validation: float  # on the held-out labelled images, at the chosen regulariser
    regulariser: float
    labels: int  # labelled training images
    seed: int  # decides which images are labelled, and which of them are held out
    solver: str
    views: int  # views of each labelled image; 1: the clean image alone
    epochs: int  # of SGD
    classifier: LinearClassifier = field(repr=False, compare=False)  # fitted on all labelled images

    def numbers(self) -> dict[str, float | int | str]:
        """Return all fields but the classifier, by name: a row of a table."""
        names = [entry.name for entry in fields(self) if entry.name != "classifier"]
        return {name: getattr(self, name) for name in names}


def encode(
    encoder: Callable[[Tensor], Tensor],
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

    def augmented(images: Tensor) -> Tensor:
        return view(images, augment, data.normalize, generator=generator)

    train = [features(encoder, data.train)]
    for _ in range(views - 1):
        train.append(features(encoder, data.train, normalize=augmented))
    test = features(encoder, data.test)
    return Features(torch.cat(train), data.train.labels, test, data.test.labels, views)


def linear_probe(
    feats: Features, labels: int = 0, seed: int = 0, solver: str = "lbfgs", epochs: int = 90
) -> Probe:
    """Fit a linear classifier to `labels` training images and evaluate it on the test split.

    Args:
        feats: features and labels of both splits, from `encode`.
        labels: number of labelled images, the same number of each class; 0: all of them.
        seed: draws the labelled images; of sgd also the weights and the order.
        solver: "lbfgs", a `LinearProbe` whose regulariser is chosen from `REGULARISERS` by the loss
            on the held-out images; or "sgd", the `SGDProbe` of the papers, where the held-out
            images choose nothing and are only reported.
        epochs: of sgd.

    Raises:
        ValueError: if the solver is unknown, the number of labels does not fit the classes, a label
            is missing or a feature is not finite.
        RuntimeError: if L-BFGS did not converge.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is unknown{near(solver, SOLVERS)}")
    refuse_diverged(feats.train, feats.test)
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
    return Probe(
        accuracy=classifier.score(feats.test, feats.test_labels),
        validation=trial.score(validation_x, validation_y),
        regulariser=regulariser,
        labels=len(labelled),
        seed=seed,
        solver=solver,
        views=feats.views,
        epochs=epochs if solver == "sgd" else 0,
        classifier=classifier,
    )


def _held_out_and_rest(train_labels: Tensor, labels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the labelled images, and split their indices: [H] to choose with, [L - H] to fit to."""
    if int(train_labels.min()) < 0:
        raise ValueError("a training image has no label (-1): the probe needs all of them")
    classes = int(train_labels.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    labelled = stratified(train_labels, labels or len(train_labels), generator)
    number = max(classes, round(HELD_OUT * len(labelled)))
    if len(labelled) <= number:
        raise ValueError(f"labels={labels}: expected at least two for each of {classes} classes")
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
    best = LinearProbe(REGULARISERS[0]).fit(x, labels)
    lowest = _loss(best, validation_x, validation_labels)
    for regulariser in REGULARISERS[1:]:
        probe = LinearProbe(regulariser).fit(x, labels)
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
    known = torch.isin(labels, probe.classes_)
    target = torch.searchsorted(probe.classes_, labels[known])  # position in the ascending classes
    return float(F.cross_entropy(probe.logits(features)[known], target))


def predictions(
    feats: Features, labels: int = 0, seed: int = 0, solver: str = "lbfgs", epochs: int = 90
) -> Tensor:
    """Predict the classes [M] of the test images with the probe of `linear_probe`."""
    probe = linear_probe(feats, labels, seed, solver, epochs)
    return probe.classifier.predict(feats.test)


def probe_table(
    encoded: dict[str, Features],
    budgets: Sequence[int],
    seeds: Sequence[int],
    solver: str = "lbfgs",
    epochs: int = 90,
) -> pd.DataFrame:
    """Probe every encoder with every label budget and seed.

    Args:
        encoded: features by the encoder's name.
        budgets: numbers of labelled images.
        seeds: of `linear_probe`, as are solver and epochs.

    Returns:
        A row for each, with the column `encoder` and the numbers of `Probe`.
    """
    rows = []
    jobs = list(itertools.product(encoded, budgets, seeds))
    for name, labels, seed in tqdm(jobs, "linear probes", leave=False):
        probe = linear_probe(encoded[name], labels, seed, solver, epochs)
        rows.append({"encoder": name} | probe.numbers())
    return pd.DataFrame(rows)


def factor_scores(encoder: Callable[[Tensor], Tensor], data: Dataset) -> dict[str, float]:
    """Measure how well a linear map finds each known factor in the features: R^2 on the test split.

    1: exactly; 0: no better than the mean (may be slightly below). Ridge regression from all
    training images; an angle in degrees is predicted as its cosine and sine.

    Raises:
        ValueError: if the dataset has no known factors.
    """
    in_train = data.train.factor_targets()
    in_test = data.test.factor_targets()
    if not in_train:
        raise ValueError(f"{data.name} has no known factors: fashion-scattered has")
    x = encode(encoder, data)
    return {
        name: ridge_r2(x.train, x.test, values, in_test[name]) for name, values in in_train.items()
    }
