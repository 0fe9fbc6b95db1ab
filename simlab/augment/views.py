"""Random views of a whole batch at once, with an independent draw for every image.

The images go in as uint8 [N, C, H, W] and come out as normalised float32 [N, C, S, S]; every
tensor and every random number lives on the device that holds the batch. What happens to some
images only is computed for all and then chosen for each: nothing branches.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipes import Augment
from .transforms import Normalize, color_jitter, gaussian_blur, resample, rgb_to_grayscale

CROP_TRIES = 10  # torchvision's, for a crop that fits into the image
QUARTERS = 4  # the hue is changed before, between or after the three other steps of the jitter


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

    draw = _Draw(num_views, total, augment, channels, images.device, generator)
    order = _BatchOrder(draw.uniform().view(num_views, -1), n, number, shard, changes_hue)
    draw.rows = order.rows

    x = order.take(images).to(torch.float32).div_(255)  # [M, C, H, W], in the order of the draw
    box, flip, angle = _draw_crops(draw, augment, height, width)
    x = resample(x, box, flip, angle, (size, size) if size else (height, width))
    if augment.jitter:
        factors, steps, hue = _draw_jitter(draw, augment, channels)
        x = color_jitter(x, factors, steps, hue if changes_hue else None, order.quarter_bounds)
    if augment.grey and channels == 3:
        x = _choose(draw.chance(augment.grey), rgb_to_grayscale(x), x)
    if augment.blur:
        sigma = draw.uniform(augment.blur_sigma_min, augment.blur_sigma_max)
        x = _choose(draw.chance(augment.blur), gaussian_blur(x, sigma), x)
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


class _BatchOrder:
    """The order in which the images stand while their views are made.

    `color_jitter` changes the hue of one quarter of its images after the other, between the other
    steps. Each view's images are shuffled, so that each may come into any quarter, and filled up
    to a multiple of four, so that the quarters are equal. Where there is a hue to change, the
    quarters of all views are put together: first all first quarters, then all second ones.

    Args:
        keys: [V, P], random numbers to sort each view's P places by.
        n: images in each batch.
        number: views of every image.
        shard: (first, total), see `two_views`; None for a whole batch.
        by_quarter: whether to put the views' quarters together.

    Attributes:
        rows: [M], the places in use, in their order; None for all V * P in the order of the draw.
        quarter_bounds: the bounds of the four quarters among them; None where they are equal.
    """

    def __init__(
        self,
        keys: Tensor,
        n: int,
        number: int,
        shard: tuple[int, int] | None,
        by_quarter: bool,
    ):
        num_views, per_view = keys.shape
        first = shard[0] if shard else 0
        view_index = torch.arange(num_views, device=keys.device)[:, None]  # [V, 1]
        shuffled = torch.argsort(keys, dim=1)  # [V, P], the number of the image in each place
        unshuffled = (shuffled + per_view * view_index).flatten()  # [V * P], its place before that
        # its index among these images; outside of 0 .. n - 1 it fills up, or is another process's
        image = shuffled - first
        batch_index = view_index // number
        source = (image.clamp(max=n - 1) + batch_index * n).flatten()  # [V * P]
        self.rows: Tensor | None = None
        self.quarter_bounds: list[int] | None = None
        if by_quarter or shard:
            places = torch.arange(num_views * per_view, device=keys.device)
            rows = places.view(num_views, QUARTERS, -1).transpose(0, 1).flatten()
            if shard:
                is_here = ((image >= 0) & (image < n)).flatten()[rows]
                images_of_quarter = is_here.view(QUARTERS, -1).sum(1)
                rows = rows[is_here]
                self.quarter_bounds = [0, *images_of_quarter.cumsum(0).tolist()]
            source = source[rows]
            unshuffled = unshuffled[rows]
            self.rows = rows
        self._source = source
        # of each view the first n: those that filled it up are left out
        self._undo = torch.argsort(unshuffled).view(num_views, -1)[:, :n].flatten()

    def take(self, images: Tensor) -> Tensor:
        """The images [N of all batches, ...] in this order: [M, ...]."""
        return images.index_select(0, self._source)

    def undo(self, x: Tensor) -> Tensor:
        """What was made in this order [M, ...], view by view in the batch's: [V * N, ...]."""
        return x.index_select(0, self._undo)


class _Draw:
    """The random numbers of some views of a batch, made on its device.

    They are all drawn at once, one view's after the other's, for a number of images that is filled
    up to a multiple of four; and they are used in the order of the steps.
    """

    def __init__(
        self,
        num_views: int,
        total: int,
        augment: Augment,
        channels: int,
        device: torch.device,
        generator: torch.Generator | None,
    ):
        self.per_view = math.ceil(total / QUARTERS) * QUARTERS
        self.used = 0
        self.rows: Tensor | None = None  # [M], see `_BatchOrder`
        columns = _numbers_per_image(augment, channels) * self.per_view
        self.numbers = torch.rand(num_views, columns, device=device, generator=generator)

    def uniform(self, low: float = 0.0, high: float = 1.0, columns: int = 0) -> Tensor:
        """One number in low .. high for each image: [M]; or several, [M, columns]."""
        start = self.used
        self.used += self.per_view * max(1, columns)
        numbers = self.numbers[:, start : self.used]
        numbers = numbers.reshape(-1, columns) if columns else numbers.flatten()
        if self.rows is not None:
            numbers = numbers[self.rows]
        if (low, high) == (0, 1):
            return numbers
        return numbers * (high - low) + low

    def chance(self, p: float) -> Tensor:
        """True with probability p, for each image: bool [M]."""
        return self.uniform() < p


def _numbers_per_image(augment: Augment, channels: int) -> int:
    """How many random numbers the steps below use for each image of a view."""
    is_colour = channels == 3
    number = 1  # its place in the order
    number += 2 * CROP_TRIES + 4  # area and aspect of each try; top, left, angle, flip
    if augment.jitter:
        number += 1 + 3 + 1  # whether at all; brightness, contrast, saturation; hue
        number += 3 if is_colour else 2  # the order of the steps
    if augment.grey and is_colour:
        number += 1
    if augment.blur:
        number += 2  # sigma; whether at all
    return number


def _draw_crops(
    draw: _Draw, augment: Augment, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Box [M, 4], flip [M] and angle [M] of `resample`.

    The crop is torchvision's: the first of ten tries that fits into the image.
    """
    # [M, CROP_TRIES] each
    area = draw.uniform(augment.crop_min, augment.crop_max, CROP_TRIES) * (height * width)
    log_ratio = math.log(augment.ratio)
    aspect = torch.exp(draw.uniform(-log_ratio, log_ratio, CROP_TRIES))
    # the last try is the entire image, which always fits: [M, CROP_TRIES + 1]
    tries_height = F.pad(torch.sqrt(area / aspect).round_(), (0, 1), value=height)
    tries_width = F.pad(torch.sqrt(area * aspect).round_(), (0, 1), value=width)
    fits_height = (tries_height >= 1) & (tries_height <= height)
    fits_width = (tries_width >= 1) & (tries_width <= width)
    first = (fits_height & fits_width).to(torch.uint8).argmax(1, keepdim=True)
    crop_height = tries_height.gather(1, first)[:, 0]  # [M]
    crop_width = tries_width.gather(1, first)[:, 0]
    top = torch.floor(draw.uniform() * (height - crop_height + 1))
    left = torch.floor(draw.uniform() * (width - crop_width + 1))
    angle = draw.uniform(-augment.rotate, augment.rotate)
    flip = draw.chance(augment.flip)
    return torch.stack((top, left, crop_height, crop_width), dim=1), flip, angle


def _draw_jitter(draw: _Draw, augment: Augment, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Factors [M, 3], order [M, 2 or 3] and hue factor [M] of `color_jitter`.

    Images without jitter have the factors 1 and the hue factor 0.
    """
    has_jitter = draw.chance(augment.jitter)
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    factors = torch.stack([draw.uniform(1 - s, 1 + s) for s in strengths], dim=1)
    order = torch.argsort(draw.uniform(columns=3 if channels == 3 else 2), dim=1)
    hue_factor = draw.uniform(-augment.hue, augment.hue)
    factors = torch.where(has_jitter[:, None], factors, 1)
    hue_factor = torch.where(has_jitter, hue_factor, 0)
    return factors, order, hue_factor
