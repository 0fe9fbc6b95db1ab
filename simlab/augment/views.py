"""Random views of a whole batch at once, with an independent draw for every image.

The images go in as uint8 [N, C, H, W] and come out as normalised float32 [N, C, S, S]; every
tensor and every random number lives on the device that holds the batch. What happens to some
images only is computed for all and then chosen for each: nothing branches.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .drawing import BatchOrder, Draw, draw_crops, draw_jitter
from .recipes import Augment
from .transforms import (
    Normalize,
    color_jitter,
    gaussian_blur,
    resample,
    rgb_to_grayscale,
    solarize,
)


def two_views(
    images: Tensor,
    augment: Augment,
    normalize: Normalize,
    size: int = 0,
    generator: torch.Generator | None = None,
    shard: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw two independent views of every image.

    Args:
        images: uint8 [N, C, H, W].
        augment: the strengths; `parse_augment` reads them.
        normalize: on the images' device.
        size: side of the views in pixels; 0 keeps the images' shape.
        generator: on the images' device; the same seed gives the same views. An image's view
            depends on how many images there are, but not on what the others show.
        shard: (first, total) where the images are a part of a larger batch: the numbers are drawn
            for `total` images and these images' are used, from `first` on. So the views of the
            parts are those of the batch.

    Returns:
        Two float32 tensors [N, C, size, size], normalised, in memory channels last.

    Raises:
        ValueError: for images that are not uint8 [N, C, H, W].
    """
    view1, view2 = views_at_once(2, [images], augment, normalize, size, generator, shard)[0]
    return view1, view2


def view(
    images: Tensor,
    augment: Augment,
    normalize: Normalize,
    size: int = 0,
    generator: torch.Generator | None = None,
    shard: tuple[int, int] | None = None,
) -> Tensor:
    """Draw one view [N, C, size, size] of every image [N, C, H, W]; see `two_views`."""
    return views_at_once(1, [images], augment, normalize, size, generator, shard)[0][0]


def views_at_once(
    number: int,
    batches: Sequence[Tensor],
    augment: Augment,
    normalize: Normalize,
    size: int = 0,
    generator: torch.Generator | None = None,
    shard: tuple[int, int] | None = None,
) -> list[tuple[Tensor, ...]]:
    """Draw `number` views of each of several batches: what `view` would make one by one.

    The many small steps of a view take hardly longer for several small batches than for one.

    Args:
        number: views of every image.
        batches: uint8 [N, C, H, W] each, all of one shape.
        augment: as in `two_views`, like all that follow.
        normalize: as there.
        size: as there.
        generator: as there.
        shard: as there, the same for every batch.

    Returns:
        For every batch its views, float32 [N, C, size, size] each.

    Raises:
        ValueError: for batches that are not uint8 [N, C, H, W], or of several shapes.
    """
    _check_batches(batches)
    images = torch.cat(tuple(batches)) if len(batches) > 1 else batches[0]
    n = len(batches[0])
    channels, height, width = images.shape[1:]
    num_views = number * len(batches)
    changes_hue = bool(augment.jitter and augment.hue and channels == 3)
    total = shard[1] if shard else n

    draw = Draw(num_views, total, augment, channels, images.device, generator)
    order = BatchOrder(draw.uniform().view(num_views, -1), n, number, shard, changes_hue)
    draw.rows = order.rows

    x = order.take(images).to(torch.float32).div_(255)  # [M, C, H, W], in the order of the draw
    box, flip, angle = draw_crops(draw, augment, height, width)
    x = resample(x, box, flip, angle, (size, size) if size else (height, width))
    if augment.jitter:
        factors, steps, hue = draw_jitter(draw, augment, channels)
        x = color_jitter(x, factors, steps, hue if changes_hue else None, order.quarter_bounds)
    if augment.grey and channels == 3:
        x = _choose(draw.chance(augment.grey), rgb_to_grayscale(x), x)
    if augment.blur:
        sigma = draw.uniform(augment.blur_sigma_min, augment.blur_sigma_max)
        x = _choose(draw.chance(augment.blur), gaussian_blur(x, sigma), x)
    if augment.solarize:
        x = _choose(draw.chance(augment.solarize), solarize(x), x)
    x = normalize.standardise(order.undo(x))  # [V * N, C, S, S], view by view

    views = x.split(n)
    return [views[i : i + number] for i in range(0, num_views, number)]


def _check_batches(batches: Sequence[Tensor]) -> None:
    first = batches[0]
    if first.dtype != torch.uint8 or first.dim() != 4:
        raise ValueError(
            f"images must be uint8 [N, C, H, W], not {first.dtype} {tuple(first.shape)}"
        )
    for batch in batches:
        if batch.shape != first.shape:
            raise ValueError(
                f"batches of {tuple(first.shape)} and {tuple(batch.shape)}: expected one shape"
            )


def _choose(is_changed: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    """For each image the changed one where is_changed [N], or else the one of x [N, C, H, W]."""
    return torch.where(is_changed[:, None, None, None], changed, x)
