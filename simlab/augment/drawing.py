"""The random draw for the views of a batch: the numbers, the order of the images, the parameters.

`views.py` uses it in this order: `Draw` makes all random numbers at once; `BatchOrder` shuffles
the images with the first of them; `draw_crops` and `draw_jitter` make the others into what the
steps in transforms.py take.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipes import Augment

CROP_TRIES = 10  # torchvision's, for a crop that fits into the image
QUARTERS = 4  # the hue is changed before, between or after the three other steps of the jitter


class BatchOrder:
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


class Draw:
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
        self.rows: Tensor | None = None  # [M], see `BatchOrder`
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
    if augment.solarize:
        number += 1
    return number


def draw_crops(
    draw: Draw, augment: Augment, height: int, width: int
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


def draw_jitter(draw: Draw, augment: Augment, channels: int) -> tuple[Tensor, Tensor, Tensor]:
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
