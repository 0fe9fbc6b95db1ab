"""Training by several processes, started from a notebook or a script.

    run = launch(PretrainConfig(epochs=50), processes=2)

is what `torchrun --nproc_per_node=2 -m simlab pretrain --epochs 50` is on a command line.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from tqdm.auto import tqdm

from simlab.config import PretrainConfig, SupervisedConfig, TrainConfig, images_of
from simlab.data import Dataset, load_data
from simlab.runs import SOURCES_AT_IMPORT, Run, training_sources

from .resolve import fitting_batch_size, number_of_images
from .run import pretrain, train_supervised


def launch(
    config: TrainConfig,
    processes: int = 2,
    folder: str = "",
    restarts: int = 3,
    fresh: bool = False,
) -> Run:
    """Train a configuration by several processes on this machine.

    Args:
        config: Its `data` is a name or a folder, since each process loads the images itself.
        processes: Their number; each gets its share of every batch.
        folder: Where runs are kept, as in `pretrain`.
        restarts: How often all start again, from the last checkpoint, after one has died.
        fresh: Delete what is stored of this run, as in `pretrain`.

    Returns:
        The finished run.

    Raises:
        ValueError: The number of processes makes no sense, or there are too few images for it.
        RuntimeError: The processes gave up, with the reason that one of them gave.
    """
    if type(processes) is not int or processes < 1:
        raise ValueError(f"processes={processes!r}: expected a whole number, at least 1")
    if training_sources() != SOURCES_AT_IMPORT:  # the processes would train another run
        raise RuntimeError(
            "simlab's sources were changed since they were imported: restart the kernel"
        )
    data = load_data(**images_of(config))
    batch_size = fitting_batch_size(config, number_of_images(config, data), processes)
    config = dataclasses.replace(config, batch_size=batch_size)  # the same for one process
    command = "pretrain" if isinstance(config, PretrainConfig) else "supervised"
    arguments = [command, *flags_of(config)]
    if fresh:
        arguments.append("--fresh")
    status, reason = _run_processes(
        [*_torchrun(processes, restarts), "-m", "simlab", *arguments],
        _environment(processes, folder),
        f"simlab {command}: ",
    )
    if status:
        raise RuntimeError(f"{processes} processes gave up: {reason}")
    return _load_finished(config, data, folder)


def flags_of(config: TrainConfig) -> list[str]:
    """The command line's flags for what differs from the defaults."""
    flags = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags += [f"--{name}", str(value)]
    return flags


def _torchrun(processes: int, restarts: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        f"--max-restarts={restarts}",
    ]


def _environment(processes: int, folder: str) -> dict[str, str]:
    """The processes' environment: this simlab, and an equal share of the cores."""
    package = Path(__file__).parents[2]
    environment = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)),
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("SIMLAB_OUT", None)  # a swept notebook's own metrics go there
    if folder:
        environment["SIMLAB_RUNS"] = str(folder)
    return environment


def _run_processes(
    command: list[str], environment: dict[str, str], error_starts: str
) -> tuple[int, str]:
    """Run a command and show its progress; returns its status and the reason that it gave."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None
    reason = "see train.log"
    try:
        with tqdm(bar_format="{desc}") as bar:
            for line in process.stdout:  # a bar that is drawn anew is a line as well
                if line.startswith(error_starts):
                    reason = line.strip()
                elif " images" in line:
                    bar.set_description_str(line.strip())
        status = process.wait()
    finally:  # stopped by the user as well: torchrun ends its processes when it is told to end
        process.terminate()
        process.communicate()
    return status, reason


def _load_finished(config: TrainConfig, data: Dataset, folder: str) -> Run:
    if isinstance(config, PretrainConfig):
        return pretrain(config, data, folder=folder)
    assert isinstance(config, SupervisedConfig)
    return train_supervised(config, data, folder=folder)
