"""Encoders: an image [N, C, H, W] in, a feature vector [N, D] out.

`build_encoder("auto", ...)` chooses by the image's size; a name chooses by hand; any nn.Module that
maps images to vectors serves as well.

    tiny, small, medium    for two CPU cores: three stages of one residual block each
    resnet18, 34, 50       torchvision's; with the 3x3 stem that fits up to 64 pixels, or the
                           original 7x7 stem and max-pooling (stem="small" or "large")
"""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import near

from .custom import feature_dim
from .vit import TinyViT

TINY_IMAGE = 40  # pixels; up to here "auto" is the tiny encoder
SMALL_IMAGE = 64  # pixels; up to here a ResNet keeps its resolution in the stem
TINY_WIDTHS = {"tiny": (16, 48, 128), "small": (32, 64, 128), "medium": (32, 96, 256)}
RESNETS = ("resnet18", "resnet34", "resnet50")
VIT = "vit_tiny"
ENCODERS = (*TINY_WIDTHS, VIT, *RESNETS)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection (He et al., 1512.03385).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first convolution; 2 halves the resolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, out_channels, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class TinyResNet(nn.Module):
    """A ResNet small enough to learn something in a minute on two cores.

    [N, C, H, W] -> stem [N, w0, H/2, W/2] -> one block a stage, halved each time -> [N, w2]. The
    pooled features are standardised (BatchNorm without scale and shift): averages of what a ReLU
    lets through are all positive, so that any two would look alike to a cosine.

    Args:
        channels: C.
        widths: Channels w0, w1, w2 of the stages.
    """

    def __init__(self, channels: int = 1, widths: tuple[int, ...] = TINY_WIDTHS["tiny"]) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, widths[0], 3, stride=2, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks = nn.Sequential(ResidualBlock(widths[0], widths[0]))
        for width, next_width in itertools.pairwise(widths):
            self.blocks.append(ResidualBlock(width, next_width, stride=2))
        self.norm = nn.BatchNorm1d(widths[-1], affine=False)
        self.feature_dim = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to features [N, w2]."""
        maps = self.blocks(self.stem(x))  # [N, C, H, W] -> [N, w2, h, w]
        features: Tensor = self.norm(maps.mean((2, 3)))  # [N, w2, h, w] -> [N, w2]
        return features


def build_encoder(
    name: str | nn.Module, channels: int, size: int, stem: str = "auto"
) -> tuple[nn.Module, int]:
    """Build an encoder.

    Args:
        name: One of `ENCODERS`, "auto" (tiny up to 40 pixels, resnet18 above), or a module, which
            is tried on one image.
        channels: Channels C of the images.
        size: Side of the images in pixels.
        stem: "small" (3x3, stride 1, no max-pool), "large" (7x7) or "auto", by the image's size.

    Returns:
        The encoder and its number D of features.

    Raises:
        ValueError: A name is unknown, or a module does not map images to [N, D].
        TypeError: It is neither a name nor a module.
    """
    if not isinstance(name, str):
        return name, feature_dim(name, channels, size)
    if name == "auto":
        name = "tiny" if size <= TINY_IMAGE else "resnet18"
    if stem not in ("auto", "small", "large"):
        raise ValueError(f"stem={stem!r}: expected 'auto', 'small' or 'large'")
    if name in TINY_WIDTHS:
        encoder = TinyResNet(channels, TINY_WIDTHS[name])
        return encoder, encoder.feature_dim
    if name == VIT:
        vit = TinyViT(channels)
        return vit, vit.feature_dim
    if name not in RESNETS:
        raise ValueError(f"encoder {name!r} is unknown{near(name, (*ENCODERS, 'auto'))}")
    is_small = stem == "small" or (stem == "auto" and size <= SMALL_IMAGE)
    return _build_resnet(name, channels, is_small)


def _build_resnet(name: str, channels: int, small_stem: bool) -> tuple[nn.Module, int]:
    """A ResNet of torchvision without its classifier, and its number of features."""
    from torchvision.models import get_model  # loading it takes two seconds

    # residual branches start at zero (Goyal et al., 1706.02677, section 5.1)
    encoder = get_model(name, weights=None, zero_init_residual=True)
    if small_stem:
        encoder.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        encoder.maxpool = nn.Identity()
    elif channels != 3:
        encoder.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
    feature_dim = encoder.fc.in_features
    encoder.fc = nn.Identity()
    return encoder, feature_dim
