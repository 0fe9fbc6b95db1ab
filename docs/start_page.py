"""The book's start page: the course's own, the contents, and what was found when it was run."""

import json
import posixpath
import re
from pathlib import Path

import nbformat
from cards import course
from executed import last_figure, title_of
from progress import clock

ROOT = Path(__file__).parent.parent
START = ROOT / "notebooks" / "00_start_here.ipynb"
WITHOUT = {"live", "elsewhere"}  # cells that need a kernel or a network
# what the contents show, in this order: caption, pages; * is what was not named before it
CONTENTS = {
    "Lessons": ["notebooks/0*"],
    "Documents": ["simlab in your own code <README>", "docs/glossary", "docs/teaching", "docs/*"],
    "Reference": ["api/index"],
    "Tables of results": ["notebooks/sweeps/*", "notebooks/tables/*", "benchmarks/results/*"],
    "Project": ["CHANGELOG", "CONTRIBUTING", "data/README", "data/emoji/README"],
}


def pages(out: Path) -> dict[str, str]:
    """The start page's file and text; `out` is the book's folder, with what was run in it."""
    parts = [start_text()]
    for caption, names in CONTENTS.items():
        entries = "\n".join(names)
        parts.append(f"```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{entries}\n```")
    parts.append("## What the lessons found")
    for name in lessons():
        parts.append(finding(name, out))
    return {"index.md": "\n\n".join(parts) + "\n"}


def images(out: Path) -> dict[str, bytes]:
    """The last figure of each lesson, where its story ends."""
    figures = {}
    for name in lessons():
        figure, _ = last_figure(notebook_of(name, out))
        if figure:
            figures[f"{name}.png"] = figure
    return figures


def lessons() -> list[str]:
    return [name for name in course() if (ROOT / "notebooks" / f"{name}.ipynb").exists()]


def notebook_of(name: str, out: Path) -> nbformat.NotebookNode:
    """A lesson as it was run into `out`, or as it was committed."""
    executed = out / name / f"{name}.ipynb"
    committed = ROOT / "notebooks" / f"{name}.ipynb"
    return nbformat.read(executed if executed.exists() else committed, as_version=4)


def start_text() -> str:
    """The Markdown of the start notebook but for what needs more; its links go from here."""
    cells = nbformat.read(START, as_version=4).cells
    texts = [
        cell.source for cell in cells
        if cell.cell_type == "markdown" and not WITHOUT & set(cell.metadata.get("tags", []))
    ]  # fmt: skip
    return re.sub(r"\]\(([^):\s]+)\)", from_root, "\n\n".join(texts))


def from_root(link: re.Match) -> str:
    """A link of a file in notebooks/ as one of a file at the top."""
    return f"]({posixpath.normpath(posixpath.join('notebooks', link[1]))})"


def finding(name: str, out: Path) -> str:
    """A lesson's question, its last figure and its results."""
    path = ROOT / "notebooks" / f"{name}.ipynb"
    parts = [f"### [{title_of(path)}](notebooks/{name}.ipynb)"]
    figure, alt = last_figure(notebook_of(name, out))
    if figure:
        words = " ".join(alt.split())
        parts.append(f"```{{image}} {name}.png\n:class: finding\n:alt: {words}\n```")
    parts.append(course()[name]["question"])
    record = out / name / "run.json"
    if not record.exists():
        parts.append("*As it was committed: it was not run here.*")
        return "\n\n".join(parts)
    run = json.loads(record.read_text(encoding="utf-8"))
    parts.append(f"*{run['status']} in {clock(run['seconds'])}*")
    if run["metrics"]:
        rows = [f"| {key} | {as_text(value)} |" for key, value in run["metrics"].items()]
        parts.append("\n".join(["| result | value |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def as_text(value: object) -> str:
    """A result as the pages print it."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
