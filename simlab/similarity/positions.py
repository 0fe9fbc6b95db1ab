"""Convolutional maps with every position as a sample, and its channels as the features."""

import torch
import torch.nn.functional as F
from torch import Tensor


def positions_as_samples(
    *maps: Tensor, count: int | None = None, size: int | None = None, seed: int = 0
) -> list[Tensor]:
    """Turn maps of the same images into matrices whose rows are the same positions in all of them.

    A flattened map [N, C * H * W] compares whole images; this compares what the channels say
    position by position, and needs far fewer images. Give the matrices to any measure:

        x, y = positions_as_samples(map_of_one_layer, map_of_another, count=1000)
        cka_similarity(x, y)

    (`compare(..., pool="positions")` does so to all layers.) Positions of one image are not
    independent: a null distribution that permutes rows comes out too narrow.

    Args:
        maps: [N, C, H, W] each; C may differ.
        count: number of positions drawn from the N H W, without replacement; None for all.
        size: average every map to [size, size] positions first, where their sizes differ.
        seed: of the draw.

    Returns:
        [count, C] for each map.

    Raises:
        ValueError: something is no map; maps of different images or, without `size`, of different
            sizes; or fewer positions than `count`.
    """
    for one in maps:
        if one.dim() != 4:
            raise ValueError(f"expected maps [N, C, H, W], got shape {tuple(one.shape)}")
        if len(one) != len(maps[0]):
            raise ValueError(f"the images must correspond: {len(maps[0])} and {len(one)}")
    if size is not None:
        maps = tuple(averaged(one, size) for one in maps)
    sizes = {tuple(one.shape[2:]) for one in maps}
    if len(sizes) > 1:
        text = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise ValueError(
            f"maps of {text} positions: expected one size; size={min(map(min, sizes))} averages "
            "them to the smaller one"
        )
    rows = [one.movedim(1, -1).reshape(-1, one.shape[1]) for one in maps]  # [N H W, C]
    if count is None:
        return rows
    total = len(rows[0])
    if not 1 <= count <= total:
        raise ValueError(f"count={count}: expected 1 to {total} positions")
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]
    return [one[chosen.to(one.device)] for one in rows]


def averaged(one: Tensor, size: int) -> Tensor:
    """Average a map over the parts of a grid [size, size]; it is never enlarged."""
    height, width = one.shape[2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size={size}: expected 1 to {min(height, width)} for {height} x {width}")
    return F.adaptive_avg_pool2d(one, size)
