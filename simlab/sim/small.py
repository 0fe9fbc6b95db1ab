"""Blocks on which the published code fails: what is done with them is a choice, and said.

The published code pairs the positions of x and y by their index, and takes a share of them rounded
down. So it stops with an error on a block with a stride, and on a small map it compares no position
at all, or one, of which norm_mse is NaN; its `compute_loss_sim` then leaves the block out.
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

from torch import Tensor

from ..layers import nearest
from .loss import fewest_tokens
from .options import SimOptions
from .sampling import count_positions, count_tokens

SmallMaps = Literal["skip", "pool", "two"]
SMALL_MAPS: tuple[str, ...] = get_args(SmallMaps)


def check_small(small: str) -> None:
    """Refuse an unknown choice; raises ValueError."""
    if small not in SMALL_MAPS:
        raise ValueError(
            f"attach_sim: small={small!r}, expected one of {SMALL_MAPS}"
            + nearest(small, SMALL_MAPS)
        )


def reason_to_skip(x: Tensor, y: Tensor, options: SimOptions, small: str) -> str:
    """Say why a block is to be left out; empty where it is not.

    Args:
        x: The block's input [B, C, H, W], [B, N, C] or [B, C].
        y: Its output, in one of these layouts.
        options: Of SIM.
        small: "skip" leaves out both kinds of blocks, "pool" those with too few positions alone,
            "two" none.
    """
    before = count_positions(x)
    after = count_positions(y)
    if small == "skip" and before != after:
        return f"{before} positions before it, {after} after it"
    tokens = count_tokens(options.token_sampling_ratio, after)
    at_least = fewest_tokens(options.loss_type)
    if small != "two" and options.token_sampling_ratio > 0 and tokens < at_least:
        needed = "1 is needed" if at_least == 1 else f"{options.loss_type} needs {at_least}"
        return f"{tokens} of {after} positions would be compared, {needed}"
    return ""


def tell_of_skipped(reasons: dict[str, str], remaining: list[str], small: str) -> None:
    """Warn once of all blocks that are left out.

    Args:
        reasons: Why, by the block's name.
        remaining: Names of the blocks that get SIM.
        small: The choice that left them out.

    Raises:
        ValueError: None remains.
    """
    if not reasons:
        return
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
        stacklevel=3,
    )
