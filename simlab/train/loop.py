"""The training loop: views, loss, backward, step, after_step, log, checkpoint.

`fit` is all of it, in the order in which it happens; what it calls is below, or in `views` (what a
batch is), `seeds` (where random numbers come from), `optim` and `monitor`. Methods differ in what
`network.loss` and `network.after_step` do, and in nothing else.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from simlab.compute import autocast, distributed
from simlab.config import TrainConfig
from simlab.methods.base import MethodModule, Views
from simlab.runs import Run
from simlab.sim import LossSimTracker

from .monitor import (
    LossSums,
    Pretraining,
    StepLog,
    SupervisedTraining,
    collapse_warning,
    refuse_nan,
)
from .optim import build_optimizer, set_lr
from .seeds import seed_epoch
from .views import ViewMaker

CHECK_EVERY = 20  # steps between two looks at the loss; each look waits for the device

Row = dict[str, float]  # what is recorded of an epoch


@dataclass
class Task:
    """What is trained on what, and how it is measured."""

    network: MethodModule
    views: ViewMaker
    monitor: Pretraining | SupervisedTraining
    loss_at_collapse: float | None
    sim: LossSimTracker | None = None  # of the encoder's blocks that have SIM

    def losses(
        self, views: Views, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """The terms whose sum is minimised: the method's, and SIM's."""
        terms = self.network.loss(views, generator, progress)
        if self.sim is not None:
            terms = terms | {"sim_loss": self.sim.compute_loss_sim()}
        return terms


def fit(
    task: Task,
    config: TrainConfig,
    run: Run,
    device: torch.device,
    progress: bool = True,
    on_epoch: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Train from the newest checkpoint, or from the start.

    Args:
        task: What is trained; its network is moved to the device.
        config: Resolved.
        run: Where log, history and checkpoints go.
        device: Where it is computed.
        progress: Whether a bar is shown.
        on_epoch: Called with the history after every epoch.

    Returns:
        The history, a row an epoch.
    """
    check_batch_size(config)
    network = task.network.to(device).to(memory_format=torch.channels_last)
    distributed.with_global_batch_norm(network, device)  # in place: the network is no BatchNorm
    optimizer = build_optimizer(config, network.parameter_groups())
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    stored: dict[str, Any] = {"network": network, "optimizer": optimizer, "scaler": scaler}
    history = resume(run, stored)

    network.train()
    start = time.monotonic() - (history[-1]["seconds"] if history else 0)
    steps = task.views.steps
    total_steps = steps * config.epochs
    with progress_bar(run, config, steps, len(history), progress) as bar:
        for epoch in range(len(history), config.epochs):
            generators = seed_epoch(config, epoch, len(task.views.crops), device)
            log = StepLog(epoch + 1, steps, total_steps - epoch * steps)
            sums = LossSums(config.accumulate)
            batches = task.views.epoch(generators, log.waiting)
            for step in range(steps):
                done = epoch * steps + step
                for _ in range(config.accumulate):
                    views = next(batches)
                    with autocast(config.precision, device):
                        terms = task.losses(views, generators.loss, done / total_steps)
                    loss = sums.add(terms)
                    scaler.scale(loss / config.accumulate).backward()
                lr = set_lr(optimizer, config, epoch + step / steps)
                distributed.average_gradients(network)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                with torch.no_grad():
                    network.after_step((done + 1) / total_steps)

                if step % CHECK_EVERY == 0 or step == steps - 1:
                    where = (
                        f"by step {step + 1} of epoch {epoch + 1}, at a learning rate of {lr:.3g}"
                    )
                    refuse_nan([sums.sums, *network.parameters(), *network.buffers()], where)
                    bar.set_postfix_str(postfix(history, sums.loss() / (step + 1)), refresh=False)
                if config.log_every and (step + 1) % config.log_every == 0:
                    run.log(log.line(step + 1, averaged(sums.loss())))
                bar.update(config.batch_size)

            distributed.average([sums.sums])
            row: Row = {"epoch": epoch + 1} | sums.means(steps) | {"lr": lr}
            row |= task.monitor.measure(network, epoch + 1)
            row["seconds"] = time.monotonic() - start
            history.append(row)
            record(run, row, config.epochs, task.loss_at_collapse)
            run.save_history(history)
            state = {name: part.state_dict() for name, part in stored.items()}
            state |= {"epoch": epoch + 1, "history": history}
            run.save_checkpoint(epoch + 1, state, config.keep_checkpoints)
            if on_epoch:
                on_epoch(history)
    return history


def check_batch_size(config: TrainConfig) -> None:
    """Refuse a batch that cannot be cut into equal parts for every process.

    Raises:
        ValueError: It cannot.
    """
    batch_size = config.batch_size
    parts = config.accumulate
    world = distributed.world()
    if batch_size % (parts * world) or batch_size == parts:
        raise ValueError(
            f"batch_size={batch_size} can't be cut into {parts} (accumulate) x {world} "
            "(processes) equal parts; one of `accumulate` parts needs at least two images"
        )


def resume(run: Run, stored: dict[str, Any]) -> list[Row]:
    """Load the newest checkpoint, where there is one; returns the history so far."""
    state: Any = distributed.from_first(run.load_checkpoint)
    if not state:
        return []
    for name, part in stored.items():
        part.load_state_dict(state[name])
    history: list[Row] = state["history"]
    run.log(f"goes on after epoch {len(history)}")
    return history


def progress_bar(run: Run, config: TrainConfig, steps: int, epochs_done: int, shown: bool) -> tqdm:
    """A bar that counts images; shown by the first process alone."""
    images = steps * config.batch_size
    return tqdm(
        total=config.epochs * images,
        initial=epochs_done * images,
        desc=run.folder.name.split("-")[0],
        unit=" images",
        unit_scale=True,
        mininterval=0.5,
        disable=not shown or distributed.rank() > 0,
    )


def postfix(history: list[Row], loss: Tensor) -> str:
    """What the progress bar shows: this epoch's loss, and the last epoch's std and kNN accuracy."""
    last_row = history[-1] if history else {}
    shown = {"loss": float(loss)}
    shown |= {name: last_row[name] for name in ("std_ratio", "knn") if name in last_row}
    return "  ".join(f"{name} {value:.3f}" for name, value in shown.items())


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
