"""What an encoder expects of images, and how any images are made so.

Images are read as a folder's are when they are loaded, with the choices that were made for the
images that were trained on; then they are normalised by those images' mean and standard deviation.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from simlab.augment import Normalize
from simlab.data import Dataset, Images, StreamedImages
from simlab.data.arrays import as_images
from simlab.data.files import ImageFiles
from simlab.data.image_checks import UNLABELLED
from simlab.data.listing import image_paths
from simlab.data.pixels import Fit, Range, image_tensor

BLOCK = 256  # images that are made ready at once
MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder expects of images.

    Attributes:
        mean: Of each channel, of images in 0 .. 1.
        std: Of each channel.
        size: Side in pixels.
        channels: 1 for grey images, 3 for colour ones.
        interpolation: How images of another size are resized, with antialiasing.
        fit: How images are made square: "cut" to the middle, or "squeeze" all of them.
        value_range: The values that become 0 and 255, of images of more than 8 bits.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    channels: int
    interpolation: str = "bilinear"
    fit: Fit = "cut"
    value_range: Range | None = None

    @classmethod
    def of(cls, data: Dataset) -> "Preprocessing":
        """What an encoder expects that was trained on a dataset."""
        mean = tuple(data.normalize.mean.tolist())
        std = tuple(data.normalize.std.tolist())
        return cls(
            mean,
            std,
            data.train.size,
            data.train.channels,
            fit=data.fit,
            value_range=data.value_range,
        )

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Preprocessing":
        """Read what `to_dict` gave; what another simlab knows beside is left out."""
        values = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        for name in ("mean", "std", "value_range"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As it is written into a run's encoder.json."""
        return asdict(self)

    @property
    def normalize(self) -> Normalize:
        """What makes an encoder's input of uint8 images."""
        return Normalize(torch.tensor(self.mean), torch.tensor(self.std))

    def split(self, images: Any) -> Images:
        """Make one split of any images; files stay on the disk until they are needed.

        Args:
            images: A split of a dataset; uint8 images [N, C, H, W], [N, H, W, C] or [N, H, W];
                a PIL image; the path of an image or of a folder of them; or a list of these.

        Returns:
            Images of the size and the channels that the encoder expects, with its normalisation.

        Raises:
            TypeError: They are something else.
            FileNotFoundError: There is no such file, or no image in the folder.
        """
        if isinstance(images, Images):
            split = self._fitted(images)
        elif isinstance(images, str | Path | Image.Image):
            split = self._of_list([images])
        elif isinstance(images, list | tuple):
            split = self._of_list(list(images))
        elif isinstance(images, Tensor | np.ndarray):
            x = as_images(images)
            split = self._fitted(Images(x, unlabelled(len(x))))
        else:
            raise TypeError(
                f"images are a {type(images).__name__}: expected uint8 images [N, C, H, W], PIL "
                "images, paths, or a split of a dataset"
            )
        return split.with_normalize(self.normalize.to(split.device))

    def _of_list(self, items: list[Any]) -> Images:
        if not items:
            raise ValueError("there are no images")
        if all(isinstance(item, str | Path) for item in items):
            paths = [path for item in items for path in files_of(Path(item).expanduser())]
            mode = MODES[self.channels]
            files = ImageFiles(tuple(paths), self.size, mode, self.fit, self.value_range)
            return StreamedImages(files, unlabelled(len(paths)), ())
        if all(isinstance(item, Image.Image) for item in items):
            x = torch.stack([self._fit(item) for item in items])
            return Images(x, unlabelled(len(x)))
        raise TypeError("expected a list of paths or of PIL images")

    def _fitted(self, images: Images) -> Images:
        """A split's images in the size and the channels of the encoder."""
        if (images.channels, images.size) == (self.channels, self.size):
            return images
        blocks = [self._fit(image) for image in _pil_images(images)]
        return Images(torch.stack(blocks), images.labels.cpu(), images.classes)

    def _fit(self, image: Image.Image) -> Tensor:
        """One image as uint8 [C, size, size], as a file of it would be read."""
        return image_tensor(image, self.size, MODES[self.channels], self.fit, self.value_range)


def files_of(path: Path) -> list[Path]:
    """List an image file itself, or the images below a folder in the order of their names.

    Raises:
        FileNotFoundError: There is no such file, or no image in the folder.
    """
    if path.is_dir():
        return image_paths(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no image or folder {path}")
    return [path]


def unlabelled(number: int) -> Tensor:
    """Return the labels int64 [N] of images that have none."""
    return torch.full((number,), UNLABELLED)


def _pil_images(images: Images) -> Iterator[Image.Image]:
    for _, batch in images.batches(torch.arange(len(images)), BLOCK):
        for pixels in batch.cpu().permute(0, 2, 3, 1).numpy():  # [N, C, H, W] -> [N, H, W, C]
            yield Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
