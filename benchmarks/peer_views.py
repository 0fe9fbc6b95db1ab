"""SimSiam's augmentation for CIFAR as a peer writes it, and CIFAR-10's mean and std."""

from collections.abc import Callable

import torch
from torch import Tensor

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def kornia_view() -> Callable[[Tensor], Tensor]:
    """A view of a batch, float [N, 3, 32, 32] in 0 .. 1.

    Raises:
        ImportError: kornia is not installed.
    """
    from kornia import augmentation as K

    return K.AugmentationSequential(
        K.RandomResizedCrop((32, 32), scale=(0.2, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
