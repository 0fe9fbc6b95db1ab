"""The training loop: views, loss, backward, step, after_step, log, checkpoint.

`fit` is all of it, in the order in which it happens; what it calls is below, or in `views` (what a
batch is), `seeds` (where random numbers come from), `optim`, `monitor` and `progress`. Methods
differ in what `network.loss` and `network.after_step` do, and in nothing else.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simlab.compute import autocast, distributed, gradients
from simlab.config import TrainConfig
from simlab.methods.base import MethodModule, Views
from simlab.models import keep_frozen
from simlab.runs import Run
from simlab.sim import LossSimTracker

from .callbacks import Watchers
from .monitor import (
    LossSums,
    Pretraining,
    StepLog,
    SupervisedTraining,
    check_finite,
    collapse_warning,
)
from .optim import build_optimizer, set_lr
from .progress import Row, averaged, postfix, progress_bar, record
from .resolve import check_batch_size
from .seeds import EpochGenerators, seed_epoch
from .views import ViewMaker

CHECK_EVERY = 20  # steps between two looks at the loss; each look waits for the device


@dataclass
class Task:
    """What is trained on what, and how it is measured."""

    network: MethodModule
    views: ViewMaker
    monitor: Pretraining | SupervisedTraining
    loss_at_collapse: float | None
    embedding_std: float | None = None  # of each channel of z, where the method sets it
    sim: LossSimTracker | None = None  # of the encoder's blocks that have SIM
    collapsed: frozenset[str] = frozenset()  # of these blocks those that were warned of

    @property
    def parts_with_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the optimizer."""
        if self.sim is None:
            return {"network": self.network}
        return {"network": self.network, "sim": self.sim}

    def seed_epoch(self, config: TrainConfig, epoch: int, device: torch.device) -> EpochGenerators:
        """Make the generators of an epoch (from 0), of which SIM gets one of its own."""
        generators = seed_epoch(config, epoch, len(self.views.crops), device)
        if self.sim is not None:
            self.sim.draw_from(generators.sim)
        return generators

    def losses(
        self, views: Views, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """The terms whose sum is minimised: the method's, and SIM's."""
        terms = self.network.loss(views, generator, progress)
        if self.sim is not None:
            terms = terms | {"sim_loss": self.sim.compute_loss_sim()}
        return terms

    def measure(self, epoch: int) -> dict[str, float]:
        """Measure after an epoch (from 1), beside what is needed to judge the measures.

        With SIM there is also how many of its projectors collapsed.
        """
        measures = self.monitor.measure(self.network, epoch)
        if self.loss_at_collapse is not None:
            measures["loss_at_collapse"] = self.loss_at_collapse
        if self.embedding_std is not None:
            measures["scale_ratio"] = measures["raw_std"] / self.embedding_std
        if self.sim is not None:
            measures["sim_collapsed"] = len(self.sim.collapsed())
        return measures

    def warnings(self, row: Row) -> list[str]:
        """Word what an epoch's row gives reason to warn of."""
        ratios = [row.get(name, math.inf) for name in ("std_ratio", "scale_ratio")]
        sentences = [collapse_warning(row["loss"], self.loss_at_collapse, *ratios)]
        if self.sim is not None:
            collapsed = self.sim.collapsed() if row.get("sim_collapsed") else {}
            if not collapsed.keys() <= self.collapsed:  # once for a block, not after every epoch
                sentences.append(self.sim.collapse_warning(collapsed))
            self.collapsed |= collapsed.keys()
        return [warning for warning in sentences if warning]


def fit(
    task: Task,
    config: TrainConfig,
    run: Run,
    device: torch.device,
    watchers: Watchers,
    progress: bool = True,
) -> list[Row]:
    """Train from the newest checkpoint, or from the start.

    Args:
        task: What is trained; its network is moved to the device.
        config: Resolved.
        run: Where log, history and checkpoints go.
        device: Where it is computed.
        watchers: What looks on.
        progress: Whether a bar is shown.

    Returns:
        The history, a row an epoch.
    """
    check_batch_size(config)
    network = task.network.to(device).to(memory_format=torch.channels_last)
    distributed.with_global_batch_norm(network, device)  # in place: the network is no BatchNorm
    losses = gradients.data_parallel(network, task.losses, device)
    optimizer = build_optimizer(config, network.parameter_groups(), network.encoder)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    stored = task.parts_with_state | {"optimizer": optimizer, "scaler": scaler}
    history = resume(run, stored)
    watchers.replay(history)

    _into_training_mode(network)
    start = time.monotonic() - (history[-1]["seconds"] if history else 0)
    steps = task.views.steps
    total_steps = steps * config.epochs
    with progress_bar(run, config, steps, len(history), progress) as bar:
        for epoch in range(len(history), config.epochs):
            generators = task.seed_epoch(config, epoch, device)
            log = StepLog(epoch + 1, steps, total_steps - epoch * steps)
            sums = LossSums(config.accumulate)
            batches = task.views.epoch(generators, log.waiting)
            for step in range(steps):
                done = epoch * steps + step
                for micro_batch in range(1, config.accumulate + 1):
                    views = next(batches)
                    with gradients.exchange(losses, is_due=micro_batch == config.accumulate):
                        with autocast(config.precision, device):
                            terms = losses(views, generators.loss, done / total_steps)
                        loss = sums.add(terms)
                        scaler.scale(loss / config.accumulate).backward()
                lr = set_lr(optimizer, config, epoch + step / steps)
                gradients.average_gradients(losses)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                with torch.no_grad():
                    network.after_step((done + 1) / total_steps)
                watchers.step(done + 1, loss, lr)

                if step % CHECK_EVERY == 0 or step == steps - 1:
                    where = f"by step {step + 1} of epoch {epoch + 1}"
                    check_finite(network, sums, f"{where}, at a learning rate of {lr:.3g}")
                    bar.set_postfix_str(postfix(history, sums.loss() / (step + 1)), refresh=False)
                if config.log_every and (step + 1) % config.log_every == 0:
                    run.log(log.line(step + 1, averaged(sums.loss())))
                bar.update(config.batch_size)

            distributed.average([sums.sums])
            row: Row = {"epoch": epoch + 1} | sums.means(steps) | {"lr": lr}
            row |= task.measure(epoch + 1)
            row["seconds"] = time.monotonic() - start
            history.append(row)
            record(run, row, config.epochs, task.warnings(row))
            save(run, stored, history, config.keep_checkpoints)
            watchers.epoch(history)
    return history


def _into_training_mode(network: MethodModule) -> None:
    """Put a network into training mode, but for the frozen parts of its encoder."""
    network.train()
    keep_frozen(network.encoder)


def save(run: Run, stored: dict[str, Any], history: list[Row], keep_checkpoints: int) -> None:
    """Write the history, and a checkpoint of all that `resume` loads again."""
    epoch = len(history)
    run.save_history(history)
    state = {name: module.state_dict() for name, module in stored.items()}
    state |= {"epoch": epoch, "history": history}
    run.save_checkpoint(epoch, state, keep_checkpoints)


def resume(run: Run, stored: dict[str, Any]) -> list[Row]:
    """Load the newest checkpoint, where there is one; returns the history so far."""
    state: Any = distributed.from_first(run.load_checkpoint)
    if not state:
        return []
    for name, module in stored.items():
        module.load_state_dict(state[name])
    history: list[Row] = state["history"]
    run.log(f"resumes after epoch {len(history)}")
    return history
