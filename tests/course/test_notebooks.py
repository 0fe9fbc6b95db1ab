"""What every committed notebook must be, before nbval runs it."""

import ast
import json
import re
from pathlib import Path

import cards
import explorers
import lessons
import nbformat
import papermill
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(p for p in (ROOT / "notebooks").rglob("*.ipynb") if "/." not in str(p))
START = ROOT / "notebooks" / "00_start_here.ipynb"
COURSE = [path for path in NOTEBOOKS if path.parent.name == "notebooks" and path != START]
COURSES = json.loads((ROOT / "notebooks" / "course.json").read_text(encoding="utf-8"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
every_lesson = pytest.mark.parametrize("path", COURSE, ids=lambda p: p.stem)


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert COURSE


@every_notebook
def test_notebook_is_valid_and_was_executed_in_order(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "execute it: make notebooks"


@every_notebook
def test_no_cell_ended_in_an_error(path):
    for cell in code_cells(path):
        assert not [o for o in cell.outputs if o.output_type == "error"]


@every_lesson
def test_papermill_reads_every_parameter_of_the_one_parameters_cell(path):
    tagged = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assigned = [
        node.target.id
        for node in ast.parse(tagged[0].source).body
        if isinstance(node, ast.AnnAssign)
    ]
    lines = [line for line in tagged[0].source.splitlines() if line.strip()]
    assert len(assigned) == len(lines), "one annotated assignment a line"
    parameters = papermill.inspect_notebook(str(path))
    assert list(parameters) == assigned
    for name, description in parameters.items():
        assert description["inferred_type_name"] in ("str", "int", "float", "bool"), name
        assert description["help"], f"{name} has no comment that explains it"


@every_notebook
def test_no_timing_metadata_and_no_machine_paths(path):
    notebook = nbformat.read(path, as_version=4)
    assert "papermill" not in notebook.metadata and "widgets" not in notebook.metadata
    for cell in notebook.cells:
        assert not {"papermill", "execution"} & set(cell.metadata)
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += [output.get("text", ""), *output.get("traceback", [])]
            texts += [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
        assert not re.search(r"/(home|root|tmp|work|Users)/\w", "\n".join(texts))


@every_lesson
def test_every_figure_has_a_text_alternative(path):
    figures = 0
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                figures += 1
                assert len(output.metadata["image/png"]["alt"]) > 40
    assert figures >= 3


@every_lesson
def test_lesson_asserts_what_was_learned_and_saves_its_metrics(path):
    source = "\n".join(cell.source for cell in code_cells(path))
    assert "assert " in source and f'save_metrics("{path.stem}"' in source


@every_lesson
def test_code_cells_are_short(path):
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= 40, cell.source[:60]


@every_lesson
def test_lesson_has_a_header_card_of_what_was_measured(path):
    tagged = [
        (i, c) for i, c in enumerate(nbformat.read(path, as_version=4).cells)
        if "card" in c.metadata.get("tags", [])
    ]  # fmt: skip
    assert len(tagged) == 1 and tagged[0][0] == 1, "make it: python notebooks/book.py --cards"
    for row in ("Goals", "Before you start", "Your time", "Computing time", "Data", "Words"):
        assert f"**{row}**" in tagged[0][1].source
    assert tagged[0][1].source == cards.card_of(path), "python notebooks/book.py --cards"
    assert "not measured" not in tagged[0][1].source


def test_readme_and_start_page_show_the_whole_course():
    for path in (ROOT / "README.md", START):
        for lesson in COURSE:
            assert lesson.name in path.read_text(encoding="utf-8"), f"{path.name}: {lesson.name}"
    assert {p.stem for p in COURSE} <= set(COURSES)


def test_the_lessons_show_every_widget():
    widgets = {name for path in COURSE for name in lessons.widgets_of(path)}
    assert widgets == set(explorers.NAMES) - {"live_curves"}, "which has no control"
