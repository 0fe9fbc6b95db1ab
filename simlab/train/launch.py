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

from simlab.config import PretrainConfig, TrainConfig
from simlab.runs.identity import SOURCES_AT_IMPORT, training_sources
from simlab.runs.run import Run

from .run import pretrain, train_supervised


def launch(
    config: TrainConfig,
    processes: int = 2,
    folder: str = "",
    restarts: int = 3,
    fresh: bool = False,
) -> Run:
    """The finished run of a configuration, trained by several processes on this machine.

    Args:
        config: its `data` is a name or a folder, since each process loads the images itself.
        restarts: how often all start again, from the last checkpoint, after one has died.
        folder, fresh: as in `pretrain`.
    Raises: RuntimeError with the reason that a process gave, where they gave up.
    """
    if type(processes) is not int or processes < 1:
        raise ValueError(f"processes={processes!r}: expected a whole number, at least 1")
    if training_sources() != SOURCES_AT_IMPORT:  # the processes would train another run
        raise RuntimeError(
            "simlab's sources were changed since they were imported: restart the kernel"
        )
    kind = "pretrain" if isinstance(config, PretrainConfig) else "supervised"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": path}
    if folder:
        environment["SIMLAB_RUNS"] = str(folder)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        f"--max-restarts={restarts}",
    ]
    command = [*torchrun, "-m", "simlab", kind, *flags_of(config), *["--fresh"] * fresh]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    told = "see train.log"
    try:
        with tqdm(bar_format="{desc}") as bar:
            for line in process.stdout:  # a bar that is drawn anew is a line as well
                if line.startswith(f"simlab {kind}: "):
                    told = line.strip()
                elif " images" in line:
                    bar.set_description_str(line.strip())
        status = process.wait()
    finally:  # stopped by the user as well: torchrun ends its processes when it is asked to end
        process.terminate()
        process.communicate()
    if status:
        raise RuntimeError(f"{processes} processes gave up: {told}")
    # finished: it is loaded
    return (pretrain if kind == "pretrain" else train_supervised)(config, folder=folder)


def flags_of(config: TrainConfig) -> list[str]:
    """The command line's flags for what differs from the defaults."""
    flags = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), field.name.replace("_", "-")
        if value != field.default and field.type is bool:
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value != field.default:
            flags += [f"--{name}", str(value)]
    return flags
