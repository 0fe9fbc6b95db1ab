"""Taking the loss: loss = task_loss + compute_loss_sim(model)."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import Tensor, nn

from .attach import SIM
from .blocks import SimHolder


def compute_loss_sim(module: nn.Module, check: bool = False) -> Tensor:
    """Take the SIM loss: the mean over the blocks of `module`, itself included.

    A block in eval mode counts as 0; one that has not run since the last time is left out; the loss
    is 0 where none has ever run. Several forward passes of a block before the loss is taken (two
    views) count with their mean. Taking lets go of the graph: a second take before the next forward
    pass gives the number alone, and warns.

    Args:
        module: A model with SIM on at least one block.
        check: Raise where the loss of a block is not finite (this waits for the device); otherwise
            a NaN goes into the result.

    Returns:
        The loss, times beta: a scalar on the device of the blocks.

    Raises:
        ValueError: If no block of `module` has SIM.
        FloatingPointError: With `check`, if a loss is not finite. The message names the blocks.
    """
    return LossSimTracker(module).compute_loss_sim(check)


class LossSimTracker:
    """`compute_loss_sim` with the list of blocks found once, when it is made.

    Attributes:
        holders: Name of each block with SIM ("" is the root), and the module that holds its loss:
            the block itself if it is decorated, else its child `sim`.

    Raises:
        ValueError: If no block has SIM.
    """

    def __init__(self, module: nn.Module) -> None:
        self.holders: list[tuple[str, SimHolder]] = []
        for name, child in module.named_modules():
            if "_sim_pending" not in vars(child):
                continue
            if isinstance(child, SIM):
                name = name.removesuffix("sim").removesuffix(".")
            self.holders.append((name, cast(SimHolder, child)))
        if not self.holders:
            raise ValueError(
                f"no block of this {type(module).__name__} has SIM: decorate one with "
                "init_proj and forward_with_sim_cache, or call attach_sim"
            )

    def compute_loss_sim(self, check: bool = False) -> Tensor:
        """Take the loss, see the function `compute_loss_sim`."""
        active = [(name, sim) for name, sim in self.holders if sim.token_sampling_ratio != 0]
        losses: dict[str, Tensor] = {}
        num_in_eval = 0
        for name, sim in active:
            if len(sim._sim_pending) > 0:
                losses[name] = sim._sim_pending.mean()
            elif not sim.training:
                num_in_eval += 1
        if not losses and num_in_eval == 0:
            losses = _latest_losses(active)
            if losses:
                warnings.warn(
                    "this SIM loss was taken before, or a backward pass has gone through "
                    "its blocks: here is its number, without a graph",
                    stacklevel=2,
                )
        for _, sim in active:
            sim._sim_pending.clear()
        if check:
            _refuse_non_finite(losses)
        device = self._device()
        total = torch.zeros((), device=device)
        for loss in losses.values():
            total = total + loss.to(device)
        return total / max(len(losses) + num_in_eval, 1)

    def report(self) -> dict[str, float]:
        """Report the latest loss, times beta, of each block that has run; for logging.

        Takes nothing, and waits for the device once.

        Returns:
            Losses by the block's name ("" is the root); a NaN shows as nan.
        """
        losses = _latest_losses(self.holders)
        if not losses:
            return {}
        device = next(iter(losses.values())).device
        values = torch.stack([loss.to(device) for loss in losses.values()]).tolist()
        return dict(zip(losses, values, strict=True))

    def _device(self) -> torch.device | None:
        """Device of the first block with parameters; None, torch's default, where SIM is off."""
        for _, sim in self.holders:
            for parameter in cast(nn.Module, sim).parameters():
                return parameter.device
        return None


def _latest_losses(holders: list[tuple[str, SimHolder]]) -> dict[str, Tensor]:
    """The latest loss of each block that has run, without a graph."""
    return {name: sim.loss_sim for name, sim in holders if sim.loss_sim is not None}


def _refuse_non_finite(losses: dict[str, Tensor]) -> None:
    bad = {name: loss.item() for name, loss in losses.items() if not torch.isfinite(loss)}
    if bad:
        raise FloatingPointError(f"the SIM loss is not finite in these blocks: {bad}")
