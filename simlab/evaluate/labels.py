"""Which images count where classes are predicted, and how labelled images are drawn.

One rule for kNN, probe and supervised training: an image without a label (-1) is neither learned
from nor evaluated, and a test image of a class that no labelled training image shows is not
evaluated. Whoever leaves images out says so, in one sentence.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from simlab.data import Dataset

# ------------------------------------------------------------------------------- which images count


@dataclass(frozen=True)
class Counted:
    """The images that count.

    Attributes:
        train: Indices of the training images that have a label, int64 [L].
        test: Indices of the test images whose class one of those has, int64 [T].
        left_out: A sentence about the others; empty where all count.
        missing: Why nothing can be evaluated; empty where something can.
    """

    train: Tensor
    test: Tensor
    left_out: str
    missing: str

    def check(self) -> None:
        """Refuse to evaluate nothing, and warn where images are left out.

        Raises:
            ValueError: No training image has a label, or no test image counts.
        """
        if self.missing:
            raise ValueError(self.missing)
        if self.left_out:
            warnings.warn(self.left_out, stacklevel=3)


def counted(train_labels: Tensor, test_labels: Tensor, classes: Sequence[str] = ()) -> Counted:
    """Tell which images count.

    Args:
        train_labels: Of the training images, int64 [N]; -1: none.
        test_labels: Of the test images, int64 [M].
        classes: The classes' names, for the sentence.
    """
    train = (train_labels >= 0).nonzero()[:, 0]
    trained_classes = train_labels[train].unique()
    has_label = test_labels >= 0
    counts = torch.isin(test_labels, trained_classes)  # -1 is none of them
    unknown = test_labels[has_label & ~counts]
    test = counts.nonzero()[:, 0]
    return Counted(
        train,
        test,
        _left_out(train_labels, test_labels, unknown, classes),
        _missing(len(train), len(test), train_labels, test_labels),
    )


def has_labels(data: Dataset) -> bool:
    """Tell whether a dataset can be evaluated: labelled images of two classes, and test images."""
    images = counted(data.train.labels, data.test.labels)
    classes = data.train.labels[images.train].unique()
    return len(classes) > 1 and not images.missing


def _left_out(
    train_labels: Tensor, test_labels: Tensor, unknown: Tensor, classes: Sequence[str]
) -> str:
    parts = []
    for split, labels in (("training", train_labels), ("test", test_labels)):
        number = int((labels < 0).sum())
        if number:
            parts.append(f"{number} of {len(labels)} {split} images without a label (-1)")
    if len(unknown):
        names = [name_of(label, classes) for label in unknown.unique().tolist()]
        parts.append(
            f"{len(unknown)} of {len(test_labels)} test images of classes that no labelled "
            f"training image has ({', '.join(names)})"
        )
    return f"left out: {'; '.join(parts)}" if parts else ""


def _missing(train: int, test: int, train_labels: Tensor, test_labels: Tensor) -> str:
    if not train:
        return f"none of the {len(train_labels)} training images has a label (all are -1)"
    if test:
        return ""
    if int(test_labels.max()) < 0:
        return f"none of the {len(test_labels)} test images has a label (all are -1)"
    return (
        f"none of the {len(test_labels)} test images is of a class that a labelled training "
        "image has"
    )


def refuse_unlabelled(labels: Tensor) -> None:
    """Raise ValueError where an image has no label: it would count as a wrong prediction."""
    number = int((labels < 0).sum())
    if number:
        raise ValueError(f"{number} of {len(labels)} images have no label (-1): leave them out")


# --------------------------------------------------------------------------------------- accuracies


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the fraction of rows [N, classes] whose greatest entry is the label's, 0 .. 1.

    Raises:
        ValueError: A label is -1.
    """
    return fraction_right(logits.argmax(1), labels)


def fraction_right(predicted: Tensor, labels: Tensor) -> float:
    """Return the fraction of predicted labels [N] that are right, 0 .. 1.

    Raises:
        ValueError: A label is -1.
    """
    refuse_unlabelled(labels)
    return float((predicted == labels).float().mean())


def per_class_accuracy(
    predicted: Tensor, labels: Tensor, classes: Sequence[str] = ()
) -> pd.DataFrame:
    """Tell the accuracy of each class; the mean over the classes weighs them alike.

    Args:
        predicted: Labels [N].
        labels: The true ones [N]; -1 is left out.
        classes: The classes' names; numbers where they are not given.

    Returns:
        A row for each class that has images: their number `images`, and `accuracy`, 0 .. 1.
    """
    rows = []
    for label in labels[labels >= 0].unique().tolist():
        of_class = labels == label
        right = (predicted[of_class] == label).double().mean()
        rows.append((name_of(label, classes), int(of_class.sum()), float(right)))
    return pd.DataFrame(rows, columns=["class", "images", "accuracy"]).set_index("class")


def name_of(label: int, classes: Sequence[str]) -> str:
    """Return the name of a class; its number where there are no names."""
    return classes[label] if label < len(classes) else str(label)


# ------------------------------------------------------------------------ draws of labelled images


def stratified(labels: Tensor, number: float, generator: torch.Generator) -> Tensor:
    """Draw the indices of labelled images, spread so that every prefix has all classes' share.

    With the same number of each class, the labels at these indices take turns: 0, 1, ..., C - 1, 0,
    1, ...; every k-th index, however, may miss classes.

    Args:
        labels: int64 [N]; images without a label (-1) are not drawn.
        number: 0: all, in random order, whether the classes are balanced or not. Below 1: that
            fraction of each class, at least one image. Else how many, as many of each class.
        generator: On the CPU.

    Returns:
        int64 [L].

    Raises:
        ValueError: The number does not fit the classes.
    """
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order] >= 0]
    if number in (0, len(order)):
        return order
    classes, available = labels[order].unique(return_counts=True)
    chosen = []
    position = []  # within its class, 0 .. 1
    for label, n in zip(classes.tolist(), _budgets(number, classes, available), strict=True):
        chosen.append(order[labels[order] == label][:n])
        position.append((torch.arange(n) + 0.5) / n)
    by_position = torch.cat(position).argsort(stable=True)  # of equal ones the first class
    return torch.cat(chosen)[by_position]


def largest_balanced(labels: Tensor, number: int) -> int:
    """Return the largest number, at most `number`, that `stratified` draws evenly from the classes.

    Args:
        labels: int64 [N], -1 where an image has none.
        number: What is wished for.
    """
    _, available = labels[labels >= 0].unique(return_counts=True)
    classes = len(available)
    return min(number // classes, int(available.min())) * classes


def _budgets(number: float, classes: Tensor, available: Tensor) -> list[int]:
    """Return how many images of each class are drawn."""
    total = int(available.sum())
    said = f"labels={number:.10g}"
    if 0 < number < 1:
        budgets: list[int] = (number * available).round().clamp_min(1).int().tolist()
        return budgets
    if number < 1 or number % len(classes) or number > total:
        raise ValueError(
            f"{said}: expected a multiple of the {len(classes)} classes, at most {total}, or a "
            "fraction of each class such as 0.1"
        )
    per_class = int(number) // len(classes)
    fewest, rarest = available.min(0)
    if fewest < per_class:
        raise ValueError(
            f"{said}: class {int(classes[rarest])} has only {int(fewest)} images, so that at most "
            f"{int(fewest) * len(classes)} can be drawn, as many of each class; "
            f"labels={number / total:.2g} draws that fraction of each class instead"
        )
    return [per_class] * len(classes)
