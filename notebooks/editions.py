"""The exercises as a teacher hands them out, and as a teacher keeps them; both of one source.

    python notebooks/editions.py             into runs/editions/student and runs/editions/instructor
    python notebooks/editions.py --out DIR

The source is notebooks/exercises. The student edition has neither solutions nor notes on marking.
In the instructor edition the answers are filled in, so that the checks below them pass, and
solutions and notes are unfolded.
"""

import argparse
import copy
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat

from simlab.runs import runs_folder, write_bytes

SOURCE = Path(__file__).parent / "exercises"
SOLUTION = "<details><summary>Solution</summary>"
FOLD = re.compile(r"<details><summary>(.*?)</summary>\n\n(.*)\n\n</details>\s*", re.DOTALL)
PROMISE = re.compile(r"; the solution is (hidden|folded) below")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="editions.py", description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="", help="where to; runs/editions when not said")
    options = parser.parse_args(arguments)
    out = Path(options.out) if options.out else runs_folder() / "editions"
    write_editions(out)
    print(f"student and instructor edition: {out}")
    return 0


def write_editions(out: Path) -> None:
    """Write both editions, and the checks beside each, so that a folder can be handed out alone."""
    for name, edition in (("student", student_edition), ("instructor", instructor_edition)):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        checks = folder / "checks"
        shutil.copytree(
            SOURCE / "checks", checks, dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )  # fmt: skip
        for path in sorted(SOURCE.glob("*.ipynb")):
            notebook = edition(nbformat.read(path, as_version=4))
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = with_links_from(cell.source, folder)
            write_bytes(folder / path.name, (nbformat.writes(notebook) + "\n").encode())


def student_edition(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without the cells that hold solutions or notes on marking."""
    notebook = blank(notebook)
    notebook.cells = [cell for cell in notebook.cells if not is_for_teachers(cell)]
    for cell in notebook.cells:
        cell.source = PROMISE.sub("", cell.source)
    return notebook


def instructor_edition(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """With every answer filled in, solutions and notes on marking unfolded."""
    notebook = blank(notebook)
    for place, cell in enumerate(notebook.cells):
        if "answer" in tags_of(cell):
            cell.source = solution_below(notebook.cells[place:])
        cell.source = PROMISE.sub("; solutions and notes on marking are included", cell.source)
        if is_for_teachers(cell):
            heading, text = FOLD.fullmatch(cell.source).groups()
            cell.source = f"**{heading}**\n\n{text}"
    return notebook


def blank(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy without outputs."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def tags_of(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def is_for_teachers(cell: nbformat.NotebookNode) -> bool:
    return cell.source.startswith(SOLUTION) or "instructor" in tags_of(cell)


def solution_below(cells: list[nbformat.NotebookNode]) -> str:
    """The code of the first solution in these cells."""
    text = next(cell.source for cell in cells if cell.source.startswith(SOLUTION))
    return re.search(r"```python\n(.*?)\n```", text, re.DOTALL)[1]


def with_links_from(text: str, folder: Path) -> str:
    """Relative links of the source made those of a file in `folder`."""

    def moved(match: re.Match) -> str:
        path, _, anchor = match[1].partition("#")
        target = os.path.relpath(SOURCE / path, folder)
        return f"]({target}{'#' if anchor else ''}{anchor})"

    return re.sub(r"\]\((?![a-z]+:)([^)\s]+)\)", moved, text)


if __name__ == "__main__":
    sys.exit(main())
