"""The command line: `simlab COMMAND ...`, or `python -m simlab COMMAND ...`.

    simlab pretrain --epochs 50 --seed 1        a field of PretrainConfig is a flag of this command
    simlab pretrain --recipe cifar-paper        a published configuration; flags change it
    simlab supervised --labels 1000             the same for SupervisedConfig
    simlab knn RUN                              kNN accuracy of a run, by its folder or name
    simlab probe RUN --labels 1000              linear probe of its frozen encoder
    simlab compare RUN RUN                      how similar the layers of two runs are
    simlab sweep NOTEBOOK.ipynb seed=0:3 --out DIR
    simlab methods simclr                       a method's options, their defaults and sources
    simlab data cifar10 --download              download a dataset and describe it
    simlab doctor                               versions, devices, and what is missing

`simlab COMMAND --help` lists a command's flags. Refused input ends a command with exit code 2, a
sweep of which a point failed with 1, and a stopped command with 130.
"""

# Each command imports what it needs inside: `simlab --help` shall not wait for torch.

import dataclasses
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from simlab._checks import near
from simlab.config import RECIPES, PretrainConfig, SupervisedConfig, make_config

REFUSED = 2  # exit code for input that can't be meant
STOPPED = 130  # exit code after ctrl-c, as shells have it
RECIPE = f"Start from a published configuration; further flags change it: {', '.join(RECIPES)}."


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
    if command not in COMMANDS:
        print(f"simlab has no command {command!r}{near(command, COMMANDS)}", file=sys.stderr)
        return REFUSED
    try:
        return COMMANDS[command](rest)
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


# ------------------------------------------------------------------------------------- training


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


# --------------------------------------------------------------------------- evaluation of a run


def knn(
    run: Positional[str],
    k: int = 200,
    temperature: float = 0.1,
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Measure the kNN accuracy of a run's encoder: the full clean bank, every test image.

    Args:
        run: The run's folder, or its name in the runs folder.
        k: Number of neighbours that vote.
        temperature: Temperature of their votes.
        data_folder: Where the dataset's files are.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    from simlab import evaluate, runs

    _require_positive(k=k, temperature=temperature)
    opened = runs.load_run(run, device)
    data = runs.load_data_of(opened, data_folder, device)
    accuracy = evaluate.knn(opened.encoder, data, k, temperature)
    print(f"kNN accuracy     {accuracy:.4f}")
    print(f"k, temperature   {min(k, len(data.train))}, {temperature}")


def probe(
    run: Positional[str],
    labels: int = 0,
    seed: int = 0,
    solver: Literal["lbfgs", "sgd"] = "lbfgs",
    epochs: int = 90,
    views: int = 1,
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Fit a linear probe on a run's frozen encoder.

    Args:
        run: The run's folder, or its name in the runs folder.
        labels: Number of labelled images, the same number of each class; 0: all.
        seed: Seed by which the labelled images are drawn.
        solver: lbfgs; or sgd, as in the papers: lr 30, batch 256, cosine.
        epochs: Epochs of sgd.
        views: Above 1: with so many views of each image less one, augmented as in training.
        data_folder: Where the dataset's files are.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    from simlab import evaluate, runs
    from simlab.augment import parse_augment

    _require_positive(epochs=epochs, views=views)
    opened = runs.load_run(run, device)
    data = runs.load_data_of(opened, data_folder, device)
    augment = parse_augment(runs.config_of(opened).augment)
    encoded = evaluate.encode(opened.encoder, data, views, augment, seed)
    result = evaluate.linear_probe(encoded, labels, seed, solver, epochs)
    for name, value in result.numbers().items():
        print(f"{name:<16} {value}")


def compare(
    runs: Positional[tuple[str, ...]],
    measure: str = "cka",
    layers: str = "",
    images: int = 1000,
    out: str = "",
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Compare the layers of two runs on the test images; one run alone is compared with itself.

    Args:
        runs: Their folders, or their names in the runs folder.
        measure: One of simlab.similarity.MEASURES.
        layers: Names or globs, with commas; empty: the package's choice.
        images: Number of test images, of the first run's dataset.
        out: A file for the result: *.json or *.csv is the tidy table, *.png the figure.
        data_folder: Where the dataset's files are.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    import torch

    from simlab import similarity
    from simlab.runs import load_data_of, load_run

    _require_positive(images=images)
    if not runs:
        raise ValueError("expected one run or two, by their folders or names")
    if out and Path(out).suffix not in (".json", ".csv", ".png"):
        raise ValueError(f"out={out!r}: expected a file that ends in .json, .csv or .png")
    opened = [load_run(name, device) for name in runs]
    data = load_data_of(opened[0], data_folder, device)
    number = min(images, len(data.test))
    x = data.normalize(data.test.subset(torch.arange(number)).images)
    models = {f"{i} {run.folder.name}": run.encoder for i, run in enumerate(opened, start=1)}
    chosen = layers.split(",") if layers else None
    result = similarity.compare(models, x, chosen, measure, samples=number)
    print(result.to_frame(tidy=True).to_string(index=False, float_format="{:.3f}".format))
    if out:
        _save_comparison(result, Path(out))


def _save_comparison(result: Any, path: Path) -> None:
    from simlab.runs import write_bytes

    if path.suffix == ".png":
        result.plot().figure.savefig(path)
    elif path.suffix == ".csv":
        write_bytes(path, result.to_frame(tidy=True).to_csv(index=False).encode())
    else:
        write_bytes(path, result.to_frame(tidy=True).to_json(orient="records").encode())


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: expected more than 0")


# --------------------------------------------------------------------- sweeps, datasets, methods


def sweep(
    notebook: Positional[str],
    grid: Positional[tuple[str, ...]],
    out: str,
    jobs: int = 1,
    threads: int = 1,
    dry_run: bool = False,
    scheduler: str = "",
) -> int:
    """Run a notebook at every point of a grid, and print one table.

    Args:
        notebook: The notebook's file.
        grid: name=values each: epochs=5,10 seed=0:3 method.temperature=.1,.2
        out: The sweep's folder.
        jobs: Number of points at once.
        threads: Threads of each point.
        dry_run: Print a command a line instead of running them.
        scheduler: Address of a Dask scheduler, tcp://...: run on its workers.
    """
    from simlab import sweeps

    points: Any = grid
    if Path(notebook).is_file():  # else `sweep` says which notebooks there are
        points = sweeps.parse_grid(grid, sweeps.read_parameters(notebook))
    table = sweeps.sweep(notebook, points, out, jobs, threads, dry_run, scheduler or None)
    if dry_run:
        return 0
    columns = [name for name in table if not str(name).startswith("version.")]
    print(table[columns].to_string())
    return int((table["status"] != "done").any())


def methods(name: Positional[str] = "") -> None:
    """List the methods, or describe one: its options, their defaults and sources.

    Args:
        name: One of the methods; empty: list them all.
    """
    from simlab.methods import METHODS, describe_method

    if name:
        print(describe_method(name))
        return
    for method, entry in METHODS.items():
        print(f"{method:<16} {entry.summary}")


def data(
    name: Positional[str] = "fashion-scattered",
    folder: str = "",
    download: bool = False,
    image_size: int = 0,
    channels: Literal[0, 1, 3] = 0,
    fit: Literal["cut", "squeeze"] = "cut",
    on_error: Literal["raise", "skip"] = "raise",
) -> None:
    """Load a dataset, downloading it if asked, and describe it; every image is decoded once.

    Args:
        name: A dataset's name, or a folder's path.
        folder: Where its files are, or shall be downloaded to.
        download: Download what is missing.
        image_size: Side in pixels to which a folder's images are resized; 0: their median.
        channels: 1 for grey, 3 for colour, 0 for what the images have.
        fit: Take the square in the middle of a folder's images, or squeeze all of each into one.
        on_error: Name a folder's images that can't be decoded, or leave them out.
    """
    from simlab.data import StreamedImages, load_data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # all of them are in the notes
        dataset = load_data(name, folder, download, image_size, "cpu", channels, fit, on_error)
    for split, images in dataset.splits().items():
        if isinstance(images, StreamedImages):
            images.check_files()
        size = f"{images.channels} x {images.size} x {images.size}"
        print(f"{split:<10} {len(images):>7} images, {size}")
    print(f"classes    {', '.join(dataset.classes) or 'none'}")
    for note in dataset.notes:
        print(f"note       {note}")


def doctor() -> None:
    """Print what this machine has, what training will use, and what is missing."""
    from simlab.runs import doctor as diagnosis

    print(diagnosis.report())


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "pretrain": pretrain,
    "supervised": supervised,
    "knn": _command(knn),
    "probe": _command(probe),
    "compare": _command(compare),
    "sweep": _command(sweep),
    "methods": _command(methods),
    "data": _command(data),
    "doctor": _command(doctor),
}
