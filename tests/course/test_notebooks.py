"""What every committed notebook must be, before nbval runs it."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import explorers
import lessons
import nbformat
import pages
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
    known = papermill.inspect_notebook(str(path))
    assert list(known) == assigned
    for name, found in known.items():
        assert found["inferred_type_name"] in ("str", "int", "float", "bool"), name
        assert found["help"], f"{name} has no comment that explains it"


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


FIRST = next(c.source for c in code_cells(COURSE[0]) if "setup" in c.metadata.get("tags", []))
OUR_FIRST_CELL = "# Anywhere: find simlab around this notebook"


@pytest.mark.parametrize(
    "path", [START, *COURSE, *(ROOT / "notebooks/exercises").glob("*.ipynb")], ids=lambda p: p.stem
)
def test_the_first_cell_finds_simlab_anywhere(path):
    cells = [c for c in code_cells(path) if "parameters" not in c.metadata.get("tags", [])]
    assert cells[0].source == FIRST and FIRST.startswith(OUR_FIRST_CELL)


def run_first_cell(folder, monkeypatch, found, asked):
    """The first cell in `folder`, with packages `found`; returns the search path it leaves."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in found or None)
    monkeypatch.setattr(subprocess, "run", lambda words, check: asked.append(words))
    exec(FIRST, {})
    return list(sys.path)


NEEDS = {"torchvision", "pandas", "sklearn", "matplotlib", "ipywidgets", "filelock", "papermill",
         "psutil", "tqdm"}  # fmt: skip


def test_the_first_cell_installs_what_is_missing_and_is_harmless_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "simlab" / "simlab").mkdir(parents=True)
    (tmp_path / "simlab" / "simlab" / "__init__.py").touch()
    asked = []
    once = run_first_cell(tmp_path, monkeypatch, NEEDS - {"sklearn"}, asked)
    assert once[0] == str(tmp_path / "simlab"), "a clone beside the notebook is found"
    assert [words[-1] for words in asked] == ["scikit-learn"]
    assert run_first_cell(tmp_path, monkeypatch, NEEDS, asked) == once and len(asked) == 1


def test_the_first_cell_says_what_to_do_where_there_is_no_simlab(tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match="git clone"):
        run_first_cell(tmp_path, monkeypatch, NEEDS, [])


@every_lesson
def test_lesson_has_a_header_card_of_what_was_measured(path):
    cards = [
        (i, c) for i, c in enumerate(nbformat.read(path, as_version=4).cells)
        if "card" in c.metadata.get("tags", [])
    ]  # fmt: skip
    assert len(cards) == 1 and cards[0][0] == 1, "make it: python notebooks/book.py --cards"
    for row in ("Goals", "Before you start", "Your time", "Computing time", "Data", "Words"):
        assert f"**{row}**" in cards[0][1].source
    assert cards[0][1].source == pages.card_of(path), "python notebooks/book.py --cards"
    assert "not measured" not in cards[0][1].source


def test_readme_and_start_page_show_the_whole_course():
    for path in (ROOT / "README.md", START):
        for lesson in COURSE:
            assert lesson.name in path.read_text(encoding="utf-8"), f"{path.name}: {lesson.name}"
    assert {p.stem for p in COURSE} <= set(COURSES)


def test_the_lessons_show_every_widget():
    shown = {name for path in COURSE for name in lessons.widgets_of(path)}
    assert shown == set(explorers.NAMES) - {"live_curves"}, "which has no control"
