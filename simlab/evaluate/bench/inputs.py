"""What an encoder expects of images, and an encoder that takes any images.

uint8 [N, C, H, W] / 255 -> its channels -> resized, middle cut out -> standardised -> encoder
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize

from simlab._checks import near
from simlab.augment import Normalize, rgb_to_grayscale
from simlab.data import Dataset

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Input:
    """What an encoder expects of images.

    Attributes:
        size: Side in pixels.
        mean: Of each channel, of images in 0 .. 1.
        std: Of each channel.
        channels: 1 for grey images, 3 for colour ones.
        interpolation: How images of another size are resized: nearest, bilinear or bicubic, the
            last two with antialiasing.
        resize: Side to which the whole image is resized before the middle `size` pixels are cut
            out of it; 0: `size`, so that nothing is cut off.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3
    interpolation: str = "bilinear"
    resize: int = 0

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: expected 1 (grey) or 3 (colour)")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(
                    f"{name}={values}: expected {self.channels} numbers, one for each channel"
                )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std={self.std}: expected numbers above 0")
        if self.size < 1:
            raise ValueError(f"size={self.size}: expected at least 1")
        if self.resize != 0 and self.resize < self.size:
            raise ValueError(
                f"resize={self.resize}: expected at least size={self.size}, which is cut out of it"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation={self.interpolation!r} is unknown"
                f"{near(self.interpolation, INTERPOLATIONS)}"
            )

    @classmethod
    def of(cls, data: Dataset, channels: int = 0, size: int = 0) -> "Input":
        """A dataset's own size, mean and std: for an encoder that expects nothing of its own.

        Args:
            data: The dataset.
            channels: Where they are not the dataset's.
            size: Where it is not the dataset's.
        """
        mean = tuple(data.normalize.mean.tolist())
        std = tuple(data.normalize.std.tolist())
        channels = channels or len(mean)
        if channels != len(mean):
            # grey images are repeated; the luma of colour ones has about their mean and std
            mean = (sum(mean) / len(mean),) * channels
            std = (sum(std) / len(std),) * channels
        return cls(size or data.train.size, mean, std, channels)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Input":
        """Read the preprocessing of a JSON file; what it says beside is left alone.

        Raises:
            ValueError: Something is missing, or wrong.
        """
        missing = [name for name in ("size", "mean", "std") if name not in content]
        if missing:
            raise ValueError(
                f"the preprocessing has no {', '.join(missing)}: expected "
                '{"size": 224, "mean": [...], "std": [...], "channels": 3}'
            )
        names = [field.name for field in fields(cls)]
        values = {name: content[name] for name in names if name in content}
        for name in ("mean", "std"):
            values[name] = tuple(float(value) for value in values[name])
        values.setdefault("channels", len(values["mean"]))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As it is written beside a result, and read by `from_dict`."""
        return asdict(self)

    @property
    def normalize(self) -> Normalize:
        """The mean and the standard deviation."""
        return Normalize(torch.tensor(self.mean), torch.tensor(self.std))

    def fit(self, x: Tensor) -> Tensor:
        """Resize images x [N, C, H, W] in 0 .. 1 and cut out the middle: [N, C, size, size]."""
        side = self.resize or self.size
        if x.shape[-2:] != (side, side):
            mode = InterpolationMode(self.interpolation)
            # bicubic overshoots at edges, where images of whole numbers are cut off as well
            x = resize(x, [side, side], mode, antialias=True).clamp_(0, 1)
        return x if side == self.size else center_crop(x, [self.size, self.size])

    def __str__(self) -> str:
        text = f"{self.channels} x {self.size} x {self.size}"
        if self.resize not in (0, self.size):
            text += f", cut out of {self.resize}"
        mean, std = (" ".join(f"{value:.3g}" for value in v) for v in (self.mean, self.std))
        return f"{text}, {self.interpolation}, mean {mean}, std {std}"


def unchanged(data: Dataset) -> Dataset:
    """The dataset with images in 0 .. 1 as they are; `Prepared` does the rest."""
    channels = data.train.channels
    identity = Normalize(torch.zeros(channels), torch.ones(channels))
    return Dataset(data.name, data.train, data.test, normalize=identity, notes=data.notes)


class Prepared(nn.Module):
    """An encoder behind its preprocessing: images in 0 .. 1, of any size, to features.

    In evaluation mode clean images are resized; in training mode it takes views, which have the
    encoder's size already.
    """

    def __init__(self, encoder: Any, expects: Input) -> None:
        """Put the preprocessing before an encoder.

        Args:
            encoder: A module or a function: images [N, C, S, S] -> features [N, D].
            expects: What it expects of the images.
        """
        super().__init__()
        self.encoder = encoder
        self.expects = expects
        normalize = expects.normalize
        self.register_buffer("mean", normalize.mean, persistent=False)
        self.register_buffer("std", normalize.std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] in 0 .. 1 to features [N, D]."""
        if not self.training:
            x = self.expects.fit(x)
        return self.of_views(x)

    def of_views(self, x: Tensor) -> Tensor:
        """Map views [N, C, size, size] in 0 .. 1 to features [N, D]; they are not resized."""
        return features_of(self.encoder, self.standardise(x))

    def standardise(self, x: Tensor) -> Tensor:
        """Images [N, C, S, S] in 0 .. 1 in the encoder's channels, by its mean and std."""
        if x.shape[1] == 1 and self.expects.channels == 3:
            x = x.expand(-1, 3, -1, -1)
        elif x.shape[1] == 3 and self.expects.channels == 1:
            x = rgb_to_grayscale(x)
        mean = self.get_buffer("mean")
        std = self.get_buffer("std")
        return Normalize(mean, std).standardise(x)


def features_of(encoder: Any, x: Tensor) -> Tensor:
    """Run an encoder on x [N, C, S, S], and refuse what are no features [N, D].

    Raises:
        ValueError: It gives something else; the message says what helps.
    """
    output = encoder(x)
    if isinstance(output, Tensor) and output.dim() == 2 and len(output) == len(x):
        return output
    got = str(list(output.shape)) if isinstance(output, Tensor) else type(output).__name__
    remedy = "give a function that returns the features alone, such as "
    if not isinstance(output, Tensor):
        remedy += "lambda x: model(x).last_hidden_state[:, 0]"
    elif output.dim() == 4:
        remedy += (
            "lambda x: model(x).mean((2, 3)) of maps [N, C, H, W], mean((1, 2)) of [N, H, W, C]"
        )
    elif output.dim() == 3:
        remedy += "lambda x: model(x)[:, 0] (one token) or model(x).mean(1)"
    else:
        remedy += "lambda x: model(x).flatten(1)"
    raise ValueError(
        f"the encoder gives {got} for images {list(x.shape)}: expected features "
        f"[{len(x)}, D]; {remedy}"
    )
