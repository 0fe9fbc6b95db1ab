"""A small encoder and small images for it."""

import numpy as np
import torch
import torch.nn as nn

from simlab.data import from_arrays
from simlab.evaluate import Input, Settings

COLOUR = Input(12, (0.3, 0.4, 0.5), (0.2, 0.2, 0.2))
QUICK = Settings(probe_epochs=2, finetune_epochs=2, finetune_batch_size=16)


def small_data(channels=1, size=12, seed=0, name="arrays"):
    """60 training and 20 test images of two classes, which differ in the upper half."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 120, (80, channels, size, size), np.uint8)
    labels = np.arange(80) % 2
    images[labels == 1, :, : size // 2] += 8
    data = from_arrays(images[:60], labels[:60], images[60:], labels[60:])
    data.name = name
    return data


def small_net(channels=3, seed=7):  # no seed of an untrained twin
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
