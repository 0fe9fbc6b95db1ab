"""What is shown and recorded while training: the bar, an epoch's line, warnings."""

import math

from torch import Tensor
from tqdm.auto import tqdm

from simlab.compute import distributed
from simlab.config import TrainConfig
from simlab.runs import Run

from .monitor import collapse_warning

Row = dict[str, float]  # what is recorded of an epoch


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
    numbers = {"loss": float(loss)}
    numbers |= {name: last_row[name] for name in ("std_ratio", "knn") if name in last_row}
    return "  ".join(f"{name} {value:.3f}" for name, value in numbers.items())


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


def say(run: Run, remark: str) -> None:
    """Write a remark, where there is one, into train.log and below the bar."""
    if not remark:
        return
    run.log(remark)
    if distributed.rank() == 0:
        tqdm.write(remark)
