"""The main job: run the course's notebooks and leave a book to browse.

    python notebooks/book.py                 all lessons in order, into runs/book/
    python notebooks/book.py 01 02           those alone
    python notebooks/book.py --refresh 03    execute in place, as committed, and measure
    python notebooks/book.py --cards         write header cards and the README's table anew

Papermill runs each notebook; docs/build_book.py makes the book of what comes out.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from jupyter_client import AsyncKernelManager, KernelManager
from traitlets.config import Config

SOURCE = Path(__file__).parent
sys.path[:0] = [str(SOURCE), str(SOURCE.parent / "docs")]
import build_book  # noqa: E402
import cards  # noqa: E402
import start_page  # noqa: E402
from executed import cleaned, headings_of, title_of  # noqa: E402
from progress import Progress, rounded  # noqa: E402

from simlab.runs import read_json, runs_folder, write_bytes  # noqa: E402
from simlab.runs.identity import digest  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="book.py", description=__doc__.split("\n")[0])
    parser.add_argument("numbers", nargs="*", help="first digits of the notebooks to run")
    parser.add_argument("--out", default="", help="where to; runs/book when not said")
    parser.add_argument("--refresh", action="store_true", help="execute them in place")
    parser.add_argument("--cards", action="store_true", help="write cards and tables anew")
    options = parser.parse_args(arguments)
    if options.refresh:
        for notebook in find_notebooks(options.numbers or ["0"]):
            refresh(notebook)
    if options.refresh or options.cards:
        # all of them: the time after the others is shorter by their runs
        cards.write_cards(find_notebooks([]))
        return 0
    out = Path(options.out) if options.out else runs_folder() / "book"
    try:
        return run_book(find_notebooks(options.numbers), out)
    except KeyboardInterrupt:
        print("Stopped. What was trained is kept, and used when the lessons are run again.")
        return 130


def find_notebooks(numbers: list[str]) -> list[Path]:
    """The lessons in order, or those notebooks whose names begin with one of `numbers`."""
    notebooks = sorted(SOURCE.glob("0*.ipynb"))
    wanted = tuple(numbers or (f"0{i}" for i in range(1, 10)))  # 00 is the start page
    chosen = [path for path in notebooks if path.name.startswith(wanted)]
    if not chosen:
        names = ", ".join(path.stem for path in notebooks)
        raise SystemExit(f"no notebook begins with {numbers}: {names}")
    return chosen


# ------------------------------------------------------------------------------- for people to read


def run_book(notebooks: list[Path], out: Path) -> int:
    """Execute the notebooks and build the book; returns how many failed."""
    names = [path.stem for path in notebooks]
    expected = cards.seconds_in_turn(names)
    print(f"simlab runs {len(notebooks)} notebook(s) on the bundled images:")
    for path in notebooks:
        print(f"  {path.stem:<32} {title_of(path)}")
    time_needed = rounded(sum(expected))
    print(f"They take {time_needed} on two cores of a recent processor, three to four times that")
    print("on an older one; after the first, the time left is this machine's.")
    print("What was trained before is reused.\n", flush=True)
    progress = Progress(names, expected)
    runs = [run_notebook(path, out / path.stem, progress) for path in notebooks]
    print("\nResults")
    for name, run in zip(names, runs, strict=True):
        print(f"  {name}: {run['status']}")
        for key, value in run["metrics"].items():
            print(f"      {key:<36} {start_page.as_text(value)}")
    print("\nThe book is being built ...", flush=True)
    warnings = build_book.build(out)
    if warnings:
        print(f"\nWarnings of the book:\n{warnings}")
    print(f"\nLook at  {out / 'index.html'}")
    print("Next     make lab, and change a parameter")
    return sum(run["status"] != "done" for run in runs)


def run_notebook(path: Path, out: Path, progress: Progress) -> dict:
    """One notebook through papermill into `out`, beside its metrics.json and a run.json."""
    out.mkdir(parents=True, exist_ok=True)
    metrics = out / "metrics.json"
    metrics.unlink(missing_ok=True)
    headings = headings_of(nbformat.read(path, as_version=4))
    status = "stopped"
    os.environ["SIMLAB_OUT"] = str(out)  # the notebook's kernel inherits it
    progress.start(path.stem, cells=len(headings))
    try:
        execute(path, out / path.name, lambda index: progress.cell(index, headings[index]))
        status = "done"
    except papermill.PapermillExecutionError as error:
        status = f"failed: {error.ename}: {error.evalue}"
        print(error, file=sys.stderr)
    finally:
        del os.environ["SIMLAB_OUT"]
        seconds = progress.finish(status)
    run = {
        "status": status,
        "seconds": seconds,
        "metrics": read_json(metrics) if metrics.exists() else {},
    }
    write_bytes(out / "run.json", json.dumps(run, indent=1).encode())
    return run


def execute(path: Path, target: Path, on_cell: Callable[[int], None] | None = None):
    """One notebook through papermill, without words of the libraries that run it.

    Args:
        path: The notebook.
        target: Where the executed one is written.
        on_cell: Is called with a cell's index before it runs.
    """
    options: dict[str, Any] = {"config": quiet_kernels()}
    if on_cell is not None:
        options["on_cell_start"] = lambda cell, cell_index: on_cell(cell_index)
    papermill.execute_notebook(
        str(path), str(target), cwd=str(path.parent), kernel_name="python3", progress_bar=False,
        **options,
    )  # fmt: skip


class PatientKernelManager(AsyncKernelManager):
    """Tells a kernel to end without interrupting it first.

    Its cells are done by then; on a busy machine it would write to stderr that it was interrupted.
    """

    async def _async_interrupt_kernel(self) -> None:
        if not self.shutting_down:
            await super()._async_interrupt_kernel()


def quiet_kernels() -> Config:
    """Settings by which a kernel starts without warnings.

    Newer kernels warn of unencrypted connections to themselves, on this machine alone; where
    they can encrypt, they are asked to. And debugpy, which nobody uses here, warns of Python's
    frozen modules.
    """
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    config = Config()
    config.NotebookClient.kernel_manager_class = PatientKernelManager
    if KernelManager.class_traits().get("transport_encryption"):
        config.KernelManager.transport_encryption = "auto"
    return config


# ------------------------------------------------------------------------------------ as committed


def refresh(path: Path):
    """Execute a notebook in place, take out what differs between two runs, and measure.

    Time and memory count on an empty runs folder alone, where nothing is trained before: a
    temporary one, or $SIMLAB_RUNS.
    """
    with tempfile.TemporaryDirectory() as temporary:
        runs_of_caller = os.environ.get("SIMLAB_RUNS")
        runs = Path(runs_of_caller or f"{temporary}/runs")
        empty = not runs.exists() or not any(runs.iterdir())
        os.environ["SIMLAB_RUNS"] = str(runs)
        executed = Path(temporary, path.name)
        started = time.monotonic()
        try:
            with PeakMemory() as memory:
                execute(path, executed)
            seconds = round(time.monotonic() - started)
            notebook = nbformat.read(executed, as_version=4)
        finally:
            if not runs_of_caller:
                del os.environ["SIMLAB_RUNS"]
        if empty:
            measured = cards.durations()
            measured[path.stem] = {
                "alone": seconds,
                "memory": round(memory.peak / 1e9, 1),
                "runs": trained(runs),
            }
            text = json.dumps(measured, indent=1, sort_keys=True)
            write_bytes(cards.DURATIONS, f"{text}\n".encode())
        else:
            print(f"{path.name}: not measured, since {runs} is not empty")
    write_bytes(path, (nbformat.writes(cleaned(notebook)) + "\n").encode())
    print(f"{path.name}: {seconds} s")


class PeakMemory:
    """The most memory that this process's children held at once.

    `with PeakMemory() as memory: ...`, then `memory.peak` in bytes.
    """

    def __enter__(self):
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._over.wait(0.5):
            held = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    held += child.memory_info().rss
                except psutil.Error:  # it has ended in between
                    continue
            self.peak = max(self.peak, held)

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def trained(runs: Path) -> dict[str, float]:
    """Seconds of every finished run in a folder, by its identity without the code's digest."""
    seconds = {}
    for path in runs.rglob("config.json"):
        result = path.with_name("metrics.json")
        if result.exists():
            identity = {k: v for k, v in read_json(path).items() if k != "code"}
            key = digest(json.dumps(identity, sort_keys=True).encode())
            seconds[key] = round(float(read_json(result).get("seconds", 0)), 1)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
