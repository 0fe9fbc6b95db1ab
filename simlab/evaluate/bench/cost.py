"""How long an evaluation will take: the encoder is timed on a few images, the rest is counted.

What solvers and votes take on top is a rough number, measured on one slow core.
"""

import time
from collections.abc import Sequence

import torch

from simlab.data import Dataset

from .inputs import Prepared, unchanged
from .protocols import Protocol
from .settings import FINETUNING_RATES, HELD_OUT, Settings

TIMED_IMAGES = 32
BACKWARD = 3.0  # a training step's cost, in forward passes
PROBE_SECONDS = 1e-6  # of one probe with its choices: for a row, a feature and a class
KNN_SECONDS = 1e-10  # of one vote with its choices: for a pair of images and a feature


def seconds_per_image(module: Prepared, data: Dataset) -> float:
    """Time a forward pass of a few images, after one that does not count."""
    number = min(TIMED_IMAGES, len(data.train))
    images = unchanged(data).train.subset(torch.arange(number)).images
    x = images.to(torch.float32) / 255
    with torch.no_grad():
        module(x[:2])
        start = time.perf_counter()
        float(module(x).sum())  # which waits for the device
    return (time.perf_counter() - start) / number


def seconds_of(
    protocols: Sequence[Protocol],
    data: Dataset,
    per_image: float,
    width: int,
    encoders: int,
    repeats: int,
    settings: Settings,
) -> float:
    """Estimate the seconds of all protocols on one dataset.

    Args:
        protocols: What is measured.
        data: The images.
        per_image: Seconds of the encoder for one image.
        width: Numbers of its features, of all layers together.
        encoders: How many encoders are run: the trained one, and the untrained ones.
        repeats: How many of encoders and seeds are measured by a protocol that draws.
        settings: Epochs.
    """
    train, test = len(data.train), len(data.test)
    total = encoders * (train + test) * per_image
    for protocol in protocols:
        times = repeats if protocol.draws else encoders
        number = len(protocol.labelled(data, 0))
        if protocol.kind == "knn":
            pairs = number * (test + HELD_OUT * number)
            total += times * pairs * width * KNN_SECONDS
        elif protocol.kind == "probe":
            total += times * number * width * len(data.classes) * PROBE_SECONDS
        elif protocol.kind == "sgd-probe":
            total += times * settings.probe_epochs * train * per_image
        else:
            epochs = settings.epochs_of(number / train)
            trials = len(FINETUNING_RATES) * (1 - HELD_OUT)
            trainings = times + 2 * trials  # the encoder and its untrained twin choose once each
            total += trainings * epochs * number * BACKWARD * per_image + times * test * per_image
    return total


def duration(seconds: float) -> str:
    """Say it as a person would: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
