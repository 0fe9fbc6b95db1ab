"""Two random views of a whole batch at once, with an own random draw for every image.

The images go in as uint8 [N, C, H, W] and come out as normalised float32 [N, C, S, S]; every
tensor and every random number lives on the device that holds the batch. Each step is torchvision's
function, with one parameter per image instead of one per call:

    resample       crop, flip and rotation in one bilinear resampling
    color_jitter   brightness, contrast, saturation and HSV's hue, in an own order for every image
    grey, blur, normalise

`Augment` says what is drawn; `RECIPES` holds the published settings by name. What happens to some
images only is computed for all, and then chosen for each: nothing branches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from simlab._names import near
from simlab.compute.devices import full_precision

from .transforms import Normalize

GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue
TRIES = 10  # torchvision's, for a crop that fits into the image


@dataclass(frozen=True)
class Augment:
    """What a view is drawn from. Strengths are torchvision's; 0 switches a step off.

    Sources: SimCLR, arXiv 2002.05709, appendix A; SimSiam, arXiv 2011.10566, section 3.
    """

    crop_min: float = 0.2  # smallest share of the image's area that a crop keeps
    crop_max: float = 1.0  # largest
    ratio: float = 4 / 3  # aspect ratio of a crop: log-uniform in 1/ratio .. ratio
    flip: float = 0.5  # probability of a horizontal flip
    rotate: float = 0.0  # degrees, uniform in -rotate .. rotate
    jitter: float = 0.8  # probability of the colour jitter
    brightness: float = 0.4  # factor, uniform in 1 - b .. 1 + b
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # turns of the colour wheel, uniform in -hue .. hue; at most 0.5
    grey: float = 0.2  # probability of losing the colour
    blur: float = 0.0  # probability of a Gaussian blur
    blur_sigma_min: float = 0.1  # pixels
    blur_sigma_max: float = 2.0

    def __post_init__(self):
        limits = {
            "crop_max": (0.001, 1),
            "crop_min": (0.001, self.crop_max),
            "ratio": (1, 100),
            "rotate": (0, 180),
            "hue": (0, 0.5),
            "blur_sigma_max": (0.01, 100),
            "blur_sigma_min": (0.01, self.blur_sigma_max),
        }
        for name, value in vars(self).items():
            low, high = limits.get(name, (0, 1))
            if not low <= value <= high:  # also refuses NaN
                raise ValueError(f"{name}={value}: expected a number from {low} to {high}")


RECIPES = {
    # SimSiam, appendix D: SimCLR's with half its strength and, on 32 pixels, no blur
    "simsiam-cifar": Augment(),
    "simsiam-imagenet": Augment(blur=0.5),
    # SimCLR, appendix A: s = 1 for ImageNet
    "simclr": Augment(
        crop_min=0.08, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5
    ),
    # turns as well, since the scattered images are turned; see notebook 01
    "scattered": Augment(crop_min=0.4, rotate=180.0, hue=0.0, saturation=0.0, grey=0.0),
    # larger crops and more change of light: what is learned is worth more (notebook 02); the tables of
    # notebooks 03 and 04 were made with the one above
    "scattered-light": Augment(
        crop_min=0.5, rotate=180.0, brightness=0.6, contrast=0.6, hue=0.0, saturation=0.0, grey=0.0
    ),
    "none": Augment(crop_min=1, ratio=1, flip=0, jitter=0, grey=0),
}


def parse_augment(text: str) -> Augment:
    """ "simclr blur=0 crop_min=0.2": a recipe by name, then single strengths changed.

    Raises ValueError for an unknown name or strength, with the nearest right one.
    """
    name, *changes = text.split() or [""]
    if name not in RECIPES:
        raise ValueError(f"augmentation {name!r} is unknown{near(name, RECIPES)}")
    known, values = vars(RECIPES[name]), {}
    for change in changes:
        key, _, value = change.partition("=")
        if key not in known:
            raise ValueError(f"augment={text!r}: there is no strength {key!r}{near(key, known)}")
        try:
            values[key] = float(value)
        except ValueError:
            raise ValueError(f"augment={text!r}: expected name=number, not {change!r}") from None
    return replace(RECIPES[name], **values)


def two_views(
    images: Tensor,
    augment: Augment,
    normalize: Normalize,
    size: int = 0,
    generator: torch.Generator | None = None,
    share: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Two independent views of every image.

    Args:
        images: uint8 [N, C, H, W].
        normalize: on the images' device.
        size: side of the views in pixels; 0 keeps the images' shape.
        generator: on the images' device; the same seed gives the same views. An image's view
            depends on how many images there are, but not on what the others show.
        share: (first, total) where the images are a part of a batch: the `total` images' numbers
            are drawn and these images', from `first` on, are used. So the parts' views are the
            batch's.
    Returns: two float32 tensors [N, C, size, size], normalised, in memory channels last.
    """
    return views_at_once(2, [images], augment, normalize, size, generator, share)[0]


def view(
    images: Tensor,
    augment: Augment,
    normalize: Normalize,
    size: int = 0,
    generator: torch.Generator | None = None,
    share: tuple[int, int] | None = None,
) -> Tensor:
    """One random view [N, C, size, size] of every image [N, C, H, W]; see `two_views`."""
    return views_at_once(1, [images], augment, normalize, size, generator, share)[0][0]


def views_at_once(
    number: int,
    batches: Sequence[Tensor],
    augment: Augment,
    normalize: Normalize,
    size: int = 0,
    generator: torch.Generator | None = None,
    share: tuple[int, int] | None = None,
) -> list[tuple[Tensor, ...]]:
    """`number` views of each of some batches of one shape: what `view` would make one by one.

    All in one go: the hundred small steps of a view take hardly longer for several small batches.

    Args: batches: uint8 [N, C, H, W] each; all others as in `two_views`.
    Returns: for every batch its views, as there. Raises ValueError for what are no such images.
    """
    images = torch.cat(tuple(batches)) if len(batches) > 1 else batches[0]
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"images must be uint8 [N, C, H, W], not {images.dtype} {tuple(images.shape)}"
        )
    n, (c, h, w), views = len(batches[0]), images.shape[1:], number * len(batches)
    first, total = share or (0, n)
    hue = bool(augment.jitter and augment.hue and c == 3)
    draw = _Draw(views, total, augment, c, images.device, generator)
    # `color_jitter` shifts the hue of one quarter of its images after the other: shuffled, each
    # may come into any quarter. The batch is filled up to four equal ones, of all views.
    shuffled, quarters = torch.argsort(draw.uniform().view(views, -1), 1), None  # [V, N4]
    row = torch.arange(views, device=images.device)[:, None]
    place = (shuffled + draw.n * row).flatten()
    shuffled = shuffled - first  # of these images; outside of 0 .. n - 1 it is another's
    source = (shuffled.clamp(max=n - 1) + row // number * n).flatten()
    if hue or share:
        by_quarter = torch.arange(len(place), device=images.device)
        by_quarter = by_quarter.view(views, 4, -1).transpose(0, 1).flatten()
        if share:
            kept = ((shuffled >= 0) & (shuffled < n)).flatten()[by_quarter]
            by_quarter = by_quarter[kept]
            quarters = [0, *kept.view(4, -1).sum(1).cumsum(0).tolist()]
        draw.rows, source, place = by_quarter, source[by_quarter], place[by_quarter]
    x = images.index_select(0, source).to(torch.float32).div_(255)
    x = resample(x, *_crops(draw, augment, h, w), (size, size) if size else (h, w))
    if augment.jitter:
        x = color_jitter(x, *_jitter(draw, augment, c), quarters)
    if augment.grey and c == 3:
        x = torch.where(draw.chance(augment.grey)[:, None, None, None], grey(x), x)
    if augment.blur:
        sigma = draw.uniform(augment.blur_sigma_min, augment.blur_sigma_max)
        x = torch.where(draw.chance(augment.blur)[:, None, None, None], blur(x, sigma), x)
    back = torch.argsort(place).view(views, -1)[:, :n].flatten()
    made = normalize.standardise(x.index_select(0, back)).split(n)
    return [made[i : i + number] for i in range(0, views, number)]


# ------------------------------------------------------------------------------- the single steps


def resample(
    x: Tensor, box: Tensor, flip: Tensor, angle: Tensor, size: int | tuple[int, int]
) -> Tensor:
    """Crop, flip and turn every image in one bilinear resampling.

    Args:
        x: float [N, C, H, W].
        box: [N, 4], top, left, height and width of each crop in pixels (fractions allowed).
        flip: bool [N]. angle: degrees [N], counter-clockwise about the crop's middle.
        size: side, or (height, width), of the result.
    Returns: [N, C, *size]. Without a turn it is torchvision's `resized_crop` where the crop is
    enlarged (there is no antialiasing where it is shrunk), without a crop its `rotate`.
    """
    h, w = x.shape[-2:]
    out_h, out_w = (size, size) if isinstance(size, int) else size
    top, left, height, width = box.split(1, dim=1)  # [N, 1] each
    # pixel centres of the result, in pixels from the crop's middle
    v, u = _centres(out_h, height), _centres(out_w, width)  # [N, out_h], [N, out_w]
    u = torch.where(flip[:, None], -u, u)
    turn = torch.deg2rad(angle)[:, None]
    cos, sin = torch.cos(turn), torch.sin(turn)
    # where to sample: what a column of the result adds to what a row does, both in grid_sample's
    # units, in which the image's borders are -1 and 1
    column_x, row_x = cos * u + (left + width / 2 - w / 2), -sin * v
    column_y, row_y = sin * u, cos * v + (top + height / 2 - h / 2)
    grid = x.new_empty((len(x), out_h, out_w, 2))
    torch.add((column_x * (2 / w))[:, None, :], (row_x * (2 / w))[:, :, None], out=grid[..., 0])
    torch.add((column_y * (2 / h))[:, None, :], (row_y * (2 / h))[:, :, None], out=grid[..., 1])
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def grey(x: Tensor) -> Tensor:
    """The luma of x [N, 3, H, W] as [N, 1, H, W]."""
    r, g, b = x.unbind(1)
    return (GREY[0] * r).add_(g, alpha=GREY[1]).add_(b, alpha=GREY[2]).unsqueeze_(1)


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of x [N, 3, H, W] by shift [N], in turns from -1/2 to 1/2, as through HSV.

    The colours with the same brightest and darkest value lie on a hexagon around grey. Its side is
    the chroma (brightest less darkest); the hue is the way along it, red being 0, green 2 and blue
    4 chromas. A channel has its brightest value up to 1 chroma away from its own colour, and its
    darkest from 2 on. In these units nothing is divided by the chroma, which may be 0.
    """
    r, g, b = x.unbind(1)  # [N, H, W] each
    high = torch.maximum(torch.maximum(r, g), b)  # several times as fast as x.amax(1)
    low = torch.minimum(torch.minimum(r, g), b)
    chroma = high - low
    # -3 .. 3 chromas from red: as far as green and blue have come up, and red down
    hue = torch.copysign((g + b).sub_(r).add_(high).sub_(low, alpha=2), g - b)
    # where each channel's own colour is left behind, within -3 .. 3: then `way` is within -6 .. 6
    own = torch.arange(0, 6, 2, device=x.device)
    start = torch.remainder(6 * shift[:, None] - own + 3, 6) - 3  # [N, 3]
    hue, chroma, high, low = (plane.unsqueeze(1) for plane in (hue, chroma, high, low))
    way = torch.addcmul(hue, chroma, start[..., None, None])  # [N, 3, H, W]
    # once around are 6 chromas: the distance is 3 - | |way| - 3 |, and the value falls with it
    level = way.abs_().sub_(3 * chroma).abs_().add_(low - chroma)
    return torch.clamp(level, low, high)


def color_jitter(
    x: Tensor, factors: Tensor, order: Tensor, shift: Tensor | None, parts: list[int] | None = None
) -> Tensor:
    """Brightness, contrast, saturation and hue, in an own order for every image.

    Args:
        x: [N, C, H, W] in 0 .. 1. With one channel there is neither saturation nor hue.
        factors: [N, 3], of brightness, contrast and saturation.
        order: [N, M], different ones of 0 (brightness), 1 (contrast) and 2 (saturation).
        shift: hue [N], in turns, or None. It is the costly step and runs once on every image: on
            part k of M + 1 parts of the batch (from 0) after k of the other steps.
        parts: their bounds; equal parts where not said.
    """
    steps, colour = order.shape[1], x.shape[1] == 3
    x = x if shift is None else x.clone()  # parts of it are overwritten
    parts = parts or [part * len(x) // (steps + 1) for part in range(steps + 2)]
    factors = factors.gather(1, order)
    if not colour:
        factors = factors.masked_fill(order == 2, 1)
    # each step blends with something: black (0), the image's mean grey (1), or its grey (2)
    factors, to_mean, to_grey = (
        t.to(x.dtype).T[..., None, None, None]  # [M, N, 1, 1, 1]
        for t in (factors, order == 1, order == 2)
    )
    for step in range(steps + 1):
        if shift is not None:
            part = slice(parts[step], parts[step + 1])
            x[part] = shift_hue(x[part], shift[part])
        if step < steps:
            luma = grey(x) if colour else x
            towards = luma.mean((2, 3), keepdim=True) * to_mean[step]
            if colour:
                towards = torch.addcmul(towards, luma, to_grey[step])
            x = torch.lerp(towards, x, factors[step]).clamp_(0, 1)
    return x


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of x [N, C, H, W] with an own sigma [N] in pixels; borders are reflected.

    The kernel is a tenth of the image's side, as in SimCLR (23 pixels of 224).
    """
    (n, c, h, w), half = x.shape, max(1, min(x.shape[2:]) // 20)
    at = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    kernel = torch.softmax(-0.5 * (at / sigma[:, None]) ** 2, dim=1)  # [N, 2 * half + 1]
    kernel = kernel.repeat_interleave(c, 0)[:, None, None, :]  # [N * C, 1, 1, k]
    y = F.pad(x, (half, half, half, half), mode="reflect").reshape(1, n * c, h + 2 * half, -1)
    with full_precision(x.device):
        y = F.conv2d(F.conv2d(y, kernel, groups=n * c), kernel.transpose(2, 3), groups=n * c)
    return y.view(n, c, h, w)


# ---------------------------------------------------------------------------------------- helpers


class _Draw:
    """Random numbers for some views of a batch, filled up to n images, made on its device.

    They are all drawn at once, one view's after the other's, and used in the order of the steps.
    """

    def __init__(
        self,
        views: int,
        total: int,
        augment: Augment,
        channels: int,
        device: torch.device,
        generator: torch.Generator | None,
    ):
        self.n, self.used = -(-total // 4) * 4, 0
        self.rows: Tensor | None = None  # [M] of the views' images, where not all in their order
        colour = channels == 3
        each = 1 + 2 * TRIES + 4  # shuffling, crops
        each += (7 + colour) * (augment.jitter > 0) + (colour and augment.grey > 0)
        each += 2 * (augment.blur > 0)
        self.numbers = torch.rand(views, each * self.n, device=device, generator=generator)

    def uniform(self, low: float = 0.0, high: float = 1.0, columns: int = 0) -> Tensor:
        r = self.numbers[:, self.used : self.used + self.n * max(1, columns)]
        self.used += r.shape[1]
        r = r.reshape(-1, columns) if columns else r.flatten()
        r = r if self.rows is None else r[self.rows]
        return r if (low, high) == (0, 1) else r * (high - low) + low

    def chance(self, p: float) -> Tensor:
        return self.uniform() < p


def _crops(draw: _Draw, augment: Augment, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """Box, flip and angle of `resample`; torchvision's crops, the first of ten tries that fits."""
    area = draw.uniform(augment.crop_min, augment.crop_max, TRIES) * (h * w)  # [N, TRIES]
    log_ratio = math.log(augment.ratio)
    aspect = torch.exp(draw.uniform(-log_ratio, log_ratio, TRIES))
    # the last try is the whole image, which always fits
    height = F.pad(torch.sqrt(area / aspect).round_(), (0, 1), value=h)  # [N, TRIES + 1]
    width = F.pad(torch.sqrt(area * aspect).round_(), (0, 1), value=w)
    fits = (height >= 1) & (height <= h) & (width >= 1) & (width <= w)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    height, width = (side.gather(1, first)[:, 0] for side in (height, width))
    top = torch.floor(draw.uniform() * (h - height + 1))
    left = torch.floor(draw.uniform() * (w - width + 1))
    angle = draw.uniform(-augment.rotate, augment.rotate)
    return torch.stack((top, left, height, width), 1), draw.chance(augment.flip), angle


def _jitter(draw: _Draw, augment: Augment, c: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Factors, order and hue shift of `color_jitter`; 1 and 0 for images without jitter."""
    on = draw.chance(augment.jitter)
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    factors = torch.stack([draw.uniform(1 - s, 1 + s) for s in strengths], 1)
    order = torch.argsort(draw.uniform(columns=3 if c == 3 else 2), dim=1)
    shift = draw.uniform(-augment.hue, augment.hue)
    factors, shift = torch.where(on[:, None], factors, 1), torch.where(on, shift, 0)
    return factors, order, shift if augment.hue and c == 3 else None


def _centres(n: int, length: Tensor) -> Tensor:
    """Centres of n pixels that share `length` [N, 1] source pixels, from the middle: [N, n].

    Never beyond the middle of the outermost source pixels, so that nothing outside bleeds in.
    """
    at = (torch.arange(n, device=length.device, dtype=length.dtype) + 0.5) / n - 0.5
    limit = (length - 1).clamp(min=0) / 2
    return (at * length).clamp(-limit, limit)
