"""Optimizers and learning rates.

The rate is a plain function of the step, so that a resumed run can't get it wrong.
"""

import math

import torch
import torch.nn as nn

from .config import TrainConfig


def build_optimizer(
    config: TrainConfig, parameters: list[nn.Parameter], fixed: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimizer of two groups: parameters whose rate decays, and those whose rate is fixed."""
    groups = [{"params": parameters, "fixed": False}, {"params": fixed, "fixed": True}]
    groups = [group for group in groups if group["params"]]
    common = {"lr": base_rate(config), "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, **common)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=config.momentum, **common)
    make = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return make(groups, betas=(config.momentum, 0.999), **common)


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
        passed = sum(epoch >= share * config.epochs for share in milestones(config))
        return config.decay**passed
    done = (epoch - warmup) / max(config.epochs - warmup, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: float) -> float:
    """Set the rate for a step at `epoch`; returns the decaying groups' rate."""
    rate = base_rate(config) * rate_factor(config, epoch)
    for group in optimizer.param_groups:
        group["lr"] = base_rate(config) if group["fixed"] else rate
    return rate


def milestones(config: TrainConfig) -> list[float]:
    """The shares of the run after which a multistep schedule decays."""
    try:
        shares = [float(word) for word in config.milestones.split(",")]
    except ValueError:
        shares = [math.nan]
    if not all(0 < share < 1 for share in shares):
        raise ValueError(
            f"milestones={config.milestones!r}: expected shares of the run between 0 and 1, "
            "such as '0.6,0.8'"
        )
    return shares
