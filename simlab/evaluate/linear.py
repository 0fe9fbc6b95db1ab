"""Linear classifiers of features: fit, predict, score, as in scikit-learn.

`LinearProbe` is logistic regression, solved to convergence; `SGDProbe` is what the papers train.
"""

import math
from typing import Self

import torch
import torch.nn.functional as F
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from .features import refuse_diverged
from .labels import fraction_right, refuse_unlabelled
from .logistic import PrincipalAxes, fit_softmax

TOLERANCE = 1e-4  # the solver goes on until the norm of the objective's gradient is below it
MAX_ITERATIONS = 10_000  # far more than the solver has ever needed; reaching it is an error


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
        """Compute the accuracy on features [M, D] and labels [M], 0 to 1.

        Raises:
            ValueError: if a label is -1.
        """
        return fraction_right(self.predict(features), labels)


class LinearProbe(LinearClassifier):
    """Multinomial logistic regression on standardised features.

    With x standardised to mean 0 and variance 1, W = `coef_` and b = `intercept_`, it minimises

        mean over rows of cross_entropy(W x + b, label)  +  regulariser * (sum of all W_ij ** 2)

    by scipy's L-BFGS, in float64 (`logistic`). The intercept is not penalised. As the cross-entropy
    is a mean, the regulariser has the same meaning for any number of rows.
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
        return self.fit_rows(StandardisedRows(features, labels))

    def fit_rows(self, rows: "StandardisedRows") -> Self:
        """Fit the classifier to rows that other probes may be fitted to as well.

        Raises:
            RuntimeError: if the solver did not converge.
        """
        try:
            self.coef_, self.intercept_ = fit_softmax(
                rows.axes, rows.target, self.regulariser, TOLERANCE, MAX_ITERATIONS
            )
        except RuntimeError as error:
            raise RuntimeError(f"{self} did not converge: {error}") from error
        self.classes_ = rows.classes
        self.mean_ = rows.mean
        self.scale_ = rows.scale
        return self


class StandardisedRows:
    """Labelled features, standardised and on their principal axes, for probes of any regulariser.

    Attributes:
        classes: The labels seen, ascending, int64 [C].
        target: The index of each row's label among them, int64 [N].
        mean: Of each feature, float64 [D].
        scale: What each feature is divided by, float64 [D].
        axes: The standardised rows.
    """

    def __init__(self, features: Tensor, labels: Tensor):
        """Standardise features [N, D] with labels [N].

        Raises:
            ValueError: if the features are not finite, or do not fit the labels; if a label is
                negative; if there is one class only.
        """
        _check_rows(features, labels)
        x = features.cpu().double()
        self.classes, self.target = labels.cpu().unique(return_inverse=True)
        self.mean = x.mean(0)
        self.scale = _scale(x)
        self.axes = PrincipalAxes.of((x - self.mean) / self.scale)


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
    refuse_unlabelled(labels)
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
