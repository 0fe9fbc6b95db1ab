"""docs/tools.md: every block of Python runs as it stands, where the package that it is about is."""

import importlib.util
import re
import runpy
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


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_the_lines_run(block, here, capsys):
    for name in packages_of(block):
        if not importlib.util.find_spec(name):
            pytest.skip(f"{name} is not installed")
    if "editions" in block:
        editions.write_editions(here / "editions")
    run(block, here)
    assert capsys.readouterr().out


def test_nbgrader_finds_answers_and_checks_in_the_student_edition(here):
    editions.write_editions(here / "editions")
    run(next(block for block in BLOCKS if "nbgrader" in block), here)
    handouts = sorted((here / "editions" / "student").glob("*.ipynb"))
    assert len(handouts) >= 7
    for path in handouts:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        graded = [c.metadata["nbgrader"] for c in notebook.cells if "nbgrader" in c.metadata]
        points = [entry for entry in graded if entry["grade"]]
        answers = [entry for entry in graded if entry["solution"]]
        assert len(points) >= 3 and all(entry["points"] == 1 for entry in points)
        assert answers and len({entry["grade_id"] for entry in graded}) == len(graded)
