"""The commands that train: a field of the configuration is a flag."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes

from simlab._checks import near
from simlab.config import RECIPES, PretrainConfig, SupervisedConfig, make_config

RECIPE = f"Start from a published configuration; further flags change it: {', '.join(RECIPES)}."


@dataclass(frozen=True)
class PretrainCommand:
    """Self-supervised pretraining. A stored run is loaded, an interrupted one resumes."""

    config: OmitArgPrefixes[PretrainConfig] = field(default_factory=PretrainConfig)
    recipe: Annotated[str, tyro.conf.arg(help=RECIPE)] = ""
    fresh: bool = False
    """Delete what is stored of this run and start over."""


@dataclass(frozen=True)
class SupervisedCommand:
    """Supervised training of the same encoder: the reference."""

    config: OmitArgPrefixes[SupervisedConfig] = field(default_factory=SupervisedConfig)
    fresh: bool = False
    """Delete what is stored of this run and start over."""


def pretrain(arguments: list[str]) -> int:
    """Parse the flags, those of a recipe below those that were given, and train."""
    command = tyro.cli(PretrainCommand, args=arguments, prog="simlab pretrain")
    if command.recipe and command.recipe not in RECIPES:
        raise ValueError(f"there is no recipe {command.recipe!r}{near(command.recipe, RECIPES)}")
    if command.recipe:
        recipe = make_config(PretrainConfig, **RECIPES[command.recipe])
        default = dataclasses.replace(command, config=recipe)
        command = tyro.cli(PretrainCommand, args=arguments, prog="simlab pretrain", default=default)

    from simlab import train

    return _report(train.pretrain(command.config, fresh=command.fresh))


def supervised(arguments: list[str]) -> int:
    """Parse the flags and train on labels."""
    command = tyro.cli(SupervisedCommand, args=arguments, prog="simlab supervised")

    from simlab import train

    return _report(train.train_supervised(command.config, fresh=command.fresh))


def _report(run: Any) -> int:
    """Print how a run ended, and where to look; in the first process alone."""
    from simlab.compute import distributed

    if distributed.rank() == 0:
        for name, value in run.result["final"].items():
            print(f"{name:<16} {value}")
        print(f"\nLook at  {run.folder}")
    return 0
