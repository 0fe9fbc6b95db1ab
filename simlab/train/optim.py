"""Optimizers and learning rates.

The rate is a plain function of the step, so that a resumed run can't get it wrong.
"""

import math

import torch
from torch import Tensor

from simlab.config import TrainConfig, milestones


def build_optimizer(config: TrainConfig, groups: list[dict]) -> torch.optim.Optimizer:
    """The optimizer of parameter groups.

    Beside its `params`, a group has `factor`, its rate as a multiple of the others', and `fixed`,
    whether its rate keeps its highest value.
    """
    groups = [group for group in groups if group["params"]]
    common = {"lr": base_rate(config), "weight_decay": config.weight_decay}
    if config.optimizer in ("adam", "adamw"):
        make = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return make(groups, betas=(config.momentum, 0.999), fused=True, **common)
    common["momentum"] = config.momentum
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, fused=True, **common)  # one pass over each weight
    return (LARS if config.optimizer == "lars" else torch.optim.RMSprop)(groups, **common)


class LARS(torch.optim.Optimizer):
    """SGD whose rate follows each layer's size, for batches of thousands (You et al., 1708.03888).

    A weight w with gradient g moves at the rate times trust * |w| / (|g| + decay * |w|). Biases and
    BatchNorm's scales and shifts move as by SGD, and do not decay (SimCLR, appendix B.6).
    """

    def __init__(
        self, params: list, lr: float, momentum: float, weight_decay: float, trust: float = 1e-3
    ):
        common = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, common)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._move(w, w.grad, group)

    def _move(self, w: Tensor, step: Tensor, group: dict):
        if w.ndim > 1:
            size, decay = w.norm(), group["weight_decay"]
            length = step.norm() + decay * size
            ratio = torch.where((size > 0) & (length > 0), group["trust"] * size / length, 1.0)
            step = ratio * step.add(w, alpha=decay)
        state = self.state[w]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(w)
        w.sub_(state["velocity"].mul_(group["momentum"]).add_(step, alpha=group["lr"]))


def base_rate(config: TrainConfig) -> float:
    """The learning rate at its highest: linear in the batch (Goyal et al., 1706.02677)."""
    return config.lr * config.batch_size / 256


def rate_factor(config: TrainConfig, epoch: float) -> float:
    """What the highest rate is multiplied with at `epoch`, a fraction of epochs from 0."""
    warmup = config.warmup_epochs
    if epoch < warmup:
        return (epoch + 1e-3) / (warmup + 1e-3)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return config.decay ** int(epoch // config.decay_every)
    if config.schedule == "multistep":
        return config.decay ** sum(epoch >= at * config.epochs for at in milestones(config))
    done = (epoch - warmup) / max(config.epochs - warmup, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: float) -> float:
    """Set the rate for a step at `epoch`; returns the decaying groups' rate."""
    rate = base_rate(config) * rate_factor(config, epoch)
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * (base_rate(config) if group["fixed"] else rate)
    return rate
