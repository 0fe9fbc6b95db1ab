"""Build the book: python docs/build_book.py [--out runs/book] [--strict]

Sphinx reads a temporary folder that mirrors the repository, so that links between its files hold:
the lessons as they were run last (as committed where they were not), exercises, documents, tables
of results, and a page for each package. The book needs no network to be read.
"""

import argparse
import contextlib
import gc
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from sphinx.cmd.build import build_main

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "notebooks")]
import api_pages  # noqa: E402
import start_page  # noqa: E402
from executed import cleaned  # noqa: E402

from simlab.runs import runs_folder  # noqa: E402

ROOT = HERE.parent
TEXTS = ("*.md", "docs/*.md", "data/**/*.md", "notebooks/tables/*.md", "benchmarks/results/*.md")
NOTEBOOKS = ("notebooks/0[1-9]*.ipynb", "notebooks/exercises/*.ipynb", "notebooks/sweeps/*.ipynb")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="build_book.py", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=runs_folder() / "book", help="where to")
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    options = parser.parse_args(arguments)
    warnings = build(options.out)
    print(warnings, end="", file=sys.stderr)
    print(f"Look at  {options.out / 'index.html'}")
    return int(options.strict and bool(warnings))


def build(out: Path) -> str:
    """Build the book into `out`, of the lessons that were run there; returns Sphinx's warnings."""
    with tempfile.TemporaryDirectory() as temporary:
        sources = Path(temporary, "sources")
        pages = Path(temporary, "pages")  # myst-nb leaves a folder beside it
        log = Path(temporary, "warnings")
        write_sources(sources, out)
        words = ["-b", "html", "-q", "-c", HERE, "-d", Path(temporary, "doctrees"), "-w", log]
        quiet = io.StringIO()  # Sphinx writes its warnings there as well
        with contextlib.redirect_stderr(quiet), rare_garbage_collection():
            status = build_main([str(word) for word in [*words, sources, pages]])
        if status:
            raise RuntimeError(f"Sphinx could not build the book:\n{quiet.getvalue()}")
        warnings = log.read_text(encoding="utf-8").replace(f"{sources}/", "")
        shutil.copytree(pages, out, dirs_exist_ok=True)
    return warnings


@contextlib.contextmanager
def rare_garbage_collection():
    """Sphinx's trees live to the end; Python would look through them for a third of the time."""
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def write_sources(sources: Path, out: Path):
    """Everything that Sphinx reads."""
    for pattern in TEXTS:
        for path in ROOT.glob(pattern):
            text = with_title(path.read_text(encoding="utf-8"), path)
            write(sources / path.relative_to(ROOT), text)
            copy_linked_files(text, path, sources)
    for pattern in NOTEBOOKS:
        for path in ROOT.glob(pattern):
            notebook = lesson(path, out)
            write(sources / path.relative_to(ROOT), nbformat.writes(notebook))
            texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
            copy_linked_files("\n".join(texts), path, sources)
    for name, text in start_page.pages(out).items():
        write(sources / name, text)
    for name, image in start_page.images(out).items():
        (sources / name).write_bytes(image)
    for name, text in api_pages.pages().items():
        write(sources / "api" / name, text)


def with_title(text: str, path: Path) -> str:
    """A page has a title, which tables lack, and no badges; the start page is the index."""
    text = re.sub("<!-- elsewhere -->.*?<!-- end of elsewhere -->", "", text, flags=re.DOTALL)
    if not re.search(r"^# ", text, re.MULTILINE):
        text = f"# {path.stem.replace('_', ' ').capitalize()}\n\n{text}"
    return text.replace("notebooks/00_start_here.ipynb", "index.md")


def lesson(path: Path, out: Path) -> nbformat.NotebookNode:
    """A notebook as it was run, if it was, and with its exercises below it in the contents."""
    executed = out / path.stem / path.name
    if path.parent.name == "notebooks" and executed.exists():
        path_of_outputs = executed
    else:
        path_of_outputs = path
    notebook = cleaned(nbformat.read(path_of_outputs, as_version=4))
    exercises = path.parent / "exercises" / path.name
    if exercises.exists():
        below = f"```{{toctree}}\n:hidden:\n\nexercises/{path.stem}\n```"
        # below the title: further down it would count as a part of that section
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(below, id="exercises"))
    return notebook


def copy_linked_files(text: str, path: Path, sources: Path):
    """Licences, tables and scripts that a text links to become downloads; code has its pages."""
    for target in re.findall(r"\]\(([^)#:\s]+)\)", text):
        file = (path.parent / target).resolve()
        is_page = file.suffix in (".md", ".ipynb") or file.is_relative_to(ROOT / "simlab")
        if file.is_file() and not is_page and file.is_relative_to(ROOT):
            copy = sources / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def write(path: Path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
