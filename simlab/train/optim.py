"""Optimizers and learning rates.

The learning rate is a plain function of the step, so that a resumed run can't get it wrong.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from simlab.config import TrainConfig, milestones
from simlab.methods.base import ParameterGroup

from .muon import Muon


def build_optimizer(
    config: TrainConfig, groups: list[ParameterGroup], encoder: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Build the optimizer of parameter groups; those without parameters are left out.

    Args:
        config: Of the run.
        groups: The trained parameters.
        encoder: The module to which config.lr_encoder belongs.
    """
    if encoder is not None and config.lr_encoder not in (-1, config.lr):
        groups = _with_encoder_apart(groups, encoder, config.lr_encoder / config.lr)
    with_options = [
        {"params": g.params, "lr_factor": g.lr_factor, "constant_lr": g.constant_lr}
        for g in groups
        if g.params
    ]
    common: dict[str, Any] = {"lr": base_lr(config), "weight_decay": config.weight_decay}
    if config.optimizer in ("adam", "adamw"):
        make = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return make(with_options, betas=(config.momentum, 0.999), fused=True, **common)
    common["momentum"] = config.momentum
    if config.optimizer == "sgd":
        sgd = torch.optim.SGD(with_options, fused=True, **common)  # one pass over each weight
        _start_momentum(sgd)
        return sgd
    if config.optimizer == "lars":
        return LARS(with_options, **common)
    if config.optimizer == "muon":
        return Muon(with_options, **common)
    return torch.optim.RMSprop(with_options, **common)


def _start_momentum(sgd: torch.optim.SGD) -> None:
    """Give every weight its momentum, 0, before the first step.

    torch would make it at a weight's first gradient; its fused step fails where some weights have
    their first gradient later than others (prototypes that are frozen for a while, a layer that is
    skipped). From 0 the first step is the same.
    """
    for group in sgd.param_groups:
        for weight in group["params"]:
            sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def _with_encoder_apart(
    groups: list[ParameterGroup], encoder: nn.Module, factor: float
) -> list[ParameterGroup]:
    """Split the encoder's parameters off each group, with `factor` times its learning rate."""
    in_encoder = {id(parameter) for parameter in encoder.parameters()}
    split = []
    for group in groups:
        others = [p for p in group.params if id(p) not in in_encoder]
        encoders = [p for p in group.params if id(p) in in_encoder]
        split.append(dataclasses.replace(group, params=others))
        split.append(
            dataclasses.replace(group, params=encoders, lr_factor=factor * group.lr_factor)
        )
    return split


class LARS(torch.optim.Optimizer):
    """SGD whose step follows each layer's size, for batches of thousands (You et al., 1708.03888).

    A weight w with gradient g moves at lr * trust * |w| / (|g| + decay * |w|). Biases and
    BatchNorm's scales and shifts move as by SGD, and do not decay (BYOL, 2006.07733, section 3.3).

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        momentum: Of the steps, with the learning rate in them.
        weight_decay: Weight decay.
        trust: How far a weight moves at most, as a fraction of its length and of lr.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float, weight_decay: float, trust: float = 1e-3
    ) -> None:
        common = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, common)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is taken
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        step = gradient
        if weight.ndim > 1:
            size = weight.norm()
            decay = group["weight_decay"]
            length = gradient.norm() + decay * size
            is_defined = (size > 0) & (length > 0)
            ratio = torch.where(is_defined, group["trust"] * size / length, 1.0)
            step = ratio * gradient.add(weight, alpha=decay)
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        velocity = state["velocity"]
        velocity.mul_(group["momentum"]).add_(step, alpha=group["lr"])
        weight.sub_(velocity)


def base_lr(config: TrainConfig) -> float:
    """The highest learning rate: linear in the batch size (Goyal et al., 1706.02677)."""
    return config.lr * config.batch_size / 256


def lr_factor(config: TrainConfig, epoch: float) -> float:
    """What the highest learning rate is multiplied by at `epoch`, a fraction of epochs from 0."""
    warmup = config.warmup_epochs
    if epoch < warmup:
        return (epoch + 1e-3) / (warmup + 1e-3)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return float(config.decay ** int(epoch // config.decay_every))
    if config.schedule == "multistep":
        decays = sum(epoch >= at * config.epochs for at in milestones(config))
        return float(config.decay**decays)
    done = (epoch - warmup) / max(config.epochs - warmup, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def set_lr(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: float) -> float:
    """Set the learning rates for a step at `epoch`; returns that of the decaying groups."""
    lr = base_lr(config) * lr_factor(config, epoch)
    for group in optimizer.param_groups:
        group["lr"] = group["lr_factor"] * (base_lr(config) if group["constant_lr"] else lr)
    return lr
