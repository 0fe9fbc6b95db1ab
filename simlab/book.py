"""The main job: run the course's notebooks and leave pages to look at.

    python -m simlab.book                 all notebooks in order, into runs/book/
    python -m simlab.book 01 02           those alone
    python -m simlab.book --refresh       execute the notebooks in place, as they are committed

Papermill runs each notebook; its outputs become a page with pictures and formulas inside, so that no
network is needed to read it, and an index.html shows all of them with their results.
"""

import argparse
import html
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import papermill
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter

from .runs import read_json, runs_folder, write_bytes

SOURCE = Path(__file__).parent.parent / "notebooks"
DURATIONS = SOURCE / "durations.json"  # seconds of each notebook alone, measured by --refresh
STYLE = """
:root { color-scheme: light dark; font: 17px/1.5 system-ui, sans-serif; }
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #8886; }
td { font-variant-numeric: tabular-nums; } small { opacity: .75; }
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m simlab.book", description=__doc__.split("\n")[0])
    parser.add_argument("numbers", nargs="*", help="first digits of the notebooks to run")
    parser.add_argument("--out", default="", help="where to; runs/book when not said")
    parser.add_argument("--refresh", action="store_true", help="execute them in place")
    options = parser.parse_args(arguments)
    notebooks = find_notebooks(options.numbers)
    if options.refresh:
        for notebook in notebooks:
            refresh(notebook)
        return 0
    return run_book(notebooks, Path(options.out) if options.out else runs_folder() / "book")


def find_notebooks(numbers: list[str]) -> list[Path]:
    """The course's notebooks in order, or those whose names begin with one of `numbers`."""
    found = sorted(SOURCE.glob("[0-9]*.ipynb"))
    if not found:
        raise SystemExit(f"no notebooks in {SOURCE}: run this in a checkout of simlab")
    chosen = [p for p in found if not numbers or p.name.startswith(tuple(numbers))]
    if not chosen:
        raise SystemExit(f"no notebook begins with {numbers}: {', '.join(p.stem for p in found)}")
    return chosen


def run_book(notebooks: list[Path], out: Path) -> int:
    """Execute, render and index; returns how many failed."""
    expected = read_json(DURATIONS) if DURATIONS.exists() else {}
    total = sum(expected.get(p.stem, 180) for p in notebooks)
    print(f"simlab runs {len(notebooks)} notebook(s) on the pictures that come along:")
    for path in notebooks:
        print(f"  {path.stem:<32} {title_of(path)}")
    print(f"About {max(1, round(total / 60))} minutes on two cores; what was trained before is reused.")
    print(f"Results go to {out}\n", flush=True)
    cards = []
    for path in notebooks:
        cards.append(run_notebook(path, out / path.stem))
        write_bytes(out / "index.html", index_page(cards).encode())
    print("\nResults")
    for card in cards:
        print(f"  {card['name']}: {card['status']} in {card['seconds']:.0f} s")
        for name, value in card["metrics"].items():
            print(f"      {name:<36} {value:.3f}" if isinstance(value, float) else
                  f"      {name:<36} {value}")  # fmt: skip
    print(f"\nLook at  {out / 'index.html'}")
    print("Next     make lab, and change a parameter")
    return sum(card["status"] != "done" for card in cards)


def run_notebook(path: Path, out: Path) -> dict:
    """One notebook through papermill into `out`: notebook, page, metrics.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").unlink(missing_ok=True)
    started, status = time.monotonic(), "done"
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
    write_bytes(out / f"{path.stem}.html", page_of(out / path.name).encode())
    metrics = out / "metrics.json"
    return {
        "name": path.stem,
        "title": title_of(path),
        "status": status,
        "seconds": time.monotonic() - started,
        "metrics": read_json(metrics) if metrics.exists() else {},
    }


def refresh(path: Path):
    """Execute a notebook in place and take out what differs from one run to the next."""
    started = time.monotonic()
    part = path.with_name(f".{path.name}")
    papermill.execute_notebook(str(path), str(part), cwd=str(path.parent), kernel_name="python3")
    notebook = nbformat.read(part, as_version=4)
    write_bytes(path, nbformat.writes(cleaned(notebook)).encode())
    part.unlink()
    durations = read_json(DURATIONS) if DURATIONS.exists() else {}
    durations[path.stem] = round(time.monotonic() - started)
    write_bytes(DURATIONS, (json.dumps(durations, indent=1, sort_keys=True) + "\n").encode())
    print(f"{path.name}: {durations[path.stem]} s")


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times, papermill's notes, widgets' states and progress bars."""
    keep = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}  # fmt: skip
    notebook.metadata = nbformat.from_dict(keep)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = lasting(cell.outputs)
    return notebook


def lasting(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Without progress bars; of what can be played with, its picture is left."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            data.pop("application/vnd.jupyter.widget-view+json", None)
    return [
        output for output in outputs if output.get("name") != "stderr"
        and "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
    ]  # fmt: skip


def title_of(path: Path) -> str:
    """The first heading of a notebook."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0][2:]
    return path.stem


def page_of(path: Path) -> str:
    """An executed notebook as one HTML page that needs no network: formulas become MathML."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
        else:
            cell.outputs = lasting(cell.outputs)
    exporter = HTMLExporter(
        embed_images=True, mathjax_url="", require_js_url="", jquery_url="", widget_renderer_url="",
        mermaid_js_url="", exclude_input_prompt=True, exclude_output_prompt=True,
    )  # fmt: skip
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    # what remains of the template's scripts loads a formula renderer that is not needed
    return re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)


def with_mathml(markdown: str) -> str:
    """Markdown with $...$ and $$...$$ turned into MathML, code spans and blocks left alone."""
    parts = re.split(r"(```.*?```|`[^`]*`)", markdown, flags=re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(
            r"\$\$(.+?)\$\$", lambda m: to_mathml(m[1].strip(), display="block"), parts[i],
            flags=re.DOTALL,
        )  # fmt: skip
        parts[i] = re.sub(r"\$([^$\n]+)\$", lambda m: to_mathml(m[1].strip()), parts[i])
    return "".join(parts)


def index_page(cards: list[dict]) -> str:
    """All notebooks with their results, as HTML."""
    body = ["<h1>simlab</h1><p>Self-supervised learning: run, looked at and taken apart.</p>"]
    for card in cards:
        name, title = html.escape(card["name"]), html.escape(card["title"])
        body.append(f'<h2><a href="{name}/{name}.html">{title}</a></h2>')
        status = html.escape(card["status"])
        body.append(f"<p><small>{status}, {card['seconds']:.0f} seconds · "
                    f'<a href="{name}/{name}.ipynb">notebook</a></small></p>')  # fmt: skip
        rows = "".join(
            f"<tr><td>{html.escape(key)}</td>"
            f"<td>{value:.3f}</td></tr>" if isinstance(value, float) else
            f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
            for key, value in card["metrics"].items()
        )  # fmt: skip
        body.append(f"<table>{rows}</table>" if rows else "")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>simlab</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<body>{''.join(body)}</body></html>"
    )


if __name__ == "__main__":
    sys.exit(main())
