"""The choices that a configuration leaves open, made from the data and the device."""

import dataclasses

from torch import nn

from simlab.compute.devices import resolve_device, resolve_precision
from simlab.config import Config, SupervisedConfig
from simlab.data.images import Dataset
from simlab.models.encoders import SMALL_IMAGE


def resolve(config: Config, data: Dataset, encoder: nn.Module | None = None) -> Config:
    """The configuration with every "auto" and 0 replaced by the choice made for this data.

    `encoder` is a module that takes the place of the one named. Raises ValueError where there are
    too few images to train and measure on.
    """
    size, colour = data.train.size, data.train.channels == 3
    images = data.train if isinstance(config, SupervisedConfig) else data.pretrain
    number = getattr(config, "labels", 0) or len(images)
    for n, what in ((number, "train"), (len(data.test), "test")):
        if n < 2:
            raise ValueError(f"there is only {n} image to {what} on: expected at least 2")
    small, tiny, augment = size <= SMALL_IMAGE, size <= 40, config.augment
    if augment.split()[:1] == ["auto"]:
        of_colour = "simsiam-cifar" if tiny else "simsiam-imagenet"
        augment = augment.replace("auto", of_colour if colour else "scattered-light", 1)
    open_choices = {
        "encoder": "tiny" if tiny else "resnet18",
        "stem": "small" if small else "large",
        "proj_layers": 2 if small else 3,
        # a crop shows things larger than the whole image does; smaller views undo that (Touvron et
        # al., arXiv 1906.06423) and cost half. A module of the user's may take one size alone
        "view_size": max(size * 3 // 4, 1) if encoder is None else size,
    }
    changes = {k: v for k, v in open_choices.items() if getattr(config, k, None) in ("auto", 0)}
    if encoder is not None:
        changes["encoder"] = type(encoder).__name__
    return dataclasses.replace(
        config,
        data=data.name,
        image_size=size,
        augment=augment,
        precision=resolve_precision(config.precision, resolve_device(config.device)),
        batch_size=min(config.batch_size, number),
        **changes,
    )
