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


@torch.no_grad()
def features(
    encoder: Encoder,
    images: Images,
    batch_size: int = 512,
    normalize: Callable[[Tensor], Tensor] | None = None,
    only: Tensor | None = None,
) -> Tensor:
    """Compute the encoder's features of every image, in order.

    Args:
        encoder: A module or a function. A module is put into evaluation mode for the time; each of
            its parts gets back its own mode afterwards.
        images: One split of a dataset.
        batch_size: Number of images at once.
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
    with _evaluation_mode(encoder), _taking_grey(encoder, images, normalize):
        batches = []
        for _, batch in images.batches(order, batch_size):
            batches.append(encoder(normalize(batch)).float())  # [n, D]
    return torch.cat(batches)


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
