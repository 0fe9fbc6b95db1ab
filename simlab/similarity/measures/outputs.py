"""Functional similarity: do two classifiers say the same, whatever their features are?

x and y are the logits [n, classes] of two classifiers on the same samples: the last layer's
outputs before the softmax. Unlike features they are not centred, as their sizes say which class is
predicted; of equal logits the first class is.
"""

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...layers import one_of
from ..representation import Representation, as_matrix

Outputs = Literal["logits", "probabilities"]


def disagreement(x: Any, y: Any) -> float:
    """Share of samples for which two classifiers predict different classes.

    Args:
        x: logits [n, classes].
        y: logits [n, classes].

    Returns:
        In [0, 1].

    Raises:
        ValueError: they are not the outputs of the same samples for the same classes.
    """
    a, b = _paired_outputs(x, y)
    return float((a.argmax(1) != b.argmax(1)).double().mean())


def jensen_shannon_divergence(x: Any, y: Any, *, outputs: Outputs = "logits") -> float:
    """Mean Jensen-Shannon divergence of two classifiers' class probabilities, in bits (Lin 1991).

    (KL(p | m) + KL(q | m)) / 2 with m = (p + q) / 2: 0 for equal probabilities, 1 where the
    classes that are thought possible do not overlap.

    Args:
        x: logits [n, classes].
        y: logits [n, classes].
        outputs: what x and y are; "logits" (or log-probabilities) pass a softmax first.

    Returns:
        In [0, 1].

    Raises:
        ValueError: see `disagreement`; or rows that are probabilities where logits are expected,
            or the other way round.
    """
    one_of(outputs, get_args(Outputs), "outputs")
    p, q = (_probabilities(logits, outputs) for logits in _paired_outputs(x, y))
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2  # [n], in nats
    return min(float(divergence.mean() / np.log(2)), 1.0)


def error_overlap(x: Any, y: Any, labels: Any) -> float:
    """Share of the samples that either classifier gets wrong which both get wrong (Jaccard index).

    Args:
        x: logits [n, classes].
        y: logits [n, classes].
        labels: the true classes [n].

    Returns:
        In [0, 1]; NaN where neither makes an error.

    Raises:
        ValueError: see `disagreement`; or labels that are no classes of these samples.
    """
    wrong_a, wrong_b = _errors(x, y, labels)
    either = (wrong_a | wrong_b).sum().item()
    both = (wrong_a & wrong_b).sum().item()
    return both / either if either else np.nan


def error_consistency(x: Any, y: Any, labels: Any) -> float:
    """Cohen's kappa of which samples two classifiers get wrong (Geirhos 2020, eq. 1 and 3).

    (c - e) / (1 - e), where c is the share of samples that both or neither gets right, and e the
    share expected of independent classifiers of the same accuracies: two good classifiers have few
    errors and so agree by chance alone.

    Args:
        x: logits [n, classes].
        y: logits [n, classes].
        labels: the true classes [n].

    Returns:
        1 for the same errors, 0 for independent ones, at least -1; NaN where both classifiers are
        always right or both always wrong.

    Raises:
        ValueError: see `error_overlap`.
    """
    wrong_a, wrong_b = _errors(x, y, labels)
    consistent = float((wrong_a == wrong_b).double().mean())
    rate_a = float(wrong_a.double().mean())
    rate_b = float(wrong_b.double().mean())
    expected = rate_a * rate_b + (1 - rate_a) * (1 - rate_b)
    return (consistent - expected) / (1 - expected) if expected < 1 else np.nan


def refuse_unless_logits(measure: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse layers that cannot be the logits of the same classes.

    Args:
        measure: its name, for the message.
        shapes: of the outputs, per sample, by layer.

    Raises:
        ValueError: an output is not [classes >= 2], or the numbers of classes differ.
    """
    first = next(iter(shapes))
    for layer, shape in shapes.items():
        if len(shape) != 1 or shape[0] < 2:
            expected = "expected logits [n, classes >= 2]"
        elif shape != shapes[first]:
            expected = f"expected the {shapes[first][0]} classes of {first!r}"
        else:
            continue
        raise ValueError(
            f"{measure}: layer {layer!r} gives [n, {', '.join(map(str, shape))}], {expected}; "
            "select the classifiers' last layers, as layers={'a': 'fc', 'b': 'head'}"
        )


def _paired_outputs(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Read two matrices of logits as float64; ValueError unless they have the same shape."""
    a = _raw(x)
    b = _raw(y)
    if a.shape != b.shape or a.shape[1] < 2:
        raise ValueError(
            "expected two matrices of logits [n, classes >= 2] of the same samples and classes, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return a, b


def _raw(x: Any) -> Tensor:
    """Outputs as they were before a Representation centred them [n, classes]."""
    if not isinstance(x, Representation):
        return as_matrix(x).double()
    if x.raw is None:
        raise ValueError("logits are needed: a Gram does not determine them")
    return x.raw


def _probabilities(x: Tensor, outputs: Outputs) -> Tensor:
    """Turn outputs [n, classes] into probabilities."""
    sums_to_one = bool(((x.sum(1) - 1).abs() < 1e-3).all() and (x > -1e-6).all())
    if outputs == "logits" and sums_to_one:
        raise ValueError(
            "expected logits, but all rows are probabilities: they sum to 1; give "
            'outputs="probabilities", or select the layer before the softmax'
        )
    if outputs == "logits":
        return x.softmax(1)
    if not sums_to_one:
        raise ValueError(
            "expected probabilities, but not all rows are nonnegative and sum to 1; give "
            'outputs="logits" for what comes before the softmax'
        )
    return x.clamp(min=0) / x.clamp(min=0).sum(1, keepdim=True)


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """KL(p | q) of each row [n], in nats; 0 log 0 is 0."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1)


def _errors(x: Any, y: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Which samples each classifier gets wrong [n]."""
    a, b = _paired_outputs(x, y)
    truth = torch.as_tensor(labels).to(a.device)
    if truth.shape != (len(a),):
        raise ValueError(f"labels of shape {tuple(truth.shape)}: expected ({len(a)},)")
    if truth.is_floating_point() or truth.dtype == torch.bool:
        raise ValueError(f"labels are {truth.dtype}: expected integers")
    outside = truth[(truth < 0) | (truth >= a.shape[1])]
    if len(outside):
        raise ValueError(f"label {outside[0].item()}: expected 0 .. {a.shape[1] - 1}")
    return a.argmax(1) != truth, b.argmax(1) != truth
