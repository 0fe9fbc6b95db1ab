"""The commands that train: a field of the configuration is a flag."""

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes

from simlab._checks import near
from simlab.config import RECIPES, PretrainConfig, SupervisedConfig, make_config

RECIPE = f"Start from a published configuration; further flags change it: {', '.join(RECIPES)}."
FILE = "Start from a file: a stored run's config.json, or fields and values; flags change it."
CALLBACK = "What looks on, such as a logger: tensorboard or module:Class, commas between several."
CONTINUE = "A stored run to go on from, of another simlab or (constant and step) of fewer epochs."


@dataclass(frozen=True)
class PretrainCommand:
    """Self-supervised pretraining. A stored run is loaded, an interrupted one resumes."""

    config: OmitArgPrefixes[PretrainConfig] = field(default_factory=PretrainConfig)
    recipe: Annotated[str, tyro.conf.arg(help=RECIPE)] = ""
    file: Annotated[str, tyro.conf.arg(name="config", help=FILE)] = ""
    fresh: bool = False
    """Delete what is stored of this run and start over."""
    reuse: Annotated[str, tyro.conf.arg(name="continue", help=CONTINUE)] = ""
    callback: Annotated[str, tyro.conf.arg(help=CALLBACK)] = ""
    tensorboard: bool = False
    """Write event files into tensorboard/ in the run's folder."""


@dataclass(frozen=True)
class SupervisedCommand:
    """Supervised training of the same encoder: the reference."""

    config: OmitArgPrefixes[SupervisedConfig] = field(default_factory=SupervisedConfig)
    file: Annotated[str, tyro.conf.arg(name="config", help=FILE)] = ""
    fresh: bool = False
    """Delete what is stored of this run and start over."""
    reuse: Annotated[str, tyro.conf.arg(name="continue", help=CONTINUE)] = ""
    callback: Annotated[str, tyro.conf.arg(help=CALLBACK)] = ""
    tensorboard: bool = False
    """Write event files into tensorboard/ in the run's folder."""


Command = TypeVar("Command", PretrainCommand, SupervisedCommand)


def pretrain(arguments: list[str]) -> int:
    """Parse the flags, those of a recipe or a file below those that were given, and train."""
    command = _parse(PretrainCommand, arguments, "simlab pretrain")

    from simlab import train

    run = train.pretrain(
        command.config,
        fresh=command.fresh,
        reuse=command.reuse,
        callbacks=callback_names(command.callback, command.tensorboard),
    )
    return _report("pretrain", run)


def supervised(arguments: list[str]) -> int:
    """Parse the flags and train on labels."""
    command = _parse(SupervisedCommand, arguments, "simlab supervised")

    from simlab import train

    run = train.train_supervised(
        command.config,
        fresh=command.fresh,
        reuse=command.reuse,
        callbacks=callback_names(command.callback, command.tensorboard),
    )
    return _report("supervised", run)


def callback_names(words: str, tensorboard: bool) -> list[str]:
    """Return the names in --callback, and what --tensorboard stands for."""
    names = words.split(",") if words else []
    return [*names, "tensorboard"] if tensorboard else names


def _parse(cls: type[Command], arguments: list[str], prog: str) -> Command:
    """Parse the flags; where they name a configuration to start from, parse them on top of it."""
    command = tyro.cli(cls, args=arguments, prog=prog)
    start = _start_of(command)
    if start is None:
        return command
    default = dataclasses.replace(command, config=start)
    return tyro.cli(cls, args=arguments, prog=prog, default=default)


def _start_of(command: PretrainCommand | SupervisedCommand) -> Any:
    """Return the configuration of the recipe or the file that was named; None if there is none."""
    recipe = command.recipe if isinstance(command, PretrainCommand) else ""
    if recipe and command.file:
        raise ValueError(f"--recipe {recipe} and --config {command.file}: give one of them")
    if recipe and recipe not in RECIPES:
        raise ValueError(f"there is no recipe {recipe!r}{near(recipe, RECIPES)}")
    if recipe:
        return make_config(PretrainConfig, **RECIPES[recipe])
    if not command.file:
        return None

    from simlab.runs import read_config  # it loads torch, which help shall not wait for

    return read_config(type(command.config), command.file)


def _report(command: str, run: Any) -> int:
    """Print how a run ended, and where to look; in the first process alone.

    As a point of a sweep it leaves the last row of its history in the point's folder.
    """
    from simlab.compute import distributed
    from simlab.runs import save_metrics

    if distributed.rank() == 0:
        for name, value in run.result["final"].items():
            print(f"{name:<16} {value}")
        print(f"\nLook at  {run.folder}")
        if os.environ.get("SIMLAB_OUT"):
            save_metrics(command, run.result["final"] | {"run": run.folder.name})
    return 0
