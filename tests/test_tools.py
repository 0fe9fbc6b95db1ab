"""docs/tools.md: every block of Python runs as it stands, where the package that it is about is."""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import editions
import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "tools.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
OPTIONAL = {"timm", "transformers", "datasets", "rsatoolbox"}


def packages_of(block):
    """The optional packages that a block imports."""
    return sorted(name for name in OPTIONAL if re.search(rf"(import|from) .*\b{name}\b", block))


def name_of(block):
    return "-".join(packages_of(block)) or re.findall(r"^(?:import|from) (\w+)", block, re.M)[-1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with two classes of images, where runs go as well."""
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(30):
            image = draw.integers(0, 256, (36, 40, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path


def run(block, folder):
    script = folder / "block.py"
    text = block.replace("path/to/images", "images")
    script.write_text(text, encoding="utf-8")
    return runpy.run_path(str(script), run_name="__main__")


def test_every_tool_has_a_block():
    assert {name for block in BLOCKS for name in packages_of(block)} == OPTIONAL


def slow_where_optional(block):
    """`make test-slow` installs the packages that some blocks are about."""
    marks = [pytest.mark.slow] if packages_of(block) else []
    return pytest.param(block, id=name_of(block), marks=marks)


@pytest.mark.parametrize("block", [slow_where_optional(block) for block in BLOCKS])
def test_the_lines_run(block, here, capsys):
    for name in packages_of(block):
        if not importlib.util.find_spec(name):
            pytest.skip(f"{name} is not installed")
    if "editions" in block:
        editions.write_editions(here / "editions")
    run(block, here)
    assert capsys.readouterr().out


# --------------------------------------------------------------------------------------- nbgrader


@pytest.fixture
def assignment(here):
    """The folder of the assignment that the page's lines make."""
    editions.write_editions(here / "editions")
    run(next(block for block in BLOCKS if "nbgrader" in block), here)
    return here / "course" / "source" / "exercises"


def test_nbgrader_finds_answers_and_checks_in_the_student_edition(assignment):
    handouts = sorted(assignment.glob("*.ipynb"))
    assert len(handouts) >= 7 and (assignment / "checks" / "judge.py").exists()
    for path in handouts:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        graded = [c.metadata["nbgrader"] for c in notebook.cells if "nbgrader" in c.metadata]
        points = [entry for entry in graded if entry["grade"]]
        answers = [entry for entry in graded if entry["solution"]]
        source = (ROOT / "notebooks" / "exercises" / path.name).read_text(encoding="utf-8")
        exercises = re.findall(r"· \d+ minutes\*", source)
        assert len(points) == len(exercises) and all(entry["points"] == 1 for entry in points)
        assert answers and len({entry["grade_id"] for entry in graded}) == len(graded)


def nbgrader_commands():
    """The words of the page's two commands."""
    lines = re.findall(r"^(nbgrader .*?)  ", TEXT, re.MULTILINE)
    assert [line.split()[1] for line in lines] == ["generate_assignment", "autograde"]
    return [line.split() for line in lines]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("nbgrader"), reason="nbgrader is not installed")
def test_nbgrader_gives_points_to_right_answers_alone(assignment):
    """A sheet is released, handed in blank and solved, and graded."""
    sheet = "03_collapse_lab.ipynb"
    for path in assignment.glob("*.ipynb"):
        if path.name != sheet:
            path.unlink()
    course = assignment.parents[1]
    generate, autograde = nbgrader_commands()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # nbgrader calls alembic
    options = {"cwd": course, "env": {**os.environ, "PATH": path}, "check": True}
    subprocess.run([sys.executable, "-m", *generate], **options)
    released = course / "release" / "exercises"
    sources = [cell.source for cell in nbformat.read(released / sheet, as_version=4).cells]
    assert any("def effective_rank(z):\n    ..." in source for source in sources), "what to fill in"

    solved = nbformat.read(course.parent / "editions" / "instructor" / sheet, as_version=4)
    answers = {c.id: c.source for c in solved.cells if "answer" in c.metadata.get("tags", [])}
    for student in ("blank", "solved"):
        shutil.copytree(released, course / "submitted" / student / "exercises")
    path = course / "submitted" / "solved" / "exercises" / sheet
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = answers.get(cell.id, cell.source)
    nbformat.write(notebook, path)
    subprocess.run([sys.executable, "-m", *autograde], **options)

    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        scores = {
            s.student.id: (s.score, s.max_score) for s in book.assignment_submissions("exercises")
        }
    assert scores == {"blank": (0, len(answers)), "solved": (len(answers), len(answers))}
