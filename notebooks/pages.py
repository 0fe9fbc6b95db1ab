"""The course as a site: executed notebooks, exercises and texts as pages that need no network."""

import base64
import html
import json
import math
import os
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from simlab.runs import write_bytes

SOURCE = Path(__file__).parent
TEXTS = ("glossary", "teaching", "settings", "command_line")
DOCS = {name: SOURCE.parent / "docs" / f"{name}.md" for name in TEXTS}
STYLE = """
:root { color-scheme: light dark; font: 17px/1.5 system-ui, sans-serif; }
body { max-width: 56rem; margin: 0 auto; padding: 0 1rem 3rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #8886; }
td { font-variant-numeric: tabular-nums; vertical-align: top; } small { opacity: .75; }
article { border-top: 1px solid #8886; padding: 1rem 0; overflow: auto; }
article img { float: right; width: 19rem; max-width: 45%; margin: 0 0 1rem 1rem;
    background: white; }
details { margin: .3rem 0; } a.anchor-link { display: none; }
"""
NAV = """nav.course { font: 16px/1.5 system-ui, sans-serif;
padding: .6rem 1rem; margin-bottom: 1rem;
border-bottom: 1px solid #8886; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }"""


def write_site(cards: list[dict], out: Path):
    """Every page of the course under `out`; `cards` are what book.run_notebook returned."""
    places = site_of(cards)
    for card in cards:
        name, source = card["name"], card["source"]
        executed = out / name / f"{name}.ipynb"
        figure, card["alt"] = last_figure(executed)
        if figure:
            write_bytes(out / name / "figure.png", figure)
        write_bytes(out / places[source], page_of(executed, source, places).encode())
        exercises = SOURCE / "exercises" / source.name
        if exercises in places:
            write_bytes(out / places[exercises], page_of(exercises, exercises, places).encode())
    for path in DOCS.values():
        if path in places:
            body = markdown_page(path.read_text(encoding="utf-8"), path, places)
            write_bytes(out / places[path], body.encode())
    write_bytes(out / "index.html", index_page(cards, places, out).encode())


def site_of(cards: list[dict]) -> dict[Path, str]:
    """Where each source file's page is in the site."""
    places = {SOURCE / "00_start_here.ipynb": "index.html"}
    for card in cards:
        places[card["source"]] = f"{card['name']}/{card['name']}.html"
        exercises = SOURCE / "exercises" / card["source"].name
        if exercises.exists():
            places[exercises] = f"{card['name']}/exercises.html"
    return places | {path: f"{name}.html" for name, path in DOCS.items() if path.exists()}


# ----------------------------------------------------------------------------------------- one page


def page_of(path: Path, source: Path | None = None, places: dict[Path, str] | None = None) -> str:
    """A notebook as one HTML page that needs no network: formulas become MathML.

    `source` is the file as it stands in the course, from which its links go; `places` the site's.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(with_links(cell.source, source or path, places or {}))
        else:
            cell.outputs = lasting(cell.outputs)
    # embed_images stays off: it closes every HTML tag within a text at once, those of formulas
    # and details as well;
    # figures are outputs, which are inside the page anyway
    exporter = HTMLExporter(
        mathjax_url="", require_js_url="", jquery_url="", widget_renderer_url="",
        mermaid_js_url="", exclude_input_prompt=True, exclude_output_prompt=True,
    )  # fmt: skip
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title_of(path)}})
    # what remains of the template's scripts loads a formula renderer that is not needed
    page = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    bar = navigation(source, places) if source and places else ""
    # nbconvert leaves out the figures' text alternatives
    alts = iter([o.metadata["image/png"]["alt"] for o in figures(notebook)
                 if "alt" in o.metadata.get("image/png", {})])  # fmt: skip
    page = re.sub(
        r'alt="No description[^"]*"', lambda m: f'alt="{html.escape(next(alts, ""))}"', page
    )
    page = page.replace("</head>", f"<style>{dark_theme(exporter)}</style></head>", 1)
    return re.sub(r"(<body[^>]*>)", lambda m: m[1] + bar, page, count=1)


def dark_theme(exporter: HTMLExporter) -> str:
    """Jupyter's dark colours, for readers whose system is dark."""
    folder = next(p for p in map(Path, exporter.template_paths) if (p / "static").is_dir())
    theme = (folder / "static" / "theme-dark.css").read_text(encoding="utf-8")
    return f"@media (prefers-color-scheme: dark) {{ {theme} img {{ background: white; }} }}"


def markdown_page(text: str, source: Path, places: dict[Path, str]) -> str:
    body = markdown2html(with_mathml(with_links(text, source, places)))
    title = re.search(r"^# (.*)", text, re.MULTILINE)
    return whole_page(title[1] if title else source.stem, navigation(source, places) + body)


def whole_page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{NAV}</style>'
        f"<body>{body}</body></html>"
    )


def navigation(source: Path, places: dict[Path, str]) -> str:
    """A bar of links: the course, the notebook before and the one after, exercises, the texts."""
    lessons = [p for p in places if p.parent == SOURCE and p.stem[:2] != "00"] or [source]
    links = [("Course", "index.html")]
    lesson = SOURCE / source.name
    if lesson in lessons:
        at = lessons.index(lesson)
        if at > 0:
            links.append((f"← {short(lessons[at - 1])}", places[lessons[at - 1]]))
        if source != lesson:
            links.append((short(lesson), places[lesson]))
        elif SOURCE / "exercises" / source.name in places:
            links.append(("Exercises", places[SOURCE / "exercises" / source.name]))
        if at + 1 < len(lessons):
            links.append((f"{short(lessons[at + 1])} →", places[lessons[at + 1]]))
    for name, path in DOCS.items():
        if path in places:
            links.append((name.capitalize().replace("_", " "), places[path]))
    folder = os.path.dirname(places.get(source, "index.html"))
    anchors = " ".join(
        f'<a href="{os.path.relpath(target, folder or ".")}">{html.escape(text)}</a>'
        for text, target in links
    )
    return f'<style>{NAV}</style><nav class="course">{anchors}</nav>'


def with_links(markdown: str, source: Path, places: dict[Path, str]) -> str:
    """Relative links of a source file turned into those of its page in the site."""
    folder = os.path.dirname(places.get(source, ""))

    def moved(match: re.Match) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        place = places.get(Path(os.path.normpath(source.parent / target)))
        if place is None:  # a file that is no page: only its name stays
            return match[1]
        end = f"#{anchor}" if anchor else ""
        return f"[{match[1]}]({os.path.relpath(place, folder or '.')}{end})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", moved, markdown)


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


def lasting(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Without progress bars; of what can be played with, its image is left."""
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


def short(path: Path) -> str:
    """01_linear_probe.ipynb -> 01 linear probe"""
    return path.stem.replace("_", " ")


def figures(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs that hold a PNG, in their order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in outputs if "image/png" in output.get("data", {})]


def last_figure(path: Path) -> tuple[bytes, str]:
    """The last figure that a notebook drew, where its story ends: PNG and text; empty if none."""
    outputs = figures(nbformat.read(path, as_version=4))
    if not outputs:
        return b"", ""
    alt = outputs[-1].metadata.get("image/png", {}).get("alt", "")
    return base64.b64decode(outputs[-1].data["image/png"]), alt


# ------------------------------------------------------------------------ cards, tables, index


def as_text(value) -> str:
    """A result as the pages print it."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def course() -> dict[str, dict]:
    """What the notebooks are for: question, goals, before, data of each, by name."""
    return json.loads((SOURCE / "course.json").read_text(encoding="utf-8"))


def measured(name: str) -> tuple[float, float, float]:
    """Seconds alone, seconds after the notebooks before it, and memory in GB; 0: not measured."""
    path = SOURCE / "durations.json"
    durations = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    runs_before = set()
    for other, measurement in durations.items():
        if other < name:
            runs_before.update(measurement.get("runs", {}))
    measurement = durations.get(name, {})
    alone = measurement.get("alone", 0)
    runs = measurement.get("runs", {})
    shared = sum(seconds for run, seconds in runs.items() if run in runs_before)
    return alone, alone - shared, measurement.get("memory", 0)


def minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"


def time_of(name: str) -> str:
    alone, after, _ = measured(name)
    if not alone:
        return "not measured yet"
    shorter = (
        f", {minutes(after)} after those before it" if minutes(after) != minutes(alone) else ""
    )
    return minutes(alone) + shorter


def card_of(path: Path) -> str:
    """The header card of a notebook, in Markdown."""
    about, memory = course()[path.stem], measured(path.stem)[2]
    rows = {
        "Goals": about["goals"],
        "Before you start": about["before"],
        "Your time": your_time(path),
        "Computing time": f"{time_of(path.stem)} (measured on two CPU cores)",
        "Memory": f"{memory} GB" if memory else "",
        "Data": about["data"],
    }
    exercises = SOURCE / "exercises" / path.name
    if exercises.exists():
        rows["Exercises"] = f"[{work_of(exercises)}](exercises/{path.name})"
    rows["Words"] = "[Glossary and notation](../docs/glossary.md)"
    return "| | |\n|---|---|\n" + "\n".join(f"| **{k}** | {v} |" for k, v in rows.items() if v)


def your_time(path: Path) -> str:
    """How long a person needs: to read and try the notebook, and for its exercises."""
    text = f"about {reading_minutes(path)} minutes to read and try"
    exercises = SOURCE / "exercises" / path.name
    if not exercises.exists():
        return text
    return f"{text}, {exercise_minutes(exercises)} minutes of exercises"


def reading_minutes(path: Path) -> int:
    """An estimate: 150 words a minute and a minute for a cell of code, in steps of five."""
    cells = nbformat.read(path, as_version=4).cells
    texts = [c.source for c in cells if c.cell_type == "markdown" and "card" not in tags_of(c)]
    words = sum(len(text.split()) for text in texts)
    code = [c for c in cells if c.cell_type == "code" and not {"setup", "parameters"} & tags_of(c)]
    return 5 * math.ceil((words / 150 + len(code)) / 5)


def tags_of(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def exercise_minutes(exercises: Path) -> int:
    """The minutes that all exercises of a notebook state."""
    text = exercises.read_text(encoding="utf-8")
    return sum(int(digits) for digits in re.findall(r"· (\d+) minutes\*", text))


def work_of(exercises: Path) -> str:
    """How many exercises there are, and for how long."""
    number = len(re.findall(r"· \d+ minutes\*", exercises.read_text(encoding="utf-8")))
    return f"{number}, {exercise_minutes(exercises)} minutes"


def course_table(folder: str) -> str:
    """The notebooks as a Markdown table; `folder` stands before their names in links."""
    rows = ["| notebook | question | to read | to compute | exercises |", "|---|---|---|---|---|"]
    for name, about in course().items():
        path = SOURCE / f"{name}.ipynb"
        if path.exists():
            exercises = SOURCE / "exercises" / path.name
            work = ""
            if exercises.exists():
                work = f"[{work_of(exercises)}]({folder}exercises/{path.name})"
            link = f"[{about['title']}]({folder}{path.name})"
            times = f"{reading_minutes(path)} min | {time_of(name)}"
            rows.append(f"| {link} | {about['question']} | {times} | {work} |")
    return "\n" + "\n".join(rows) + "\n\n"  # apart from the marks around it


def index_page(cards: list[dict], places: dict[Path, str], out: Path) -> str:
    """The start page, and all notebooks with a figure, their goals and their results."""
    start = SOURCE / "00_start_here.ipynb"
    cells = [c for c in nbformat.read(start, as_version=4).cells if c.cell_type == "markdown"]
    texts = [c.source for c in cells if "live" not in c.metadata.get("tags", [])]
    body = [markdown2html(with_mathml(with_links(text, start, places))) for text in texts]
    body.append("<h2>What this run found</h2>")
    for card in cards:
        name, about = card["name"], course().get(card["name"], {})
        links = [f'<a href="{name}/{name}.ipynb">notebook</a>']
        exercises = SOURCE / "exercises" / f"{name}.ipynb"
        if exercises in places:
            links.append(f'<a href="{places[exercises]}">exercises</a>')
        rows = "".join(
            f"<tr><td>{html.escape(key)}</td><td>{html.escape(as_text(value))}</td></tr>"
            for key, value in card["metrics"].items()
        )
        figure = ""
        if (out / name / "figure.png").exists():
            figure = f'<img src="{name}/figure.png" alt="{html.escape(card["alt"])}">'
        body.append(
            f'<article>{figure}<h3><a href="{name}/{name}.html">'
            f"{html.escape(title_of(card['source']))}</a></h3>"
            f"<p>{html.escape(about.get('question', ''))}</p><p><small>"
            f"{html.escape(card['status'])}, {card['seconds']:.0f} seconds · {' · '.join(links)}"
            f"</small></p><details open><summary>Results</summary><table>{rows}</table></details>"
            "</article>"
        )
    return whole_page("simlab", navigation(start, places) + "".join(body))
