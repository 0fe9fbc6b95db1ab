"""The command line: `simlab COMMAND ...`, or `python -m simlab COMMAND ...`.

    simlab pretrain --epochs 50 --seed 1        a field of PretrainConfig is a flag of this command
    simlab pretrain --recipe cifar-paper        a published configuration; flags change it
    simlab supervised --labels 1000             the same for SupervisedConfig
    simlab knn RUN                              kNN accuracy of a run, by its folder or name
    simlab probe RUN --labels 1000              linear probe of its frozen encoder
    simlab compare RUN RUN                      how alike the layers of two runs are
    simlab sweep NOTEBOOK.ipynb seed=0:3 --out DIR
    simlab data cifar10 --download              fetch a dataset and say what is in it
    simlab doctor                               versions, devices, and what is missing

`simlab COMMAND --help` lists a command's flags.
"""

import argparse
import sys

from simlab._names import near

COMMANDS = ("pretrain", "supervised", "probe", "knn", "compare", "sweep", "data", "doctor")


def main(arguments: list[str] | None = None) -> int:
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        print(__doc__)
        return 0
    if command not in COMMANDS:
        print(f"simlab has no command {command!r}{near(command, COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return _run(command, rest)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is stored", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"simlab {command}: {error}", file=sys.stderr)
        return 1


def _run(command: str, arguments: list[str]) -> int:
    # each command imports what it needs: `simlab --help` shall not wait for torch
    if command == "sweep":
        from simlab.sweep import runner as sweep

        return sweep.main(arguments)
    if command in ("pretrain", "supervised"):
        return _train(command, arguments)
    import tyro

    from simlab import cli as commands

    tyro.cli(getattr(commands, command), args=arguments, prog=f"simlab {command}")
    return 0


def _train(command: str, arguments: list[str]) -> int:
    import tyro

    from simlab.compute import distributed
    from simlab.config import RECIPES, PretrainConfig, SupervisedConfig, make_config
    from simlab.train import run as train

    kind, recipes, start = {
        "pretrain": (PretrainConfig, RECIPES, train.pretrain),
        "supervised": (SupervisedConfig, {}, train.train_supervised),
    }[command]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--recipe", default="")
    own, rest = parser.parse_known_args(arguments)
    if own.recipe and own.recipe not in recipes:
        raise ValueError(f"{command} has no recipe {own.recipe!r}{near(own.recipe, recipes)}")
    about = f"{kind.__doc__}\n\n--fresh: forget what is stored of this run and start anew"
    if recipes:
        about += f"\n--recipe STR: start from a published configuration: {', '.join(RECIPES)}"
    config = tyro.cli(
        kind,
        args=rest,
        prog=f"simlab {command}",
        description=about,
        default=make_config(kind, **recipes.get(own.recipe, {})),
    )
    run = start(config, fresh=own.fresh)
    if distributed.rank() == 0:
        for name, value in run.result["final"].items():
            print(f"{name:<16} {value}")
        print(f"\nLook at  {run.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
