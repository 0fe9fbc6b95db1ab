"""Two random views of a whole batch at once, with an own random draw for every picture.

The pictures go in as uint8 [N, C, H, W] and come out as normalised float32 [N, C, S, S]; every
tensor and every random number lives on the device that holds the batch. Each step is torchvision's
function of the same name, written for one parameter per picture instead of one per call:

    crop + flip + rotation   `resample`, one bilinear resampling for all three
    brightness, contrast,    `color_jitter`, in a random order for every picture, hue through HSV
      saturation, hue
    grey, blur, normalise

`Augment` says what is drawn; `RECIPES` holds the published settings by name.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .names import near

GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


def _check_range(name: str, value: float, low: float, high: float):
    if not low <= value <= high:
        raise ValueError(f"{name}={value}: expected a number from {low} to {high}")


@dataclass(frozen=True)
class Augment:
    """What a view is drawn from. Strengths are torchvision's; 0 switches a step off.

    Sources: SimCLR, arXiv 2002.05709, appendix A; SimSiam, arXiv 2011.10566, section 3.
    """

    crop_min: float = 0.2  # smallest share of the picture's area that a crop keeps
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
        for name in ("flip", "jitter", "grey", "blur"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("crop_max", self.crop_max, 0, 1)
        _check_range("crop_min", self.crop_min, 0, self.crop_max)
        _check_range("hue", self.hue, 0, 0.5)
        for name in ("brightness", "contrast", "saturation"):
            _check_range(name, getattr(self, name), 0, 1)
        if not 1 <= self.ratio < math.inf:
            raise ValueError(f"ratio={self.ratio}: expected a number of at least 1")
        if not 0 < self.blur_sigma_min <= self.blur_sigma_max < math.inf:
            raise ValueError(
                f"blur sigma {self.blur_sigma_min} .. {self.blur_sigma_max}: expected 0 < min <= max"
            )
        if self.crop_min == 0:
            raise ValueError("crop_min=0: a crop needs some area, 0.08 is the smallest in use")


RECIPES = {
    # SimSiam, appendix D: SimCLR's with half its strength and, on 32 pixels, no blur
    "simsiam-cifar": Augment(),
    "simsiam-imagenet": Augment(blur=0.5),
    # SimCLR, appendix A: s = 1 for ImageNet
    "simclr": Augment(
        crop_min=0.08, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5
    ),
    # turns as well, since the scattered pictures are turned; see notebook 01
    "scattered": Augment(crop_min=0.3, rotate=45.0, hue=0.0, saturation=0.0, grey=0.0),
    "none": Augment(crop_min=1, ratio=1, flip=0, jitter=0, grey=0),
}


def recipe(name: str, **changes) -> Augment:
    """A recipe by name, with single strengths changed: `recipe("simclr", blur=0)`.

    Raises ValueError for an unknown name or strength, with the nearest right one.
    """
    if name not in RECIPES:
        raise ValueError(f"augmentation {name!r} is unknown{near(name, RECIPES)}")
    known = {field.name for field in fields(Augment)}
    for change in changes:
        if change not in known:
            raise ValueError(f"Augment has no strength {change!r}{near(change, known)}")
    return replace(RECIPES[name], **changes)


def parse_augment(text: str) -> Augment:
    """ "simclr blur=0 crop_min=0.2": a recipe by name, then single strengths changed."""
    name, *changes = text.split() or [""]
    values = {}
    for change in changes:
        key, _, value = change.partition("=")
        try:
            values[key] = float(value)
        except ValueError:
            raise ValueError(f"augment={text!r}: expected name=number, not {change!r}") from None
    return recipe(name, **values)


def two_views(
    images: Tensor,
    augment: Augment,
    mean: Tensor,
    std: Tensor,
    size: int = 0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Two independent views of every picture.

    Args:
        images: uint8 [N, C, H, W].
        mean, std: [C], of pictures in 0 .. 1, on the pictures' device.
        size: side of the views in pixels; 0 keeps the pictures' height.
        generator: on the pictures' device; the same seed gives the same views.
    Returns: two float32 tensors [N, C, size, size], normalised.
    """
    return tuple(view(images, augment, mean, std, size, generator) for _ in range(2))


def view(
    images: Tensor,
    augment: Augment,
    mean: Tensor,
    std: Tensor,
    size: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One random view [N, C, size, size] of every picture [N, C, H, W]; see `two_views`."""
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"pictures must be uint8 [N, C, H, W], not {images.dtype} {tuple(images.shape)}"
        )
    n, c, h, w = images.shape
    draw = _Draw(n, images.device, generator)
    colour = c == 3

    # Quarter k of a random permutation gets its hue shift at position k of the jitter's order, so
    # the costly HSV step runs once on every picture whatever its order is.
    order = torch.argsort(draw.uniform(0, 1))
    x = images[order].to(torch.float32).div_(255)
    x = resample(x, *_crop_box(draw, augment, h, w), size or h)
    if augment.jitter:
        on = draw.chance(augment.jitter)
        factors = [
            torch.where(on, draw.uniform(1 - s, 1 + s), 1)
            for s in (augment.brightness, augment.contrast, augment.saturation * colour)
        ]
        shift = torch.where(on, draw.uniform(-augment.hue, augment.hue), 0)
        ranks = torch.argsort(draw.uniform(0, 1, 3), dim=1)  # [N, 3]: a random order of the three
        use_hue = colour and augment.hue > 0
        x = _jitter_by_quarters(x, torch.stack(factors, 1), shift, ranks, use_hue)
    if augment.grey and colour:
        x = torch.where(_column(draw.chance(augment.grey)), grey(x), x)
    if augment.blur:
        sigma = draw.uniform(augment.blur_sigma_min, augment.blur_sigma_max)
        x = torch.where(_column(draw.chance(augment.blur)), blur(x, sigma), x)
    x = (x - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    return x[torch.argsort(order)].contiguous(memory_format=torch.channels_last)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float32 [N, C, H, W], without augmentation: what evaluation sees."""
    x = images.to(torch.float32).div_(255)
    x = x.sub_(mean.view(1, -1, 1, 1)).div_(std.view(1, -1, 1, 1))
    return x.contiguous(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------- the single steps


def resample(
    x: Tensor, box: Tensor, flip: Tensor, angle: Tensor, size: int | tuple[int, int]
) -> Tensor:
    """Crop, flip and turn every picture in one bilinear resampling.

    Args:
        x: float [N, C, H, W].
        box: [N, 4], top, left, height and width of each crop in pixels (fractions allowed).
        flip: bool [N]. angle: degrees [N], counter-clockwise about the crop's middle.
        size: side, or (height, width), of the result.
    Returns: [N, C, *size]. Without a turn it is torchvision's `resized_crop` (exact where the crop
    is enlarged; there is no antialiasing where it is shrunk), without a crop its `rotate`.
    """
    h, w = x.shape[-2:]
    out_h, out_w = (size, size) if isinstance(size, int) else size
    top, left, height, width = box.unbind(1)
    # pixel centres of the result, in pixels from the crop's middle; never beyond the middle of the
    # crop's outermost pixels, so that nothing outside the crop bleeds in
    v = _centres(out_h, height)  # [N, out_h]
    u = _centres(out_w, width)  # [N, out_w]
    u = torch.where(flip[:, None], -u, u)
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    cos, sin = cos[:, None, None], sin[:, None, None]
    u, v = u[:, None, :], v[:, :, None]
    gx = cos * u - sin * v + (left + width / 2)[:, None, None]  # [N, out_h, out_w]
    gy = sin * u + cos * v + (top + height / 2)[:, None, None]
    grid = torch.stack((gx * (2 / w) - 1, gy * (2 / h) - 1), dim=-1)  # grid_sample's -1 .. 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def adjust(x: Tensor, factor: Tensor, towards: Tensor) -> Tensor:
    """factor * x + (1 - factor) * towards, clamped to 0 .. 1; factor [N], x [N, C, H, W]."""
    return torch.lerp(towards, x, _column(factor)).clamp_(0, 1)


def grey(x: Tensor) -> Tensor:
    """The luma of x [N, 3, H, W] as [N, 1, H, W]."""
    r, g, b = x.unbind(1)
    return (GREY[0] * r).add_(g, alpha=GREY[1]).add_(b, alpha=GREY[2]).unsqueeze_(1)


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of x [N, 3, H, W] by shift [N] (in turns), through HSV.

    With chroma c, value v and hue h in sixths of a turn, channel n of a colour is
    v - c * clamp(min(k, 4 - k), 0, 1) with k = (n + h) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    r, g, b = x.unbind(1)  # [N, H, W] each
    value = torch.maximum(torch.maximum(r, g), b)
    chroma = value - torch.minimum(torch.minimum(r, g), b)
    safe = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    hue = hue + 6 * shift.view(-1, 1, 1)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    for channel, n in enumerate((5, 3, 1)):
        k = torch.remainder(hue + n, 6)
        k = torch.minimum(k, 4 - k).clamp_(0, 1)
        torch.addcmul(value, chroma, k, value=-1, out=out[:, channel])
    return out.clamp_(0, 1)


def color_jitter(x: Tensor, factors: Tensor, shift: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in an own order for every picture.

    Args:
        x: [N, C, H, W] in 0 .. 1 with C 1 or 3 (for one channel, saturation and hue do nothing).
        factors: [N, 3], of brightness, contrast and saturation. shift: hue [N], in turns.
        order: [N, 4], a permutation of 0 (brightness), 1 (contrast), 2 (saturation), 3 (hue).
    """
    for position in range(4):
        now = order[:, position]
        x = _linear_step(x, factors, now)
        if x.shape[1] == 3:
            x = torch.where(_column(now == 3), shift_hue(x, shift), x)
    return x


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of x [N, C, H, W] with an own sigma [N] in pixels; borders are reflected.

    The kernel is a tenth of the picture's side, as in SimCLR (23 pixels of 224).
    """
    n, c, h, w = x.shape
    half = max(1, min(h, w) // 20)
    at = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    kernel = torch.softmax(-0.5 * (at / sigma[:, None]) ** 2, dim=1)  # [N, 2 * half + 1]
    kernel = kernel.repeat_interleave(c, 0)[:, None, None, :]  # [N * C, 1, 1, k]
    y = F.pad(x, (half, half, half, half), mode="reflect").reshape(1, n * c, h + 2 * half, -1)
    y = F.conv2d(F.conv2d(y, kernel, groups=n * c), kernel.transpose(2, 3), groups=n * c)
    return y.view(n, c, h, w)


# ---------------------------------------------------------------------------------------- helpers


class _Draw:
    """Random numbers for n pictures, made on the pictures' device."""

    def __init__(self, n: int, device: torch.device, generator: torch.Generator | None):
        self.n, self.device, self.generator = n, device, generator

    def uniform(self, low: float, high: float, columns: int = 0) -> Tensor:
        shape = (self.n, columns) if columns else (self.n,)
        r = torch.rand(shape, device=self.device, generator=self.generator)
        return r * (high - low) + low

    def chance(self, p: float) -> Tensor:
        return self.uniform(0, 1) < p


def _crop_box(draw: _Draw, augment: Augment, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random crops as torchvision draws them: area, then aspect, cut to whole pixels."""
    area = draw.uniform(augment.crop_min, augment.crop_max) * (h * w)
    log_ratio = math.log(augment.ratio)
    aspect = torch.exp(draw.uniform(-log_ratio, log_ratio))
    width = torch.sqrt(area * aspect).round().clamp(1, w)
    height = torch.sqrt(area / aspect).round().clamp(1, h)
    top = torch.floor(draw.uniform(0, 1) * (h - height + 1))
    left = torch.floor(draw.uniform(0, 1) * (w - width + 1))
    flip = draw.chance(augment.flip)
    angle = draw.uniform(-augment.rotate, augment.rotate)
    return torch.stack((top, left, height, width), 1), flip, angle


def _jitter_by_quarters(
    x: Tensor, factors: Tensor, shift: Tensor, ranks: Tensor, use_hue: bool
) -> Tensor:
    """Colour jitter where quarter k of the batch has its hue shift at position k."""
    parts = []
    for k in range(4):
        rows = slice(k * len(x) // 4, (k + 1) * len(x) // 4)
        part, own_factors, own_ranks = x[rows], factors[rows], ranks[rows]
        for position in range(4 if len(part) else 0):
            if position == k:
                part = shift_hue(part, shift[rows]) if use_hue else part
            else:
                now = own_ranks[:, position - (position > k)]
                part = _linear_step(part, own_factors, now)
        parts.append(part)
    return torch.cat(parts)


def _linear_step(x: Tensor, factors: Tensor, which: Tensor) -> Tensor:
    """One of brightness (0), contrast (1) or saturation (2) for every picture; 3 does nothing.

    All three blend the picture with something: black, its mean grey, or its grey. The factors are
    gathered so that no picture needs a branch.
    """
    luma = grey(x) if x.shape[1] == 3 else x
    mean = luma.mean((1, 2, 3), keepdim=True)
    active = which < 3
    factor = factors.gather(1, which.clamp(max=2)[:, None])[:, 0]
    factor = torch.where(active, factor, 1)
    towards = _column((which == 1).to(x.dtype)) * mean
    if x.shape[1] == 3:
        towards = torch.addcmul(towards, _column((which == 2).to(x.dtype)), luma)
    elif x.shape[1] == 1:  # a grey picture has no saturation to change
        factor = torch.where(which == 2, 1, factor)
    return adjust(x, factor, towards)


def _centres(n: int, length: Tensor) -> Tensor:
    """Centres of n pixels that share `length` [N] source pixels, from the middle: [N, n]."""
    at = (torch.arange(n, device=length.device, dtype=length.dtype) + 0.5) / n - 0.5
    limit = (length[:, None] - 1).clamp(min=0) / 2
    return (at * length[:, None]).clamp(-limit, limit)


def _column(per_picture: Tensor) -> Tensor:
    return per_picture.view(-1, 1, 1, 1)

