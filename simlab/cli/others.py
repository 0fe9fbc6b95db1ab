"""The commands for sweeps, methods, datasets and the machine."""

import warnings
from typing import Literal

from tyro.conf import Positional

from .training import callback_names


def sweep(
    program: Positional[str],
    grid: Positional[tuple[str, ...]],
    out: str,
    jobs: int = 1,
    threads: int = 1,
    dry_run: bool = False,
    scheduler: str = "",
    slurm: str = "",
    recipe: str = "",
    callback: str = "",
    tensorboard: bool = False,
) -> int:
    """Train, or run a notebook, at every point of a grid, and print one table.

    Args:
        program: pretrain, supervised, or a notebook's file.
        grid: name=values each: epochs=5,10 seed=0:3 method.temperature=.1,.2
        out: The sweep's folder.
        jobs: Number of points at once.
        threads: Threads of each point.
        dry_run: Print a command a line instead of running them.
        scheduler: Address of a Dask scheduler, tcp://...: run on its workers.
        slurm: Write a script for sbatch with these options: "partition=gpu,gres=gpu:1,time=2:00:00"
        recipe: A published configuration that pretrain starts from.
        callback: What looks on at each training: tensorboard or module:Class, commas between.
        tensorboard: The same as --callback tensorboard.
    """
    from simlab import sweeps

    callbacks = callback_names(callback, tensorboard)
    parameters = sweeps.find_program(program, recipe, callbacks).parameters
    table = sweeps.sweep(
        program,
        sweeps.parse_grid(grid, parameters),
        out,
        jobs,
        threads,
        dry_run,
        scheduler,
        slurm,
        recipe=recipe,
        callbacks=callbacks,
    )
    if dry_run or slurm:
        return 0
    columns = [name for name in table if not str(name).startswith("version.")]
    print(table[columns].to_string())
    return int((table["status"] != "done").any())


def report(
    folder: Positional[str], y: str = "", x: str = "", base: str = "", out: str = ""
) -> None:
    """Write a page of a sweep: its table, figure, configuration and commands.

    Args:
        folder: The sweep's folder.
        y: The column that was measured; empty: knn, test_accuracy, or the only one.
        x: The parameter that is compared; empty: the first that was varied.
        base: The value of x that the others are compared with; empty: the first.
        out: The page's folder; empty: report/ in the sweep's.
    """
    from simlab import sweeps

    print(f"Look at  {sweeps.report(folder, y, x, base, out)}")


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
