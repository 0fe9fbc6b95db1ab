"""The lessons' header cards and the course's table: of course.json and of what was measured."""

import json
import math
import re
from pathlib import Path

import nbformat

from simlab.runs import write_bytes

SOURCE = Path(__file__).parent
# measured by `book.py --refresh` on an empty runs folder: seconds, memory in GB, and the seconds
# of each run within
DURATIONS = SOURCE / "durations.json"


def write_cards(notebooks: list[Path]):
    """Write the header cards anew, and the course's table in the README and on the start page."""
    for notebook in notebooks:
        write_card(notebook)
    write_tables()


def write_card(path: Path):
    """Put the header card below a notebook's title."""
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if "card" not in c.metadata.get("tags", [])]
    card = nbformat.v4.new_markdown_cell(card_of(path), metadata={"tags": ["card"]})
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
    return re.sub(mark, lambda m: m[1] + course_table(folder) + m[2], text, flags=re.DOTALL)


# --------------------------------------------------------------------------------- what they say


def course() -> dict[str, dict]:
    """What the notebooks are for: question, goals, before, data of each, by name."""
    return json.loads((SOURCE / "course.json").read_text(encoding="utf-8"))


def card_of(path: Path) -> str:
    """The header card of a notebook, in Markdown."""
    about = course()[path.stem]
    memory = durations().get(path.stem, {}).get("memory", 0)
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


def work_of(exercises: Path) -> str:
    """How many exercises there are, and for how long."""
    number = len(re.findall(r"· \d+ minutes\*", exercises.read_text(encoding="utf-8")))
    return f"{number}, {exercise_minutes(exercises)} minutes"


# ------------------------------------------------------------------------------- a person's time


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


# ----------------------------------------------------------------------------------- measured times


def durations() -> dict[str, dict]:
    """Of each notebook: seconds on an empty runs folder, memory in GB, seconds of each run."""
    return json.loads(DURATIONS.read_text(encoding="utf-8")) if DURATIONS.exists() else {}


def time_of(name: str) -> str:
    """How long a notebook takes alone, and after those before it where that is less."""
    measured = durations()
    if name not in measured:
        return "not measured yet"
    names_until = [other for other in measured if other <= name]
    alone = minutes(seconds_in_turn([name])[0])
    after = minutes(seconds_in_turn(names_until)[-1])
    return alone if after == alone else f"{alone}, {after} after those before it"


def seconds_in_turn(names: list[str], unknown: float = 180) -> list[float]:
    """What each of some notebooks took where runs of those before it are reused."""
    measured = durations()
    seconds = []
    trained = set()
    for name in names:
        measurement = measured.get(name, {})
        runs = measurement.get("runs", {})
        reused = sum(runs[run] for run in runs if run in trained)
        seconds.append(measurement.get("alone", unknown) - reused)
        trained.update(runs)
    return seconds


def minutes(seconds: float) -> str:
    return f"{max(1, math.ceil(seconds / 60))} min"
