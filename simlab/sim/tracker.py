"""Taking the loss: loss = task_loss + compute_loss_sim(model)."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import Tensor, nn

from .attach import SIM
from .blocks import SimHolder
from .collapse import remember_first, worded
from .sharded import refuse_sharded_blocks

Holders = list[tuple[str, SimHolder]]


def compute_loss_sim(module: nn.Module, check: bool = False) -> Tensor:
    """Take the SIM loss: the mean over the blocks of `module`, itself included.

    A block in eval mode counts as 0; one that has not run since the last time is left out. Several
    forward passes of a block before the loss is taken (two views) count with their mean. Taking
    lets go of the graph: a second take before the next forward pass gives the number alone, and
    warns. It warns as well where a block in training mode has never run, and where a loss has no
    graph though gradients are on: nothing would learn from it.

    Args:
        module: A model with SIM on at least one block.
        check: Raise where the loss of a block is not finite (this waits for the device); otherwise
            a NaN goes into the result.

    Returns:
        The loss, times beta: a scalar on the device of the blocks.

    Raises:
        ValueError: If no block of `module` has SIM.
        RuntimeError: If blocks are in training mode and none has ever run, or if FSDP shards them
            apart from the model.
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
        RuntimeError: If FSDP shards a block with SIM apart from the model.
    """

    def __init__(self, module: nn.Module) -> None:
        self.holders: Holders = []
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
        refuse_sharded_blocks(module, [name for name, _ in self.holders])

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
        _tell_of_blocks_that_never_ran(active)
        _warn_without_graph(active, losses)
        if not losses and num_in_eval == 0:
            losses = _latest_losses(active)
            if losses:
                warnings.warn(
                    "this SIM loss was taken before, or a backward pass has gone through "
                    "its blocks: here is its number, without a graph. If the model has run since "
                    "then, its blocks' hooks were skipped",
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

        Takes nothing, and waits for the device. Warns where a block's projector has collapsed.

        Returns:
            Losses by the block's name ("" is the root); a NaN shows as nan.
        """
        losses = _latest_losses(self.holders)
        if not losses:
            return {}
        warning = self.collapse_warning()
        if warning:
            warnings.warn(warning, stacklevel=2)
        device = next(iter(losses.values())).device
        values = torch.stack([loss.to(device) for loss in losses.values()]).tolist()
        return dict(zip(losses, values, strict=True))

    def collapsed(self) -> dict[str, float]:
        """Find the blocks whose projector has collapsed, see `collapse.py`; waits for the device.

        Returns:
            The mean cosine between the projections of different tokens, by the block's name.
        """
        cosines = {}
        for name, sim in self.holders:
            cosine = sim._sim_watch.cosine_if_collapsed()
            if cosine is not None:
                cosines[name] = cosine
        return cosines

    def collapse_warning(self, collapsed: dict[str, float] | None = None) -> str | None:
        """Word which blocks' projectors have collapsed; None where none has.

        Args:
            collapsed: What `collapsed` has found, where it is at hand.
        """
        if collapsed is None:
            collapsed = self.collapsed()
        return worded(collapsed) if collapsed else None

    def draw_from(self, generator: torch.Generator | None) -> None:
        """Draw the tokens of all blocks from a generator; None: from torch's global one."""
        for _, sim in self.holders:
            sim._sim_generator = generator

    def state_dict(self) -> dict[str, float]:
        """What a stopped training must remember beside the weights: each block's first loss."""
        firsts = {name: sim._sim_watch.first for name, sim in self.holders}
        return {name: float(first) for name, first in firsts.items() if first is not None}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Set what `state_dict` gave."""
        for name, sim in self.holders:
            if name in state:
                remember_first(sim._sim_watch, state[name], self._device())

    def _device(self) -> torch.device | None:
        """Device of the first block with parameters; None, torch's default, where SIM is off."""
        for _, sim in self.holders:
            for parameter in cast(nn.Module, sim).parameters():
                return parameter.device
        return None


def _latest_losses(holders: Holders) -> dict[str, Tensor]:
    """The latest loss of each block that has run, without a graph."""
    return {name: sim.loss_sim.detach() for name, sim in holders if sim.loss_sim is not None}


def _tell_of_blocks_that_never_ran(active: Holders) -> None:
    """Raise where no block has ever run, warn where only some have; those in eval mode don't count.

    Raises:
        RuntimeError: Blocks are in training mode, and none has ever run.
    """
    training = [(name, sim) for name, sim in active if sim.training]
    missing = [name for name, sim in training if not _has_run(sim)]
    if not missing:
        return
    reason = (
        "run the model in training mode before its loss is taken, and by model(x): "
        "model.forward(x) skips the hooks of the model itself"
    )
    if len(missing) == len(active):
        raise RuntimeError(f"no block with SIM has run yet, of {missing}: {reason}")
    warnings.warn(
        f"SIM's loss has no part of {missing}: these blocks have never run in training mode. "
        f"Leave them out of SIM, or {reason}",
        stacklevel=3,
    )


def _has_run(sim: SimHolder) -> bool:
    """Whether a block has run in training mode; a copy remembers the number, not the passes."""
    return sim.loss_sim is not None or sim._sim_pending.num_passes > 0


def _warn_without_graph(active: Holders, losses: dict[str, Tensor]) -> None:
    """Warn where a loss would train nothing although gradients are on."""
    if not torch.is_grad_enabled():
        return
    without = []
    for name, sim in active:
        parameters = cast(nn.Module, sim).parameters()
        could_learn = any(parameter.requires_grad for parameter in parameters)
        if name in losses and not losses[name].requires_grad and could_learn:
            without.append(name)
    if without:
        warnings.warn(
            f"the SIM loss of {without} has no graph, so that nothing learns from it: the "
            "forward pass ran under torch.no_grad(), or under activation checkpointing with "
            "use_reentrant=True; take use_reentrant=False",
            stacklevel=3,
        )


def _refuse_non_finite(losses: dict[str, Tensor]) -> None:
    bad = {name: loss.item() for name, loss in losses.items() if not torch.isfinite(loss)}
    if bad:
        raise FloatingPointError(f"the SIM loss is not finite in these blocks: {bad}")
