"""A sweep as a Slurm job array: a script to be submitted with `sbatch`, a point a task.

    simlab sweep pretrain seed=0:5 --out DIR --slurm "partition=gpu,gres=gpu:1,time=2:00:00"
    sbatch DIR/slurm.sh

The script names its points, so that one that waits in the queue stays right when the sweep grows.
Each of its tasks is `python -m simlab.sweeps.array_task DIR POINT` and leaves what a point that ran
here would leave.
"""

import contextlib
import dataclasses
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from simlab.runs import write_bytes, write_json

from .launchers import Launch, say
from .point import Task, read_object

# Slurm's own limit, MaxArraySize, unless a cluster has set another
LONGEST_ARRAY = 1000
CHOSEN_HERE = ("array", "output", "wrap", "cpus-per-task")


def parse_options(text: str) -> list[str]:
    """Read "partition=gpu,gres=gpu:1,mail-type=END,FAIL" as lines of sbatch's options.

    A comma separates where a name and "=" follow; `exclusive=` is an option without a value.

    Raises:
        ValueError: It has another form, or sets what simlab sets.
    """
    lines = []
    for word in re.split(r",(?=[a-z-]+=)", text):
        match = re.fullmatch(r"([a-z][a-z-]*)=([^\s'\"]*)", word)
        if not match:
            raise ValueError(f"slurm={text!r}, {word!r}: expected sbatch's options as name=value")
        name, value = match.groups()
        if name in CHOSEN_HERE:
            raise ValueError(f"slurm={text!r}: {name} is set by --jobs, --threads and --out")
        lines.append(f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}")
    return lines


@contextlib.contextmanager
def slurm_script(out: Path, options: str, jobs: int, threads: int) -> Iterator[Launch]:
    """Start nothing: write `out`/slurm.sh for the tasks.

    Args:
        out: The sweep's folder, which the nodes must see by the same path.
        options: As `parse_options` reads them.
        jobs: Points that run at once; 1: as many as Slurm has room for.
        threads: CPUs of each.
    """
    lines = parse_options(options)
    if set('"\\\n') & set(str(out)):
        raise ValueError(f"out={str(out)!r}: sbatch can't read such a path")

    def launch(tasks: list[Task]) -> None:
        path = out / "slurm.sh"
        if not tasks:
            path.unlink(missing_ok=True)
            say("nothing is left to submit")
            return
        first = tasks[:LONGEST_ARRAY]
        listed = read_object(out / "tasks.json")  # for a script that still waits in the queue
        for task in first:
            listed[task.name] = dataclasses.asdict(task)
        write_json(out / "tasks.json", listed)
        write_bytes(path, array_script(out, lines, first, jobs, threads).encode())
        if len(first) < len(tasks):
            say(f"{path} has the first {len(first)} points; this command writes the rest later")
        print(f"sbatch {shlex.quote(str(path))}")

    yield launch


def array_script(out: Path, lines: list[str], tasks: list[Task], jobs: int, threads: int) -> str:
    """Return the script, a point a task of the array."""
    limit = f"%{jobs}" if jobs > 1 else ""
    log = str(out).replace("%", "%%") + "/slurm-%A_%a.log"
    names = [f"  {shlex.quote(task.name)}" for task in tasks]
    command = shlex.join([sys.executable, "-m", "simlab.sweeps.array_task", str(out)])
    return "\n".join(
        [
            "#!/bin/bash",
            f'#SBATCH --job-name="{out.name}"',
            f"#SBATCH --array=0-{len(tasks) - 1}{limit}",
            f'#SBATCH --output="{log}"',
            f"#SBATCH --cpus-per-task={threads}",
            *lines,
            "",
            "# The unfinished points of a sweep; the command that wrote this writes it anew for",
            "# what is then left, and the table.",
            "points=(",
            *names,
            ")",
            f'exec {command} "${{points[$SLURM_ARRAY_TASK_ID]}}"',
            "",
        ]
    )
