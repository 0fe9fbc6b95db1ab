"""What becomes of a layer's output before layers are compared: flattened, averaged, cut up.

A flattened map compares whole images. With each of its positions as a sample, and its channels as
the features, layers are compared by what they say position by position.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..layers import one_of
from .positions import averaged

POOLS = ("flatten", "mean", "mean_first", "mean_last", "cls", "positions")
NEEDS_CHANNELS = ("mean", "cls")
MAX_ROWS = 8192  # of one batch with its positions: a Gram of them takes 256 MB


@dataclass(frozen=True)
class PositionsPool:
    """Every position of a map, or token, as a sample of its own.

    Attributes:
        size: side of the grid that maps are averaged onto; 0: their own positions.
    """

    size: int = 0

    def __str__(self) -> str:
        return f"positions {self.size}" if self.size else "positions"

    def unsuited(self, x: Tensor, channels: int | None) -> str:
        """Why an output [n, ...] has no positions that can be taken; empty where it has."""
        if x.dim() <= 2:
            return f"pool='{self}': its output has no positions"
        if channels is None:
            return unknown_channels(str(self), x)
        sides = [x.shape[axis] for axis in range(1, x.dim()) if axis != channels]
        if self.size and (len(sides) != 2 or min(sides) < self.size):
            shape = " x ".join(map(str, sides))
            return f"pool='{self}': its {shape} positions can't be averaged onto that grid"
        return ""

    def rows(self, x: Tensor, channels: int | None) -> Tensor:
        """[n, C, *positions] or [n, *positions, C] -> [n P, C], image after image."""
        assert channels is not None
        x = x.movedim(channels, 1)  # [n, C, *positions]
        if self.size:
            x = averaged(x, self.size)
        return x.flatten(2).mT.reshape(-1, x.shape[1])

    def check(self, positions: int, expected: int, samples: int) -> None:
        """Refuse layers whose positions do not correspond, or are too many.

        Raises:
            ValueError: with what to do.
        """
        if positions != expected:
            raise ValueError(
                f"pool='{self}': it has {positions} positions and a layer before it {expected}: "
                'choose layers of one size, or pool="positions 4", say, averages all maps onto a '
                "grid of 4 x 4"
            )
        rows = samples * positions
        if rows > MAX_ROWS:
            raise ValueError(
                f"pool='{self}': {samples} images of {positions} positions are {rows:,} samples at "
                f"once, expected at most {MAX_ROWS:,}: make batch_size (or samples) "
                f"{max(MAX_ROWS // positions, 1)} or less, or average maps onto a coarser grid"
            )


Pool = str | PositionsPool | Callable[[Tensor], Tensor]


def read_pool(pool: Pool) -> Pool:
    """A pool as it was given, or of "positions" and "positions 4" a `PositionsPool`."""
    if not isinstance(pool, str):
        return pool
    match = re.fullmatch(r"positions(?: ([1-9]\d*))?", pool)
    return PositionsPool(int(match[1] or 0)) if match else pool


def refuse_mixed_positions(pools: Mapping[str, Pool]) -> None:
    """Refuse positions of one model beside whole images of another.

    Raises:
        ValueError: for models that are not all pooled in one of the two ways.
    """
    if len({isinstance(pool, PositionsPool) for pool in pools.values()}) > 1:
        named = ", ".join(f"{name}: {pool}" for name, pool in pools.items())
        raise ValueError(f"pool: positions are samples for all models or for none, got {{{named}}}")


def pooled(x: Tensor, pool: Pool, channels: int | None = None) -> Tensor:
    """Pool an output over its positions or tokens.

    Args:
        x: [n, C, *positions] or [n, *positions, C], [n, D] or [n].
        pool: "flatten": as it is; "mean": over all positions or tokens (global average);
            "mean_first" and "mean_last": likewise, for channels that are the first axis behind the
            samples or the last one, whatever `channels` says; "cls": the first token of
            [n, tokens, D]; a `PositionsPool`; or a function of the output.
        channels: the axis of channels; None if not known.

    Returns:
        [n, ...], with at least two dimensions unless a function says otherwise; [n P, C] of P
        positions.

    Raises:
        ValueError: an unknown name, "cls" for a map, or channels that are not known.
    """
    if isinstance(pool, PositionsPool):
        return pool.rows(x, channels)
    if callable(pool):
        return pool(x.contiguous())  # it may use `view`
    one_of(pool, POOLS, "pool")
    if x.dim() == 1:
        return x[:, None]
    if pool == "flatten" or x.dim() == 2:
        return x
    if pool == "mean_first":
        channels = 1
    elif pool == "mean_last":
        channels = x.dim() - 1
    elif channels is None:
        raise ValueError(unknown_channels(pool, x))
    if pool == "cls":
        return _first_token(x, channels)
    if channels == 1:
        return x.flatten(2).mean(2)
    positions = [axis for axis in range(1, x.dim()) if axis != channels]
    return x.mean(positions)


def unknown_channels(pool: str, x: Tensor) -> str:
    """Say what to pass where it cannot be known which axis holds the channels."""
    shape = ", ".join(["n", *map(str, x.shape[1:])])
    hint = 'pool="mean_last" or "mean_first", if they are the last or the first one'
    if pool == "cls":
        hint = "pool=lambda x: x[:, 0], if the tokens are the first one"
    return (
        f"pool={pool!r}: which axis of its output [{shape}] holds the channels is not known; "
        f"give {hint}, or choose a tensor [n, D] with pick="
    )


def _first_token(x: Tensor, channels: int) -> Tensor:
    """[n, tokens, D] -> [n, D]."""
    if x.dim() > 3 or channels == 1:
        raise ValueError(
            f'pool="cls" takes the first token of [n, tokens, D], got {tuple(x.shape)} with '
            f"channels in axis {channels}; "
            'give each model its own: pool={"vit": "cls", "resnet": "mean"}'
        )
    return x[:, 0]
