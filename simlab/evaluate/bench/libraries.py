"""Architectures and weights of torchvision and timm, without their classifiers.

Without weights nothing touches the network. With them, what they expect of images is read from the
library: torchvision's `weights.transforms()`, timm's `pretrained_cfg`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from simlab._checks import near

from .inputs import Input

PRETRAINED = "pretrained"  # the library's default weights
CLASSES = 1000  # of ImageNet, and of the classifier that these models are built with


@dataclass
class Library:
    """An architecture of a library.

    Attributes:
        build: Builds it with random weights, without its classifier.
        expects: What its published weights expect of images.
        trained: It with its weights; None where none are asked for.
        weights: Their name.
        version: The library and its version.
        head: The name of the classifier that was taken off.
    """

    build: Callable[[], nn.Module]
    expects: Input
    trained: nn.Module | None
    weights: str
    version: str
    head: str


# ------------------------------------------------------------------------------------- torchvision


def torchvision_library(name: str, weights: str = "") -> Library:
    """Find a classification model of torchvision.

    Args:
        name: As `torchvision.models.get_model` knows it.
        weights: Empty: random ones; "pretrained": the default ones; or their name.

    Raises:
        ValueError: The name is unknown, or that of the weights.
        ConnectionError: The weights are not there and can't be fetched.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ValueError(f"torchvision has no classification model {name!r}{near(name, names)}")
    choices = torchvision.models.get_model_weights(name)
    by_name = {entry.name: entry for entry in choices}
    chosen = choices["DEFAULT"]
    if weights not in ("", PRETRAINED, "DEFAULT"):
        if weights not in by_name:
            raise ValueError(
                f"{name} has no weights {weights!r}{near(weights, [*by_name, PRETRAINED])}"
            )
        chosen = by_name[weights]

    def build(entry: Any = None) -> nn.Module:
        model: nn.Module = torchvision.models.get_model(name, weights=entry)
        return without_head(model, head)

    head = head_of(torchvision.models.get_model(name, weights=None), name)
    return Library(
        build=build,
        expects=_input_of_transforms(chosen.transforms()),
        trained=_fetched(lambda: build(chosen), name, chosen) if weights else None,
        weights=chosen.name if weights else "",
        version=f"torchvision {torchvision.__version__}",
        head=head,
    )


def _input_of_transforms(transforms: Any) -> Input:
    """Read torchvision's preset for classification."""
    return Input(
        size=transforms.crop_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        resize=max(transforms.resize_size[0], transforms.crop_size[0]),
    )


def _fetched(build: Callable[[], nn.Module], name: str, weights: Any) -> nn.Module:
    """Build a model with its weights, or say where their file belongs."""
    try:
        return build().eval()
    except OSError as error:  # URLError is one
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        file = Path(weights.url).name
        raise ConnectionError(
            f"the weights {weights.name} of {name} are not in {folder}, and {weights.url} can't be "
            f"reached ({error}). Fetch {file} where there is a network and put it there; random "
            f"weights are torchvision:{name}"
        ) from error


def head_of(model: nn.Module, name: str) -> str:
    """The name of a model's classifier: its last linear layer with an output for each class.

    Raises:
        ValueError: It ends in another kind of layer.
    """
    heads: list[str] = []
    for path, layer in model.named_modules():
        is_auxiliary = "aux" in path.lower()
        if isinstance(layer, nn.Linear) and layer.out_features == CLASSES and not is_auxiliary:
            heads.append(str(path))
    if not heads:
        raise ValueError(
            f"{name} does not end in a linear classifier: build it in Python without its "
            "classifier, and give the module"
        )
    return heads[-1]


def without_head(model: nn.Module, head: str) -> nn.Module:
    """Put an identity in the place of the classifier."""
    parent, _, name = head.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Identity())
    return model


# -------------------------------------------------------------------------------------------- timm


def timm_library(name: str, weights: str = "") -> Library:
    """Find a model of timm.

    Args:
        name: As `timm.create_model` knows it, with or without a tag.
        weights: Empty: random ones; "pretrained": the default ones; or their tag.

    Raises:
        ImportError: timm is not installed.
        ValueError: The name is unknown.
        ConnectionError: The weights are not there and can't be fetched.
    """
    timm = _timm()
    architecture = name.partition(".")[0]
    if architecture not in timm.list_models():
        raise ValueError(f"timm has no model {architecture!r}{near(name, timm.list_models())}")
    tagged = name if weights in ("", PRETRAINED) else f"{architecture}.{weights}"

    def build(pretrained: bool = False) -> nn.Module:
        try:
            model: nn.Module = timm.create_model(tagged, pretrained=pretrained, num_classes=0)
        except RuntimeError as error:
            if pretrained or "tag" not in str(error).lower():
                raise
            tags = timm.list_pretrained(f"{architecture}.*")
            raise ValueError(f"timm has no weights {tagged!r}{near(tagged, tags)}") from error
        return model

    model = build()
    config: Any = model.pretrained_cfg
    return Library(
        build=build,
        expects=_input_of_timm(timm.data.resolve_data_config({}, model=model)),
        trained=_fetched_by_timm(lambda: build(True), tagged) if weights else None,
        weights=f"{architecture}.{config.get('tag') or 'default'}" if weights else "",
        version=f"timm {timm.__version__}",
        head=str(config.get("classifier") or ""),
    )


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ImportError("timm: needs the package timm, pip install timm") from error


def _input_of_timm(config: dict[str, Any]) -> Input:
    """Read timm's resolved data configuration."""
    channels, size, _ = config["input_size"]
    fraction = config["crop_pct"]
    return Input(
        size=size,
        mean=tuple(config["mean"])[:channels],
        std=tuple(config["std"])[:channels],
        channels=channels,
        interpolation=config["interpolation"],
        resize=int(size / fraction),
    )


def _fetched_by_timm(build: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        return build().eval()
    except Exception as error:  # of many kinds: timm's, the hub's, the network's
        reason = str(error).strip().partition("\n")[0]
        raise ConnectionError(
            f"the weights of {name} can't be loaded ({type(error).__name__}: {reason}). Fetch "
            "them where there is a network, into the cache of Hugging Face (HF_HOME), or save a "
            f"state dict and give the file; random weights: timm:{name.partition('.')[0]}"
        ) from error
