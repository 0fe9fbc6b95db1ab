"""Features of a frozen encoder, and what every protocol needs of them.

Evaluation sees clean images (not augmented), all of them, with BatchNorm frozen: it normalises by
its running statistics from training.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from simlab.data import Images
from simlab.models import repeats_grey

Encoder = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> features [N, D]

MOST_IMAGES = 512  # at once,
SMALL_SIZE = 48  # of up to so many pixels a side;
MOST_PIXELS = 2**19  # in a batch of larger ones, counted in each channel


@torch.no_grad()
def features(
    encoder: Encoder,
    images: Images,
    batch_size: int = 0,
    normalize: Callable[[Tensor], Tensor] | None = None,
    only: Tensor | None = None,
) -> Tensor:
    """Compute the encoder's features of every image, in order.

    Args:
        encoder: A module or a function. A module is put into evaluation mode for the time; each of
            its parts gets back its own mode afterwards.
        images: One split of a dataset.
        batch_size: Number of images at once; 0: that of `images_at_once`.
        normalize: What makes the encoder's input of uint8 images; None: the images' normalisation.
        only: Indices [M] of some of the images, instead of all.

    Returns:
        float32 [N, D], or [M, D].

    Raises:
        ValueError: There is neither a normalisation of the images' own nor `normalize`.
    """
    normalize = normalize or images.normalize
    if normalize is None:
        raise ValueError(
            "images without a normalisation: take a Dataset's split, or give normalize="
        )
    order = torch.arange(len(images)) if only is None else only
    batch_size = batch_size or images_at_once(images.size)
    with _evaluation_mode(encoder), _taking_grey(encoder, images, normalize):
        batches = []
        for _, batch in images.batches(order, batch_size):
            batches.append(encoder(normalize(batch)).float())  # [n, D]
    return torch.cat(batches)


def images_at_once(size: int) -> int:
    """Number of images of this side, in pixels, that an encoder gets at once.

    512 up to 48 pixels; of larger ones as many as have half a million pixels: a ResNet-18 needs
    then some 400 MB for what its first layers compute, and not gigabytes.
    """
    if size <= SMALL_SIZE:
        return MOST_IMAGES
    return max(1, MOST_PIXELS // size**2)


@contextlib.contextmanager
def _evaluation_mode(encoder: Encoder) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into its own mode."""
    modules = list(encoder.modules()) if isinstance(encoder, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextlib.contextmanager
def _taking_grey(
    encoder: Encoder, images: Images, normalize: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Let a network of colour images take grey ones for the time."""
    handle = None
    if images.channels == 1 and isinstance(encoder, nn.Module):
        first = images.subset(torch.zeros(1, dtype=torch.long)).images
        handle = repeats_grey(encoder, normalize(first))
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def raw_pixels(x: Tensor) -> Tensor:
    """Flatten images [N, C, H, W] to [N, C * H * W]: the simplest encoder."""
    return x.flatten(1)


def refuse_diverged(*features: Tensor) -> None:
    """Raise FloatingPointError where a feature is NaN or infinite."""
    for tensor in features:
        extremes = torch.stack(tensor.aminmax())  # NaN anywhere shows in both
        if not bool(extremes.isfinite().all()):
            raise FloatingPointError(
                "features contain NaN or infinity: the encoder's training has diverged"
            )
