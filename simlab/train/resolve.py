"""The choices that a configuration leaves open, made from the data and the device."""

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from simlab.compute import distributed, resolve_device, resolve_precision
from simlab.config import Config, PretrainConfig, SupervisedConfig, TrainConfig
from simlab.data import Dataset
from simlab.evaluate import stratified
from simlab.methods import format_method, parse_method
from simlab.methods.base import Method, TrainingData
from simlab.methods.supervised import Supervised
from simlab.models import SMALL_IMAGE, TINY_IMAGE

from .initial import with_initial_encoder


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
            on; or the run of config.init does not fit.
    """
    config = with_initial_encoder(config, encoder)
    if config.channels not in (0, data.train.channels):
        raise ValueError(
            f"channels={config.channels}, but the images given have {data.train.channels}: "
            f"load_data(..., channels={config.channels}) makes them so"
        )
    size = data.train.size
    images = number_of_images(config, data)
    changes: dict[str, Any] = {
        "data": data.name,
        "image_size": size,
        "fit": data.fit,
        "augment": _augmentation(config.augment, data),
        "precision": resolve_precision(config.precision, resolve_device(config.device)),
        "batch_size": fitting_batch_size(config, images, distributed.world()),
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
            images=number_of_images(config, data),
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


def labelled_images(config: SupervisedConfig, data: Dataset) -> Tensor:
    """Draw the labelled training images of a configuration: their indices [L].

    Raises:
        ValueError: There are not two classes with labelled images, or config.labels does not fit.
    """
    labels = data.train.labels
    classes = labels[labels >= 0].unique()
    if len(classes) < 2:
        raise ValueError(
            f"{data.name}: expected labelled training images of at least two classes; "
            f"{int((labels >= 0).sum())} of {len(labels)} images have a label, of {len(classes)} "
            "classes"
        )
    generator = torch.Generator().manual_seed(config.seed)
    return stratified(labels, config.labels, generator)


def number_of_images(config: TrainConfig, data: Dataset) -> int:
    """How many images are trained on."""
    if isinstance(config, SupervisedConfig):
        number = len(labelled_images(config, data))
    else:
        number = len(data.pretrain)
    for images, purpose in ((number, "train"), (len(data.test), "test")):
        if images < 2:
            raise ValueError(f"there is only {images} image to {purpose} on: expected at least 2")
    return number


def fitting_batch_size(config: TrainConfig, images: int, processes: int) -> int:
    """Cut the batch to the images, and then to what processes and `accumulate` divide; said.

    Raises:
        ValueError: There are too few images for that many parts.
    """
    if config.batch_size <= images:
        return config.batch_size
    parts = config.accumulate * processes
    fitting = images // parts * parts
    if fitting < 2 * parts:
        raise ValueError(
            f"there are only {images} images to train on: too few for {config.accumulate} "
            f"(accumulate) x {processes} (processes) parts of at least two images"
        )
    if distributed.rank() == 0:
        in_parts = f", in {parts} equal parts" if parts > 1 else ""
        warnings.warn(
            f"batch_size={config.batch_size} is more than the {images} images to train on: "
            f"taking {fitting}{in_parts}",
            stacklevel=2,
        )
    return fitting


def check_batch_size(config: TrainConfig) -> None:
    """Refuse a batch that cannot be cut into equal parts for every process.

    Raises:
        ValueError: It cannot.
    """
    batch_size = config.batch_size
    parts = config.accumulate
    world = distributed.world()
    if batch_size % (parts * world) or batch_size == parts:
        raise ValueError(
            f"batch_size={batch_size} can't be cut into {parts} (accumulate) x {world} "
            "(processes) equal parts; one of `accumulate` parts needs at least two images"
        )
