"""The command line: `simlab COMMAND ...`, or `python -m simlab COMMAND ...`.

    simlab pretrain --epochs 50 --seed 1        a field of PretrainConfig is a flag of this command
    simlab pretrain --recipe cifar-paper        a published configuration; flags change it
    simlab supervised --labels 1000             the same for SupervisedConfig
    simlab knn RUN                              kNN accuracy of a run, by its folder or name
    simlab probe RUN --labels 1000              linear probe of its frozen encoder
    simlab compare RUN RUN                      how similar the layers of two runs are
    simlab compare a.npz b.npz                  the same of features that were stored
    simlab sweep NOTEBOOK.ipynb seed=0:3 --out DIR
    simlab methods simclr                       a method's options, their defaults and sources
    simlab data cifar10 --download              download a dataset and describe it
    simlab doctor                               versions, devices, and what is missing

`simlab COMMAND --help` lists a command's flags. Refused input ends a command with exit code 2, a
sweep of which a point failed with 1, and a stopped command with 130.
"""

# Each command imports what it needs inside: `simlab --help` shall not wait for torch.

import dataclasses
import sys
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
    labels: float = 0,
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
        labels: Labelled images, as many of each class; below 1: that fraction of each; 0: all.
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
    samples: int = 0,
    out: str = "",
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Compare the layers of two runs on the test images; one run alone is compared with itself.

    In a run's place stored features: an .npz file with an array [samples, ...] for each layer, and
    the samples' ids as its entry "ids" where they are to be matched.

    Args:
        runs: Their folders, or their names in the runs folder; or .npz files.
        measure: One of simlab.similarity.MEASURES.
        layers: Names or globs, with commas; empty: the package's choice.
        images: Number of test images, of the first run's dataset.
        samples: Number of samples of .npz files, the first ones; 0: all.
        out: A file for the result: *.json or *.csv is the printed table, *.png the figure.
        data_folder: Where the dataset's files are.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    _require_positive(images=images)
    if not runs:
        raise ValueError("expected one run or two, by their folders or names, or .npz files")
    if out and Path(out).suffix not in (".json", ".csv", ".png"):
        raise ValueError(f"out={out!r}: expected a file that ends in .json, .csv or .png")
    chosen = layers.split(",") if layers else None
    stored = [Path(run).suffix == ".npz" for run in runs]
    if any(stored) and not all(stored):
        raise ValueError("runs and .npz files are not compared with each other: give one kind")

    from simlab import similarity
    from simlab.runs import compare_runs, write_bytes

    if all(stored):
        result = similarity.compare(list(runs), None, chosen, measure, samples=samples or None)
    else:
        result = compare_runs(runs, chosen, measure, images, data_folder, device)
    table = result.to_frame(tidy=True)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"\n{result!r}")
    if out.endswith(".png"):
        result.plot(save=out)
    elif out:
        text = (
            table.to_csv(index=False) if out.endswith(".csv") else table.to_json(orient="records")
        )
        write_bytes(Path(out), text.encode())


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
) -> None:
    """Load a dataset, downloading it if asked, and describe it.

    Args:
        name: A dataset's name, or a folder's path.
        folder: Where its files are, or shall be downloaded to.
        download: Download what is missing.
        image_size: Side in pixels to which a folder's images are resized; 0: the first image's.
    """
    from simlab.data import load_data

    dataset = load_data(name, folder, download, image_size)
    splits = {"training": dataset.train, "test": dataset.test, "unlabeled": dataset.unlabeled}
    for split, images in splits.items():
        if images is not None:
            size = f"{images.channels} x {images.size} x {images.size}"
            print(f"{split:<10} {len(images):>7} images, {size}")
    print(f"classes    {', '.join(dataset.classes) or 'none'}")


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
