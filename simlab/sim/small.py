"""Blocks on which the published code fails: what is done with them is a choice, and said.

The published code pairs the positions of x and y by their index, and takes a share of them rounded
down. So it stops with an error on a block with a stride, and on a small map it compares no position
at all, or one, of which norm_mse is NaN; its `compute_loss_sim` then leaves the block out.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import nn

from ..layers import Axes, CallAxes, hooked, nearest, unwrap
from .loss import fewest_tokens
from .options import SimOptions
from .sampling import count_tokens

SmallMaps = Literal["skip", "pool", "two"]
SMALL_MAPS: tuple[str, ...] = get_args(SmallMaps)


def check_small(small: str) -> None:
    """Refuse an unknown choice; raises ValueError."""
    if small not in SMALL_MAPS:
        raise ValueError(
            f"attach_sim: small={small!r}, expected one of {SMALL_MAPS}"
            + nearest(small, SMALL_MAPS)
        )


def blocks_to_skip(
    model: nn.Module,
    blocks: Mapping[str, nn.Module],
    sample_input: Any,
    axes: Mapping[str, CallAxes],
    options: SimOptions,
    small: str,
) -> set[str]:
    """Choose the blocks that get no SIM, and warn once of all of them.

    Args:
        model: The model.
        blocks: Its blocks that were chosen, by name.
        sample_input: An input of the model, run once in eval mode.
        axes: Where samples and channels lie in what each block takes and gives.
        options: Of SIM.
        small: "skip" leaves out blocks with a stride and with too few positions, "pool" the latter
            alone.

    Returns:
        Their names.

    Raises:
        ValueError: None would remain.
    """
    positions = _positions_of_run(model, blocks, sample_input, axes)
    reasons = {name: _reason_to_skip(*positions[name], options, small) for name in blocks}
    reasons = {name: reason for name, reason in reasons.items() if reason}
    if reasons:
        _tell_of_skipped(reasons, [name for name in blocks if name not in reasons], small)
    return set(reasons)


def _positions_of_run(
    model: nn.Module,
    blocks: Mapping[str, nn.Module],
    sample_input: Any,
    axes: Mapping[str, CallAxes],
) -> dict[str, tuple[int, int]]:
    """The numbers of positions before and after each block, in one run."""
    positions: dict[str, tuple[int, int]] = {}

    def watch(name: str, _block: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        before = _count_positions((args, kwargs), axes[name].taken)
        after = _count_positions(output, axes[name].given)
        positions[name] = (before, after)

    hooks = {block: functools.partial(watch, name) for name, block in blocks.items()}
    with hooked(unwrap(model), hooks) as run:
        run(sample_input)
    return positions


def _count_positions(value: Any, axes: Axes) -> int:
    """Number of positions in what a block takes or gives: neither samples nor channels."""
    x = axes.tensor_of(value)
    assert x is not None and axes.width is not None
    return x.numel() // (len(x) * axes.width)


def _reason_to_skip(before: int, after: int, options: SimOptions, small: str) -> str:
    """Say why a block with so many positions is to be left out; empty where it is not."""
    if small == "skip" and before != after:
        return f"{before} positions before it, {after} after it"
    tokens = count_tokens(options.token_sampling_ratio, after)
    at_least = fewest_tokens(options.loss_type)
    if options.token_sampling_ratio > 0 and tokens < at_least:
        needed = "1 is needed" if at_least == 1 else f"{options.loss_type} needs {at_least}"
        return f"{tokens} of {after} positions would be compared, {needed}"
    return ""


def _tell_of_skipped(reasons: Mapping[str, str], remaining: list[str], small: str) -> None:
    """Warn of the blocks that are left out; raises ValueError if none remains."""
    listed = "; ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
    advice = (
        'small="pool" (in a run sim_small) averages x onto y\'s positions, "two" also takes two '
        "tokens of a small map"
    )
    if not remaining:
        raise ValueError(
            f"SIM: the published code fails on every block that was chosen, and {small=} leaves "
            f"them out ({listed}); {advice}"
        )
    warnings.warn(
        f"SIM is left off {len(reasons)} of {len(reasons) + len(remaining)} blocks, on which the "
        f"published code fails ({listed}); it stays on {len(remaining)}: "
        f"{', '.join(map(repr, remaining))}. {advice}",
        stacklevel=4,
    )
