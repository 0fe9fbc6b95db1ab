"""What is said while training: the progress bar, train.log, knn.csv and warnings.

A line of train.log within an epoch tells how long the steps take, what for, and the loss:

epoch 3 step 200/390  time 0.084 (0.085)  data 0.000 (0.000)  loss -0.716 (-0.703)  left 1:52:07
"""

import math
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from torch import Tensor
from tqdm.auto import tqdm

from simlab.compute import distributed
from simlab.config import TrainConfig
from simlab.evaluate import WARN_STD_RATIO
from simlab.runs import Run

COLLAPSED_LOSS = 0.05  # how near to the loss at collapse is near, as a fraction of it

Item = TypeVar("Item")
Row = dict[str, float]  # what is recorded of an epoch


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


def progress_bar(
    run: Run, config: TrainConfig, steps: int, epochs_done: int, visible: bool
) -> tqdm:
    """A bar that counts images; shown by the first process alone."""
    images = steps * config.batch_size
    return tqdm(
        total=config.epochs * images,
        initial=epochs_done * images,
        desc=run.folder.name.split("-")[0],
        unit=" images",
        unit_scale=True,
        mininterval=0.5,
        disable=not visible or distributed.rank() > 0,
    )


def postfix(history: list[Row], loss: Tensor) -> str:
    """What the progress bar shows: this epoch's loss, and the last epoch's std and kNN accuracy."""
    last_row = history[-1] if history else {}
    values = {"loss": float(loss)}
    values |= {name: last_row[name] for name in ("std_ratio", "knn") if name in last_row}
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())


def averaged(loss: Tensor) -> Tensor:
    """The mean of a loss over all processes."""
    mean = loss.clone().reshape(1)
    distributed.average([mean])
    return mean[0]


def record(run: Run, row: Row, epochs: int, loss_at_collapse: float | None) -> None:
    """Write an epoch's line into train.log, its kNN accuracy into knn.csv, and any warning."""
    epoch = int(row["epoch"])
    seconds_left = row["seconds"] / epoch * (epochs - epoch)
    line = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
    run.log(f"{line}  left {seconds_left:.0f} s")
    if "knn" in row:
        run.log_knn(epoch, row["knn"])
    warning = collapse_warning(row["loss"], loss_at_collapse, row.get("std_ratio", math.inf))
    if warning:
        run.log(warning)
        if distributed.rank() == 0:
            tqdm.write(f"epoch {epoch}: {warning}")


def collapse_warning(loss: float, loss_at_collapse: float | None, std_ratio: float) -> str | None:
    """Warn when the loss is that of a collapsed network and the embedding's std goes to 0.

    Args:
        loss: Mean of an epoch.
        loss_at_collapse: The method's; None where it has none: then the std alone counts.
        std_ratio: Std of the normalised embedding times sqrt(d), 1 for spread-out ones.

    Returns:
        A sentence, or None.
    """
    if not std_ratio <= WARN_STD_RATIO:
        return None
    finding = (
        f"the std of z is {std_ratio:.0%} of 1/sqrt(d): all images get nearly the same features"
    )
    if loss_at_collapse is None:
        return f"collapsing? {finding}"
    if abs(loss - loss_at_collapse) > COLLAPSED_LOSS * max(1.0, abs(loss_at_collapse)):
        return None
    return (
        f"collapsing? the loss is {loss:.3f}, near the {loss_at_collapse:.3f} of a complete "
        f"collapse, and {finding}"
    )
