"""The flags of `simlab evaluate`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from simlab.evaluate import Input, Settings, evaluate


@dataclass(frozen=True)
class InputFlags:
    """What the encoder expects of images, where its source does not say it, or wrongly."""

    size: int = 0
    """Side in pixels; needs --mean and --std as well."""

    mean: str = ""
    """Of each channel, of images in 0 .. 1, with commas: 0.485,0.456,0.406."""

    std: str = ""
    """Of each channel."""

    channels: Literal[0, 1, 3] = 0
    """1 for grey images, 3 for colour ones. 0: as many as --mean has numbers."""

    interpolation: Literal["", "nearest", "bilinear", "bicubic"] = ""
    """How images are resized. Empty: bilinear."""

    resize: int = 0
    """Side to which images are resized before the middle --size pixels are cut out. 0: --size."""

    def read(self) -> Input | None:
        """The flags as an `Input`; None where none is given.

        Raises:
            ValueError: Some are given, but not size, mean and std; or they are wrong.
        """
        if self == InputFlags():
            return None
        if not (self.size and self.mean and self.std):
            raise ValueError(
                f"size={self.size}, mean={self.mean!r}, std={self.std!r}: what an encoder expects "
                "is given by all three of them"
            )
        mean = _numbers("mean", self.mean)
        std = _numbers("std", self.std)
        channels = self.channels or len(mean)
        interpolation = self.interpolation or "bilinear"
        return Input(self.size, mean, std, channels, interpolation, self.resize)


@dataclass(frozen=True)
class EvaluateCommand:
    """Judge any encoder on one dataset or several, beside its untrained twin and raw pixels.

    What is tuned is chosen on a validation split of the training images; the test split is
    evaluated once.
    """

    encoder: Positional[str]
    """torchvision:resnet18 (random weights), torchvision:resnet18:pretrained,
    timm:NAME:pretrained; a run's folder or name; a file or folder of weights."""

    data: Positional[tuple[str, ...]]
    """Datasets' names, or folders of images."""

    protocols: str = "knn,probe"
    """knn, probe, sgd-probe, finetune, with commas; few labels: probe-1%, probe-100,
    finetune-10%."""

    layers: str = ""
    """Names or globs of layers that knn and probe judge as well, with commas."""

    seeds: int = 3
    """Number of seeds: of fresh weights, labelled images and classifiers."""

    baselines: bool = True
    """Measure the untrained twin and raw pixels."""

    input: OmitArgPrefixes[InputFlags] = field(default_factory=InputFlags)

    settings: OmitArgPrefixes[Settings] = field(default_factory=Settings)

    name: str = ""
    """What the table calls the encoder."""

    data_folder: str = ""
    """Where the files of named datasets are."""

    image_size: int = 0
    """Side in pixels at which folders of images are loaded. 0: the median."""

    out: str = ""
    """The folder of the result. Empty: one of its own in the runs folder."""

    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto."""


def run(arguments: list[str]) -> int:
    """Parse the flags, judge, and print the summary."""
    command = tyro.cli(EvaluateCommand, args=arguments, prog="simlab evaluate")
    if not command.data:
        raise ValueError("expected a dataset's name or a folder of images behind the encoder")
    options = {field.name: getattr(command, field.name) for field in dataclasses.fields(command)}
    options["protocols"] = command.protocols.split(",")
    options["layers"] = command.layers.split(",") if command.layers else ()
    options["input"] = command.input.read()
    options["folder"] = options.pop("out")
    result = evaluate(**options)
    print(f"{result}\n\nLook at  {result.folder / 'figure.png'}, table.csv and evaluation.json")
    return 0


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"{name}={text!r}: expected numbers with commas") from None
