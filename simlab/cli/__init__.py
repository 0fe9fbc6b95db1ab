"""The command line: `simlab COMMAND ...`, or `python -m simlab COMMAND ...`.

    simlab pretrain --epochs 50 --seed 1        a field of PretrainConfig is a flag of this command
    simlab pretrain --recipe cifar-paper        a published configuration; flags change it
    simlab pretrain --config FILE.json          that of a file, such as a stored run's config.json
    simlab supervised --labels 1000             the same for SupervisedConfig
    simlab knn RUN                              kNN accuracy of a run, by its folder or name
    simlab probe RUN --labels 1000              linear probe of its frozen encoder
    simlab evaluate ENCODER DATA                any encoder, by several protocols
    simlab compare RUN RUN                      how similar the layers of two runs are
    simlab compare a.npz b.npz                  the same of features that were stored
    simlab embed RUN IMAGES --out x.npz         features of any images
    simlab export RUN FOLDER                    the encoder for programs without simlab
    simlab runs                                 the stored runs
    simlab sweep pretrain lr=.03,.1 seed=0:5 --out DIR      many runs, one table; also a notebook
    simlab report DIR                           a page with a sweep's table and figure
    simlab methods simclr                       a method's options, their defaults and sources
    simlab data cifar10 --download              download a dataset and describe it
    simlab doctor                               versions, devices, and what is missing
    simlab --version                            simlab's own version

`simlab COMMAND --help` lists a command's flags. Refused input ends a command with exit code 2, a
sweep of which a point failed with 1, and a stopped command with 130.
"""

# Each command imports what it needs inside: `simlab --help` shall not wait for torch.
# `training`, `evaluation`, `stored` and `others` hold the commands; a function is one. `elsewhere`
# knows the options of other programs.

import io
import sys
from collections.abc import Callable

import tyro

import simlab
from simlab._checks import near

from .elsewhere import hints
from .evaluation import compare, embed, evaluate, knn, probe
from .others import data, doctor, methods, report, sweep
from .stored import export, runs
from .training import pretrain, supervised

REFUSED = 2  # exit code for input that can't be meant
STOPPED = 130  # exit code after ctrl-c, as shells have it


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after `simlab`; None for those of this process.

    Returns:
        The exit code.
    """
    _print_whatever_the_console_can()
    words = sys.argv[1:] if arguments is None else arguments
    command, *rest = words or ["--help"]
    if command in ("-h", "--help"):
        print(__doc__)
        return 0
    if command == "--version":
        print(f"simlab {simlab.__version__}")
        return 0
    if command not in COMMANDS:
        print(f"simlab has no command {command!r}{near(command, COMMANDS)}", file=sys.stderr)
        return REFUSED
    try:
        return COMMANDS[command](rest)
    except SystemExit as ended:  # the parser has said what it does not know
        if ended.code == REFUSED:
            for line in hints(rest):
                print(line, file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("stopped; the same command resumes from what is stored", file=sys.stderr)
        return STOPPED
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, ArithmeticError) as error:
        print(f"simlab {command}: {error}", file=sys.stderr)
        return REFUSED


def _print_whatever_the_console_can() -> None:
    """Write characters that the console's encoding lacks, in class names say, as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _command(function: Callable[..., int | None]) -> Callable[[list[str]], int]:
    """Make a command of a function: its arguments are the flags, its docstring is the help."""

    def run(arguments: list[str]) -> int:
        exit_code = tyro.cli(function, args=arguments, prog=f"simlab {function.__name__}")
        return exit_code or 0

    return run


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "pretrain": pretrain,
    "supervised": supervised,
    "knn": _command(knn),
    "probe": _command(probe),
    "evaluate": evaluate,
    "compare": _command(compare),
    "embed": _command(embed),
    "export": _command(export),
    "runs": _command(runs),
    "sweep": _command(sweep),
    "report": _command(report),
    "methods": _command(methods),
    "data": _command(data),
    "doctor": _command(doctor),
}
