"""What of an executed notebook is kept, and what is read from it."""

import base64
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"
# where a run was found or what it is like: other folders and names on every machine
NOTES = re.compile(r"^(loads /|new run (pretrain|supervised)-).*\n?", re.MULTILINE)
KEPT = ("jupyter", "tags")  # of a cell's metadata; "jupyter" says that the first cell is folded


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Without times, papermill's notes, widgets' states and progress bars."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook.metadata = nbformat.from_dict(metadata)
    for cell in notebook.cells:
        metadata_kept = {key: cell.metadata[key] for key in KEPT if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(metadata_kept)
        if cell.cell_type == "code":
            cell.outputs = lasting(cell.outputs)
    return notebook


def lasting(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Without progress bars and notes on stored runs; of what can be played with, its image."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            data.pop(WIDGET, None)
    outputs = [
        output for output in outputs
        if output.get("name") != "stderr" and WIDGET not in output.get("data", {})
    ]  # fmt: skip
    for output in outputs:
        if output.output_type == "stream":
            output.text = NOTES.sub("", output.text)
    return [output for output in outputs if output.get("text") != ""]


def title_of(path: Path) -> str:
    """The first heading of a notebook."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0][2:]
    return path.stem


def headings_of(notebook: NotebookNode) -> list[str]:
    """For each cell, the last heading above it."""
    headings = []
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            lines = [line for line in cell.source.splitlines() if line.startswith("#")]
            if lines:
                heading = lines[-1].lstrip("# ")
        headings.append(heading)
    return headings


def last_figure(notebook: NotebookNode) -> tuple[bytes, str]:
    """The last figure that a notebook drew, where its story ends: PNG and text; empty if none."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    if not figures:
        return b"", ""
    alt = figures[-1].metadata.get("image/png", {}).get("alt", "")
    return base64.b64decode(figures[-1].data["image/png"]), alt
