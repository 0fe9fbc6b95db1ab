"""The main job: run the course's notebooks and leave a site to browse.

    python notebooks/book.py                 all notebooks in order, into runs/book/
    python notebooks/book.py 01 02           those alone
    python notebooks/book.py --refresh 03    execute in place, as committed, and measure
    python notebooks/book.py --cards         write header cards and the README's table anew

Papermill runs each notebook; pages.py makes a site of what comes out, which needs no network.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import papermill
import psutil

sys.path.insert(0, str(Path(__file__).parent))
import pages  # noqa: E402

from simlab.runs import read_json, runs_folder, write_bytes  # noqa: E402
from simlab.runs.identity import digest  # noqa: E402

SOURCE = Path(__file__).parent
# measured by --refresh on an empty runs folder: seconds, memory in GB, seconds of each run within
DURATIONS = SOURCE / "durations.json"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="book.py", description=__doc__.split("\n")[0])
    parser.add_argument("numbers", nargs="*", help="first digits of the notebooks to run")
    parser.add_argument("--out", default="", help="where to; runs/book when not said")
    parser.add_argument("--refresh", action="store_true", help="execute them in place")
    parser.add_argument("--cards", action="store_true", help="write cards and tables anew")
    options = parser.parse_args(arguments)
    if options.refresh or options.cards:
        if options.refresh:
            for notebook in find_notebooks(options.numbers or ["0"]):
                refresh(notebook)
        for notebook in find_notebooks([]):  # the time after the others is shorter by their runs
            write_card(notebook)
        write_tables()
        return 0
    out = Path(options.out) if options.out else runs_folder() / "book"
    return run_book(find_notebooks(options.numbers), out)


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
    """Execute, render and index; returns how many failed."""
    measured = durations()
    total = sum(measured.get(p.stem, {}).get("alone", 180) for p in notebooks)
    print(f"simlab runs {len(notebooks)} notebook(s) on the bundled images:")
    for path in notebooks:
        print(f"  {path.stem:<32} {pages.title_of(path)}")
    print(f"About {max(1, round(total / 60))} minutes on two cores; finished runs are reused.")
    print(f"Results go to {out}\n", flush=True)
    cards = []
    for path in notebooks:
        cards.append(run_notebook(path, out / path.stem))
        pages.write_site(cards, out)
    print("\nResults")
    for card in cards:
        print(f"  {card['name']}: {card['status']} in {card['seconds']:.0f} s")
        for name, value in card["metrics"].items():
            print(f"      {name:<36} {pages.as_text(value)}")
    print(f"\nLook at  {out / 'index.html'}")
    print("Next     make lab, and change a parameter")
    return sum(card["status"] != "done" for card in cards)


def run_notebook(path: Path, out: Path) -> dict:
    """One notebook through papermill into `out`, with its metrics.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").unlink(missing_ok=True)
    started = time.monotonic()
    status = "done"
    os.environ["SIMLAB_OUT"] = str(out)  # the notebook's kernel inherits it
    try:
        papermill.execute_notebook(
            str(path), str(out / path.name), cwd=str(path.parent), kernel_name="python3"
        )
    except papermill.PapermillExecutionError as error:
        status = f"failed: {error.ename}: {error.evalue}"
        print(error, file=sys.stderr)
    finally:
        del os.environ["SIMLAB_OUT"]
    metrics = out / "metrics.json"
    return {
        "name": path.stem,
        "source": path,
        "status": status,
        "seconds": time.monotonic() - started,
        "metrics": read_json(metrics) if metrics.exists() else {},
    }


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
                papermill.execute_notebook(
                    str(path), str(executed), cwd=str(path.parent), kernel_name="python3"
                )
            seconds = round(time.monotonic() - started)
            notebook = nbformat.read(executed, as_version=4)
        finally:
            if not runs_of_caller:
                del os.environ["SIMLAB_RUNS"]
        if empty:
            measured = durations()
            measured[path.stem] = {
                "alone": seconds,
                "memory": round(memory.peak / 1e9, 1),
                "runs": trained(runs),
            }
            text = json.dumps(measured, indent=1, sort_keys=True)
            write_bytes(DURATIONS, f"{text}\n".encode())
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


def durations() -> dict[str, dict]:
    return read_json(DURATIONS) if DURATIONS.exists() else {}


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times, papermill's notes, widgets' states and progress bars."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook.metadata = nbformat.from_dict(metadata)
    for cell in notebook.cells:
        lasting = {key: cell.metadata[key] for key in ("jupyter", "tags") if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(lasting)  # jupyter: that the first cell is folded
        if cell.cell_type == "code":
            cell.outputs = pages.lasting(cell.outputs)
    return notebook


# ------------------------------------------------------------------------------------ header cards


def write_card(path: Path):
    """Put the header card, of course.json and of what was measured, below a notebook's title."""
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if "card" not in c.metadata.get("tags", [])]
    card = nbformat.v4.new_markdown_cell(pages.card_of(path), metadata={"tags": ["card"]})
    card["id"] = "header-card"
    if notebook.cells[1] != card:
        notebook.cells = [*cells[:1], card, *cells[1:]]
        write_bytes(path, (nbformat.writes(notebook) + "\n").encode())


def write_tables():
    """The course's table, between the marks in the README and on the start page."""
    readme = SOURCE.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    write_bytes(readme, with_table(text, "notebooks/").encode())
    start = SOURCE / "00_start_here.ipynb"
    notebook = nbformat.read(start, as_version=4)
    for cell in notebook.cells:
        cell.source = with_table(cell.source, "")
    write_bytes(start, (nbformat.writes(notebook) + "\n").encode())


def with_table(text: str, folder: str) -> str:
    mark = r"(<!-- course -->\n).*?(<!-- end of course -->)"
    return re.sub(mark, lambda m: m[1] + pages.course_table(folder) + m[2], text, flags=re.DOTALL)


if __name__ == "__main__":
    sys.exit(main())
