"""The choices that a configuration leaves open, made from the data and the device."""

import dataclasses
from typing import Any

from torch import nn

from simlab.compute import resolve_device, resolve_precision
from simlab.config import Config, PretrainConfig, SupervisedConfig, TrainConfig
from simlab.data import Dataset
from simlab.methods import format_method, parse_method
from simlab.methods.base import Method, TrainingData
from simlab.methods.supervised import Supervised
from simlab.models import SMALL_IMAGE, TINY_IMAGE


def resolve(
    config: Config,
    data: Dataset,
    encoder: nn.Module | None = None,
    method: Method | None = None,
) -> Config:
    """Replace every "auto" and 0 of a configuration by the choice made for this data.

    Args:
        config: The configuration.
        data: The dataset.
        encoder: A module that takes the place of config.encoder.
        method: A method that takes the place of config.method.

    Returns:
        The configuration with nothing left open, and the names of what took a place.

    Raises:
        ValueError: A name or an option is wrong, or there are too few images to train and measure
            on.
    """
    size = data.train.size
    changes: dict[str, Any] = {
        "data": data.name,
        "image_size": size,
        "augment": _augmentation(config.augment, data),
        "precision": resolve_precision(config.precision, resolve_device(config.device)),
        "batch_size": min(config.batch_size, _number_of_images(config, data)),
    }
    if encoder is not None:
        changes["encoder"] = type(encoder).__name__
    elif config.encoder == "auto":
        changes["encoder"] = "tiny" if size <= TINY_IMAGE else "resnet18"
    if config.stem == "auto":
        changes["stem"] = "small" if size <= SMALL_IMAGE else "large"
    if config.view_size == 0:
        # a crop shows things larger than the whole image does; smaller views undo that (Touvron et
        # al., arXiv 1906.06423) and cost half. A module of the user's may take one size alone
        changes["view_size"] = max(size * 3 // 4, 1) if encoder is None else size
    resolved = dataclasses.replace(config, **changes)
    if isinstance(resolved, PretrainConfig):
        text = format_method(resolve_method(resolved, data, method))
        resolved = dataclasses.replace(resolved, method=text)
    return resolved


def resolve_method(config: TrainConfig, data: Dataset, method: Method | None = None) -> Method:
    """The method of a configuration, with every option that is left open chosen for this data.

    Args:
        config: Of pretraining, or of supervised training; all but its method resolved.
        data: The dataset.
        method: What takes the place of config.method.

    Raises:
        ValueError: config.method has a wrong name or option, or cannot work with this data.
    """
    if method is None and isinstance(config, PretrainConfig):
        method = parse_method(config.method)
    elif method is None:
        method = Supervised()
    return method.resolve(
        TrainingData(
            images=_number_of_images(config, data),
            part_size=config.batch_size // config.accumulate,
            channels=data.train.channels,
            image_size=data.train.size,
            view_size=config.view_size,
            num_classes=len(data.classes),
        )
    )


def _augmentation(text: str, data: Dataset) -> str:
    """Replace "auto" by the recipe for this data; changes behind it stay."""
    name, _, changes = text.strip().partition(" ")
    if name != "auto":
        return text
    if data.train.channels != 3:
        recipe = "scattered-light"
    elif data.train.size <= TINY_IMAGE:
        recipe = "simsiam-cifar"
    else:
        recipe = "simsiam-imagenet"
    return f"{recipe} {changes}".strip()


def _number_of_images(config: TrainConfig, data: Dataset) -> int:
    """How many images are trained on."""
    if isinstance(config, SupervisedConfig):
        number = config.labels or len(data.train)
    else:
        number = len(data.pretrain)
    for images, purpose in ((number, "train"), (len(data.test), "test")):
        if images < 2:
            raise ValueError(f"there is only {images} image to {purpose} on: expected at least 2")
    return number
