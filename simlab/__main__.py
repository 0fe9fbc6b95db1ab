"""The command line: `simlab COMMAND ...`, or `python -m simlab COMMAND ...`.

    simlab pretrain --epochs 50 --seed 1        a field of PretrainConfig is a flag of this command
    simlab pretrain --recipe cifar-paper        a published configuration; flags change it
    simlab supervised --labels 1000             the same for SupervisedConfig
    simlab knn RUN                              kNN accuracy of a run, by its folder or name
    simlab probe RUN --labels 1000              linear probe of its frozen encoder
    simlab compare RUN RUN                      how alike the layers of two runs are
    simlab sweep NOTEBOOK.ipynb seed=0:3 --out DIR
    simlab data cifar10 --download              fetch a data set and say what is in it
    simlab doctor                               versions, devices, and what is missing
"""

import argparse
import sys
from dataclasses import dataclass

import tyro

from .names import near

COMMANDS = (
    "pretrain", "supervised", "probe", "knn", "compare", "sweep", "data", "doctor"
)  # fmt: skip


@dataclass(frozen=True)
class DataArguments:
    """Load a data set, fetching it if asked, and say what is in it."""

    name: tyro.conf.Positional[str] = "fashion-scattered"  # a data set's name, or a folder's path
    folder: str = ""  # where its files are, or go
    download: bool = False  # fetch what is missing
    image_size: int = 0  # side in pixels for a folder's pictures


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    if command in ("-h", "--help"):
        print(__doc__)
        return 0
    if command not in COMMANDS:
        print(f"simlab has no command {command!r}{near(command, COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return {
            "pretrain": _train, "supervised": _train, "sweep": _sweep, "data": _data,
            "probe": _ask, "knn": _ask, "compare": _ask, "doctor": _doctor,
        }[command](command, rest)  # fmt: skip
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"simlab {command}: {error}", file=sys.stderr)
        return 1


# Each command imports what it needs: `simlab --help` shall not wait for torch.


def _train(command: str, arguments: list[str]) -> int:
    from . import distributed, train
    from .config import RECIPES, PretrainConfig, SupervisedConfig, make_config

    kind = PretrainConfig if command == "pretrain" else SupervisedConfig
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--recipe", default="")
    own, rest = parser.parse_known_args(arguments)
    if own.recipe and (own.recipe not in RECIPES or kind is not PretrainConfig):
        raise ValueError(f"{command} has no recipe {own.recipe!r}{near(own.recipe, RECIPES)}")
    about = f"{kind.__doc__}\n\n--fresh forgets what is stored of this run and starts anew."
    if kind is PretrainConfig:
        about += f" --recipe NAME starts from a published configuration: {', '.join(RECIPES)}."
    config = tyro.cli(
        kind, args=rest, prog=f"simlab {command}", description=about,
        default=make_config(kind, **RECIPES.get(own.recipe, {})),
    )  # fmt: skip
    entry = train.pretrain if command == "pretrain" else train.train_supervised
    run = entry(config, fresh=own.fresh)
    if distributed.rank() > 0:
        return 0
    for name, value in run.result["final"].items():
        print(f"{name:<16} {value}")
    print(f"\nLook at  {run.folder}")
    return 0


def _ask(command: str, arguments: list[str]) -> int:
    from . import commands as c

    kind, ask = {"probe": (c.ProbeArguments, c.run_probe), "knn": (c.KnnArguments, c.run_knn),
                 "compare": (c.CompareArguments, c.run_compare)}[command]  # fmt: skip
    ask(tyro.cli(kind, args=arguments, prog=f"simlab {command}", description=kind.__doc__))
    return 0


def _doctor(command: str, arguments: list[str]) -> int:
    from .commands import run_doctor

    run_doctor()
    return 0


def _data(command: str, arguments: list[str]) -> int:
    from .data import load_data

    a = tyro.cli(DataArguments, args=arguments, prog="simlab data")
    data = load_data(a.name, a.folder, a.download, a.image_size)
    parts = {"training": data.train, "test": data.test, "unlabeled": data.unlabeled}
    for name, part in parts.items():
        if part is not None:
            print(f"{name:<10} {len(part):>7} pictures, {part.channels} x {part.size} x {part.size}")
    print(f"classes    {', '.join(data.classes) or 'none'}")
    return 0


def _sweep(command: str, arguments: list[str]) -> int:
    from . import sweep

    return sweep.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
