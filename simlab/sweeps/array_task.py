"""One task of a Slurm job array: `python -m simlab.sweeps.array_task DIR POINT` runs one point."""

import sys
from pathlib import Path

from .point import Task, read_object, run_point


def main(out: str, name: str) -> int:
    """Run a point of the sweep in `out`; returns 1 where it failed.

    A point that another task has finished in the meantime stays.
    """
    task = Task(**read_object(Path(out, "tasks.json"))[name])
    if read_object(Path(task.folder, "status.json")).get("status") == "done":
        return 0
    status = run_point(task)
    print(status["error"] or "done")
    return int(status["status"] != "done")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
