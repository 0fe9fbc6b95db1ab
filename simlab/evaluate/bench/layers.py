"""Features of clean images: what an encoder gives, and what its layers give, in one pass."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from simlab.data import Dataset, Images
from simlab.evaluate import Features, features, raw_pixels
from simlab.layers import Axes, select_layers, tapped

from .inputs import Prepared, unchanged

OUTPUT = ""  # the name of what the encoder itself gives, among its layers
WIDEST_PIXELS = 3 * 64**2  # numbers of an image up to which raw pixels are judged as they are
SMALL_SIDE = 32  # pixels of a side otherwise


def layer_names(encoder: object, layers: Sequence[str]) -> list[str]:
    """The names of the chosen layers of an encoder, in its order.

    Raises:
        ValueError: There is no such layer, or the encoder is a function.
    """
    if not layers:
        return []
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"layers={list(layers)}: a function has none; give the module")
    return list(select_layers(encoder, list(layers)))


def clean_features(
    module: Prepared, data: Dataset, layers: Sequence[str] = (), batch_size: int = 256
) -> dict[str, Features]:
    """Compute the features of all clean images of both splits.

    Args:
        module: The encoder behind its preprocessing.
        data: The images.
        layers: Names of layers of the encoder, whose outputs are averaged over their positions.
        batch_size: Images at once.

    Returns:
        The features by layer; `OUTPUT` is what the encoder gives.
    """
    data = unchanged(data)
    train = _of_split(module, data.train, layers, batch_size)
    test = _of_split(module, data.test, layers, batch_size)
    labels = data.train.labels.cpu()
    test_labels = data.test.labels.cpu()
    encoded = {}
    for name in train:
        encoded[name] = Features(train[name], labels, test[name], test_labels, classes=data.classes)
    return encoded


def pixel_features(data: Dataset, batch_size: int = 256) -> tuple[str, Features]:
    """Take the pixels themselves for features, standardised as the dataset is.

    Returns:
        What a table calls them, and the features.
    """
    name = "raw pixels"
    numbers = data.train.channels * data.train.size**2
    encode = raw_pixels
    if numbers > WIDEST_PIXELS:
        name = f"raw pixels ({SMALL_SIDE} x {SMALL_SIDE})"
        encode = _small_pixels
    train = features(encode, data.train, batch_size).cpu()
    test = features(encode, data.test, batch_size).cpu()
    labels = data.train.labels.cpu()
    test_labels = data.test.labels.cpu()
    return name, Features(train, labels, test, test_labels, classes=data.classes)


def _small_pixels(x: Tensor) -> Tensor:
    """Flatten images [N, C, H, W], resized: [N, C * SMALL_SIDE^2]."""
    size = (SMALL_SIDE, SMALL_SIDE)
    small = nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
    return raw_pixels(small)


def _of_split(
    module: Prepared, images: Images, layers: Sequence[str], batch_size: int
) -> dict[str, Tensor]:
    """The features of one split by layer, on the CPU: [N, D] each."""
    batches: dict[str, list[Tensor]] = defaultdict(list)
    if not layers:
        return {OUTPUT: features(module, images, batch_size).cpu()}
    assert images.normalize is not None

    def collect(name: str, layer: nn.Module, output: Tensor | None, axes: Axes) -> None:
        short = name.removeprefix("encoder.")
        if output is None or (output.dim() > 2 and axes.channels is None):
            reason = axes.why or "its axis of channels is not known"
            raise ValueError(f"layer {short!r} can't be judged: {reason}")
        batches[short].append(_averaged(output.float(), axes).cpu())

    names = [f"encoder.{name}" for name in layers]
    with tapped(module, [*names, ""], collect) as forward:
        for _, batch in images.batches(torch.arange(len(images)), batch_size):
            forward(images.normalize(batch))
    return {name: torch.cat(parts) for name, parts in batches.items()}


def _averaged(output: Tensor, axes: Axes) -> Tensor:
    """Average a layer's output [N, ...] over all axes but samples and channels: [N, C]."""
    if output.dim() == 2:
        return output
    others = [axis for axis in range(1, output.dim()) if axis != axes.channels]
    return output.mean(others)
