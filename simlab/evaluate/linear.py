"""Linear classifiers of features: fit, predict, score, as in scikit-learn.

`LinearProbe` is logistic regression, solved to convergence; `SGDProbe` is what the papers train.
"""

import math
import warnings
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import refuse_diverged
from .labels import fraction_right, refuse_unlabelled

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
            from sklearn.exceptions import NotFittedError

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

    by scikit-learn's Newton-CG, in float64, which takes half as long as its L-BFGS where features
    are correlated. The intercept is not penalised. As the cross-entropy is a mean, the regulariser
    has the same meaning for any number of rows.
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

    def fit(self, features: Tensor, labels: Tensor, start: "LinearProbe | None" = None) -> Self:
        """Fit the classifier to features [N, D] and labels [N].

        Args:
            features: of the labelled images.
            labels: theirs.
            start: a probe of another regulariser or of some of the rows, fitted before: the solver
                starts at its weights, and is sooner at the same minimum. None: at 0.

        Raises:
            ValueError: if the features are not finite, or do not fit the labels; if a label is
                negative; if there is one class only.
            RuntimeError: if the solver did not converge.
        """
        # loading scikit-learn takes two seconds
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

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
            solver="newton-cg",
            warm_start=start is not None,
        )
        if start is not None and torch.equal(start.classes_, self.classes_):
            model.coef_ = _of_scikit_learn(start.coef_).numpy()
            model.intercept_ = _of_scikit_learn(start.intercept_).numpy()
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


def _of_scikit_learn(weights: Tensor) -> Tensor:
    """Weights [C, ...] in its form: for two classes the difference alone, [1, ...]."""
    return weights[1:] - weights[:1] if len(weights) == 2 else weights.clone()


class SGDProbe(LinearClassifier):
    """The linear classifier of the papers: SGD on the features as they are.

    Learning rate 30 for a batch of 256, momentum 0.9, no weight decay, cosine schedule
    (SimSiam, arXiv 2011.10566, appendix A, after MoCo, arXiv 1911.05722, section 4.1).
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
