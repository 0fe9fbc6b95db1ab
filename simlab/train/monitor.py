"""What is measured and said while training: losses, times, collapse, kNN accuracy.

A line of train.log within an epoch tells how long the steps take, what for, and the loss:

epoch 3 step 200/390  time 0.084 (0.085)  data 0.000 (0.000)  loss -0.716 (-0.703)  left 1:52:07
"""

import math
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from simlab.compute.distributed import gather_rows, rows
from simlab.config import PretrainConfig
from simlab.data import Dataset, Images
from simlab.evaluate import (
    WARN_STD_RATIO,
    Counted,
    accuracy,
    collapse_metrics,
    counted,
    features,
    is_loss_of_collapse,
    knn_accuracy,
    raw_std,
)
from simlab.methods.base import MethodModule

MONITOR_IMAGES = 1000  # clean images on which std and rank of the embedding are measured

Item = TypeVar("Item")


# ------------------------------------------------------------------------------------- the losses


class LossSums:
    """The terms of the loss, added up over an epoch without waiting for the device."""

    def __init__(self, parts: int) -> None:
        self.parts = parts  # of a batch; each part's loss counts that much less
        self.names: list[str] = []
        self.sums = torch.zeros(0)

    def add(self, terms: dict[str, Tensor]) -> Tensor:
        """Add the terms of a part of a batch; returns their sum, to be minimised."""
        if not self.names:
            self.names = list(terms)
            self.sums = torch.zeros(len(terms), device=next(iter(terms.values())).device)
        values = torch.stack([term.to(self.sums) for term in terms.values()])  # [T]
        self.sums += values.detach() / self.parts
        return values.sum()

    def loss(self) -> Tensor:
        """The sum of the method's own terms: all but SIM's."""
        terms = [name for name in self.names if name != "sim_loss"]  # SIM's comes last
        return self.sums[: len(terms)].sum()

    def means(self, steps: int) -> dict[str, float]:
        """The mean of each term over the steps, and of the method's loss as "loss"."""
        values = (self.sums / steps).tolist()
        means = dict(zip(self.names, values, strict=True))
        if "loss" in means:
            return means
        loss = sum(value for name, value in means.items() if name != "sim_loss")
        return {"loss": loss} | means


class StepLog:
    """Sums of an epoch: seconds, those of them that were spent waiting for images, and the loss.

    A line has their means per step: over the steps since the line before and, in brackets, over
    the epoch.

    Args:
        epoch: From 1.
        steps: Steps of an epoch.
        steps_left: Steps from the epoch's start to the run's end.
    """

    def __init__(self, epoch: int, steps: int, steps_left: int) -> None:
        self.epoch = epoch
        self.steps = steps
        self.steps_left = steps_left
        self.start = time.monotonic()
        self.seconds_waited = 0.0
        self.last_step = 0
        self.last_sums = {"time": 0.0, "data": 0.0, "loss": 0.0}

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches, with a clock running while they are waited for."""
        start = time.monotonic()
        for batch in batches:
            self.seconds_waited += time.monotonic() - start
            yield batch
            start = time.monotonic()

    def line(self, step: int, loss: Tensor) -> str:
        """Write the line after `step` steps, whose losses add up to `loss`.

        Reading the loss waits for the device.
        """
        sums = {"loss": float(loss)}
        sums = {"time": time.monotonic() - self.start, "data": self.seconds_waited} | sums
        means = []
        for name, value in sums.items():
            recent = (value - self.last_sums[name]) / (step - self.last_step)
            means.append(f"{name} {recent:.4f} ({value / step:.4f})")
        self.last_sums = sums
        self.last_step = step
        left = timedelta(seconds=round(sums["time"] / step * (self.steps_left - step)))
        return "  ".join([f"epoch {self.epoch} step {step}/{self.steps}", *means, f"left {left}"])


def refuse_nan(values: list[Tensor], where: str) -> None:
    """Stop before anything broken is stored: a loss, weights, or what comes out of them.

    Raises:
        FloatingPointError: A value is NaN or infinite.
    """
    # a sum is finite only if every number is; one look at the device for all of them
    sums = torch.stack([value.sum(dtype=torch.float32) for value in values])
    if not bool(sums.isfinite().all()):
        raise FloatingPointError(
            f"training diverged: a loss, weight or feature is NaN or infinite {where}. Lower lr, "
            "add warmup_epochs, or set precision='float32'. What was stored before is whole"
        )


def check_finite(network: nn.Module, sums: LossSums, where: str) -> None:
    """Raise FloatingPointError where a loss of the epoch or a weight is NaN or infinite."""
    refuse_nan([sums.sums, *network.parameters(), *network.buffers()], where)


# ----------------------------------------------------------------------------------- the features


def _images_that_count(data: Dataset) -> Counted:
    return counted(data.train.labels, data.test.labels, data.classes)


class Pretraining:
    """The measures of pretraining: std and rank of the embedding, the encoder's kNN accuracy."""

    def __init__(self, config: PretrainConfig, data: Dataset) -> None:
        self.config = config
        self.data = data
        self.counted = _images_that_count(data)
        self.why_no_knn = self.counted.missing
        if len(data.train.labels[self.counted.train].unique()) == 1:
            self.why_no_knn = self.why_no_knn or "all labelled training images are of one class"

    def remark(self) -> str:
        """Say why kNN leaves images out, or is not measured; empty where all images count."""
        if self.why_no_knn:
            return f"no kNN accuracy: {self.why_no_knn}"
        return f"kNN accuracy: {self.counted.left_out}" if self.counted.left_out else ""

    def measure(self, network: MethodModule, epoch: int) -> dict[str, float]:
        """Measure after an epoch (from 1); the kNN accuracy after every few, and the last."""
        config = self.config
        embedding = self._embed_test_images(network)
        refuse_nan([embedding], f"in the features after epoch {epoch}")
        measures: dict[str, float] = dict(collapse_metrics(embedding))
        measures["raw_std"] = raw_std(embedding)
        is_due = epoch % config.monitor_every == 0 or epoch == config.epochs
        if is_due and not self.why_no_knn:
            measures |= self._knn(network.encoder)
            teacher = getattr(network, "teacher_encoder", None)
            if teacher is not None:
                measures["knn_teacher"] = self._knn(teacher)["knn"]
        return measures

    def _embed_test_images(self, network: MethodModule) -> Tensor:
        """The embedding of clean images spread over the test images (folders are sorted)."""
        data = self.data
        number = min(MONITOR_IMAGES, len(data.test))
        spread = torch.linspace(0, len(data.test) - 1, number).long()
        return features(_Embedder(network), data.test.subset(spread))

    def _knn(self, encoder: nn.Module) -> dict[str, float]:
        data = self.data
        train, test = self.counted.train, self.counted.test
        bank = features_of_all(encoder, data.train)[train]
        queries = features_of_all(encoder, data.test)[test]
        k = min(self.config.knn_k, len(bank))
        temperature = self.config.knn_temperature
        knn = knn_accuracy(
            bank, data.train.labels[train], queries, data.test.labels[test], k, temperature
        )
        row = {"knn": knn, "knn_k": k, "knn_temperature": temperature}
        if self.counted.left_out:
            row["knn_images"] = len(test)
        return row


class SupervisedTraining:
    """The measure of supervised training: the accuracy on the test images, once, at its end."""

    def __init__(self, epochs: int, data: Dataset) -> None:
        self.epochs = epochs
        self.data = data
        self.counted = _images_that_count(data)

    def remark(self) -> str:
        """Say which images are left out; empty where all have a label."""
        if self.counted.missing:
            return f"no test accuracy: {self.counted.missing}"
        return self.counted.left_out

    def measure(self, network: MethodModule, epoch: int) -> dict[str, float]:
        """Measure after the last epoch (from 1)."""
        data = self.data
        test = self.counted.test
        if epoch < self.epochs or self.counted.missing:
            return {}
        logits = features_of_all(network, data.test)
        refuse_nan([logits], f"in the outputs after epoch {epoch}")
        row = {"test_accuracy": accuracy(logits[test], data.test.labels[test])}
        if self.counted.left_out:
            row["test_images"] = len(test)
        return row


class _Embedder(nn.Module):
    """A method's `embed` as a module, so that `features` freezes its BatchNorm."""

    def __init__(self, network: MethodModule) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.embed(x)


def features_of_all(encoder: nn.Module, images: Images) -> Tensor:
    """The features [N, D] of all images, each process computing those of its slice."""
    local = features(encoder, images, only=rows(len(images)))
    return gather_rows(local, len(images))


def collapse_warning(
    loss: float, loss_at_collapse: float | None, std_ratio: float, scale_ratio: float = math.inf
) -> str | None:
    """Warn when the loss is that of a collapsed network and the embedding's std goes to 0.

    Args:
        loss: Mean of an epoch.
        loss_at_collapse: The method's; None where it has none: then the std alone counts.
        std_ratio: Std of the normalised embedding times sqrt(d), 1 for spread-out ones.
        scale_ratio: Std of the embedding as a multiple of the one that the loss asks for, where it
            asks for one: such an embedding can shrink to a point while its directions differ.

    Returns:
        A sentence, or None.
    """
    if std_ratio <= WARN_STD_RATIO:
        finding = (
            f"the std of z is {std_ratio:.0%} of 1/sqrt(d): all images get nearly the same features"
        )
    elif scale_ratio <= WARN_STD_RATIO:
        finding = f"z is nearly a point: its std is {scale_ratio:.0%} of what the loss asks for"
    else:
        return None
    if loss_at_collapse is None:
        return f"collapsing? {finding}"
    if not is_loss_of_collapse(loss, loss_at_collapse):
        return None
    return (
        f"collapsing? the loss is {loss:.3f}, near the {loss_at_collapse:.3f} of a complete "
        f"collapse, and {finding}"
    )
