"""The command line: `simlab COMMAND ...`, or `python -m simlab COMMAND ...`.

    simlab pretrain --epochs 50 --seed 1        a field of PretrainConfig is a flag of this command
    simlab supervised --labels 1000             the same for SupervisedConfig
    simlab sweep NOTEBOOK.ipynb seed=0:3 --out DIR
    simlab data cifar10 --download              fetch a data set and say what is in it
    simlab book                                 the course's notebooks, as `make run` does
"""

import sys
from dataclasses import dataclass

import tyro

from .names import near

COMMANDS = ("pretrain", "supervised", "sweep", "data", "book")


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
            "pretrain": _train, "supervised": _train, "sweep": _sweep, "data": _data, "book": _book
        }[command](command, rest)  # fmt: skip
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"simlab {command}: {error}", file=sys.stderr)
        return 1


# Each command imports what it needs: `simlab --help` shall not wait for torch.


def _train(command: str, arguments: list[str]) -> int:
    from . import train
    from .config import PretrainConfig, SupervisedConfig

    kind = PretrainConfig if command == "pretrain" else SupervisedConfig
    config = tyro.cli(kind, args=arguments, prog=f"simlab {command}", description=kind.__doc__)
    run = (train.pretrain if command == "pretrain" else train.train_supervised)(config)
    for name, value in run.result["final"].items():
        print(f"{name:<16} {value}")
    print(f"\nLook at  {run.folder}")
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


def _book(command: str, arguments: list[str]) -> int:
    from . import book

    return book.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
