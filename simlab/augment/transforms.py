"""Image operations on a whole batch, with one parameter for each image.

Each is torchvision's function of the same name, which takes one parameter a call; `resample` does
the work of `resized_crop`, `hflip` and `rotate` in one bilinear resampling. Images are float
[N, C, H, W] in 0 .. 1. `Normalize` makes them of the stored uint8 images.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from simlab.compute import full_precision

LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue
SOLARIZE_FROM = 128 / 255  # the value from which on solarisation inverts


@dataclass(frozen=True, eq=False)
class Normalize:
    """What turns the stored uint8 images into the float images that an encoder sees.

    Attributes:
        mean: mean of each channel [C], of images in 0 .. 1.
        std: standard deviation of each channel [C], of images in 0 .. 1.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            values = torch.as_tensor(values, dtype=torch.float32)
            if values.dim() != 1:
                raise ValueError(
                    f"{name} has shape {tuple(values.shape)}: expected one number per channel, [C]"
                )
            object.__setattr__(self, name, values)  # the only way into a frozen dataclass
        if self.mean.shape != self.std.shape:
            raise ValueError(
                f"mean has {len(self.mean)} channels and std {len(self.std)}: expected as many"
            )
        if self.std.device.type != "meta" and not bool((self.std > 0).all()):
            raise ValueError(f"std={self.std.tolist()}: expected numbers above 0")

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images [N, C, H, W] as float32, without augmentation: what evaluation sees."""
        if images.dtype != torch.uint8:
            raise ValueError(f"images are {images.dtype}: expected uint8, 0 to 255")
        return self.standardise(images.to(torch.float32).div_(255))

    def standardise(self, x: Tensor) -> Tensor:
        """Float images x [N, C, H, W] in 0 .. 1 as (x - mean) / std, in memory channels last."""
        offset = (-self.mean / self.std)[:, None, None]
        scale = (1 / self.std)[:, None, None]
        return torch.addcmul(offset, x, scale).contiguous(memory_format=torch.channels_last)

    def undo(self, x: Tensor) -> Tensor:
        """Normalised float images [N, C, H, W] back in 0 .. 1, for looking at."""
        std = self.std.view(1, -1, 1, 1)
        mean = self.mean.view(1, -1, 1, 1)
        return (x * std + mean).clamp(0, 1)

    def to(self, device: torch.device | str) -> "Normalize":
        """The same normalisation for images on `device`."""
        return Normalize(self.mean.to(device), self.std.to(device))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Normalize):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in v) for v in self._values())
        return f"Normalize(mean=[{mean}], std=[{std}])"

    def _values(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return tuple(self.mean.tolist()), tuple(self.std.tolist())


# ------------------------------------------------------------------------------- crop, rotate, flip


def resample(
    x: Tensor, box: Tensor, flip: Tensor, angle: Tensor, size: int | tuple[int, int]
) -> Tensor:
    """Crop, rotate and flip every image in one bilinear resampling.

    Without a rotation it is torchvision's `resized_crop` where the crop is enlarged (where it is
    shrunk there is no antialiasing); without a crop it is torchvision's `rotate`.

    Args:
        x: float [N, C, H, W].
        box: [N, 4], top, left, height and width of each crop in pixels (fractions allowed).
        flip: bool [N], a horizontal flip after the rotation.
        angle: degrees [N], counter-clockwise about the crop's centre.
        size: side, or (height, width), of the result.

    Returns:
        Float [N, C, *size].
    """
    h, w = x.shape[-2:]
    out_h, out_w = (size, size) if isinstance(size, int) else size
    top, left, height, width = box.split(1, dim=1)  # [N, 1] each
    # pixel centres of the result, in pixels from the crop's centre
    v = _pixel_centres(out_h, height)  # [N, out_h]
    u = _pixel_centres(out_w, width)  # [N, out_w]
    u = torch.where(flip[:, None], -u, u)
    radians = torch.deg2rad(angle)[:, None]
    cos = torch.cos(radians)
    sin = torch.sin(radians)
    # where to sample: the sum of what a column of the result contributes and what a row does
    column_x = cos * u + (left + width / 2 - w / 2)
    row_x = -sin * v
    column_y = sin * u
    row_y = cos * v + (top + height / 2 - h / 2)
    # in grid_sample's units, in which the image's borders are -1 and 1
    grid = x.new_empty((len(x), out_h, out_w, 2))
    torch.add((column_x * (2 / w))[:, None, :], (row_x * (2 / w))[:, :, None], out=grid[..., 0])
    torch.add((column_y * (2 / h))[:, None, :], (row_y * (2 / h))[:, :, None], out=grid[..., 1])
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _pixel_centres(n: int, length: Tensor) -> Tensor:
    """Centres of n pixels that share `length` [N, 1] source pixels, from the middle: [N, n].

    Never beyond the centres of the outermost source pixels, so that nothing outside bleeds in.
    """
    fractions = (torch.arange(n, device=length.device, dtype=length.dtype) + 0.5) / n - 0.5
    limit = (length - 1).clamp(min=0) / 2
    return (fractions * length).clamp(-limit, limit)


# ------------------------------------------------------------------------------------------ colour


def color_jitter(
    x: Tensor,
    factors: Tensor,
    order: Tensor,
    hue_factor: Tensor | None,
    hue_bounds: list[int] | None = None,
) -> Tensor:
    """Change brightness, contrast, saturation and hue, in an independent order for each image.

    The hue is the costly step and runs once on every image: on part k of M + 1 parts of the batch
    (k from 0) after k of the other steps.

    Args:
        x: [N, C, H, W] in 0 .. 1. With one channel there is neither saturation nor hue.
        factors: [N, 3], of brightness, contrast and saturation.
        order: [N, M], different ones of 0 (brightness), 1 (contrast) and 2 (saturation).
        hue_factor: [N], see `adjust_hue`; or None for no change of hue.
        hue_bounds: M + 2 indices, the bounds of these parts; None for equal parts.

    Returns:
        A new tensor [N, C, H, W].
    """
    steps = order.shape[1]
    is_colour = x.shape[1] == 3
    if hue_factor is not None:
        x = x.clone()  # its parts are overwritten
    if hue_bounds is None:
        hue_bounds = [k * len(x) // (steps + 1) for k in range(steps + 2)]
    factors = factors.gather(1, order)  # [N, M], in the order of the steps
    if not is_colour:
        factors = factors.masked_fill(order == 2, 1)
    # each step blends with something: black (0), the image's mean grey (1), or its grey (2)
    weight = _one_row_a_step(factors, x)  # [M, N, 1, 1, 1]
    is_contrast = _one_row_a_step(order == 1, x)
    is_saturation = _one_row_a_step(order == 2, x)
    for step in range(steps + 1):
        if hue_factor is not None:
            rows = slice(hue_bounds[step], hue_bounds[step + 1])
            x[rows] = adjust_hue(x[rows], hue_factor[rows])
        if step < steps:
            luma = rgb_to_grayscale(x) if is_colour else x
            target = luma.mean((2, 3), keepdim=True) * is_contrast[step]
            if is_colour:
                target = torch.addcmul(target, luma, is_saturation[step])
            x = torch.lerp(target, x, weight[step]).clamp_(0, 1)
    return x


def _one_row_a_step(values: Tensor, x: Tensor) -> Tensor:
    """Values [N, M] for M steps on images x [N, C, H, W], to be multiplied: [M, N, 1, 1, 1]."""
    return values.to(x.dtype).T[..., None, None, None]


def adjust_hue(x: Tensor, hue_factor: Tensor) -> Tensor:
    """Rotate the hue of x [N, 3, H, W] by hue_factor [N] of the colour wheel, as through HSV.

    The colours with the same brightest and darkest value lie on a hexagon around grey. Its side is
    the chroma (brightest less darkest); the hue is the way along it, red being 0, green 2 and blue
    4 chromas. A channel has its brightest value up to 1 chroma away from its own colour, and its
    darkest from 2 on. In these units nothing is divided by the chroma, which may be 0.

    Args:
        x: [N, 3, H, W] in 0 .. 1.
        hue_factor: [N] in -1/2 .. 1/2, 1 being once around the wheel.
    """
    r, g, b = x.unbind(1)  # [N, H, W] each
    high = torch.maximum(torch.maximum(r, g), b)  # several times as fast as x.amax(1)
    low = torch.minimum(torch.minimum(r, g), b)
    chroma = high - low
    # -3 .. 3 chromas from red: as far as green and blue have come up, and red down
    hue = torch.copysign((g + b).sub_(r).add_(high).sub_(low, alpha=2), g - b)
    # from each channel's own colour, within -3 .. 3: then the distance is within -6 .. 6
    channel_hue = torch.arange(0, 6, 2, device=x.device)  # of red, green and blue
    start = torch.remainder(6 * hue_factor[:, None] - channel_hue + 3, 6) - 3  # [N, 3]
    hue, chroma, high, low = (plane.unsqueeze(1) for plane in (hue, chroma, high, low))
    distance = torch.addcmul(hue, chroma, start[..., None, None])  # [N, 3, H, W]
    # once around are 6 chromas: what is left is 3 - | |distance| - 3 |, and the value falls with it
    level = distance.abs_().sub_(3 * chroma).abs_().add_(low - chroma)
    return torch.clamp(level, low, high)


def rgb_to_grayscale(x: Tensor) -> Tensor:
    """The luma of x [N, 3, H, W] as [N, 1, H, W]."""
    r, g, b = x.unbind(1)
    return (LUMA[0] * r).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2]).unsqueeze_(1)


def solarize(x: Tensor) -> Tensor:
    """Invert the values of x [N, C, H, W] from the middle of 0 .. 1 on."""
    return torch.where(x >= SOLARIZE_FROM, 1 - x, x)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur x [N, C, H, W] with an independent sigma [N] in pixels; borders are reflected.

    The kernel is a tenth of the image's side, as in SimCLR (23 pixels of 224). A side of a single
    pixel, which has nothing to reflect, is repeated.
    """
    n, c, h, w = x.shape
    half = max(1, min(h, w) // 20)
    offsets = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    kernel = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1)  # [N, 2 * half + 1]
    kernel = kernel.repeat_interleave(c, 0)[:, None, None, :]  # [N * C, 1, 1, 2 * half + 1]
    # one group for each image and channel, so that each gets its kernel
    mode = "reflect" if half < min(h, w) else "replicate"
    y = F.pad(x, (half, half, half, half), mode=mode).reshape(1, n * c, h + 2 * half, -1)
    with full_precision(x.device):
        y = F.conv2d(y, kernel, groups=n * c)
        y = F.conv2d(y, kernel.transpose(2, 3), groups=n * c)
    return y.view(n, c, h, w)
