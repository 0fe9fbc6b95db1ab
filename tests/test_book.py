"""The pages that `make run` leaves: whole, readable without a network, and honest about failures."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from simlab import book

CODE = "import os, json\nfrom pathlib import Path\n"
WRITE = "Path(os.environ['SIMLAB_OUT'], 'metrics.json').write_text(json.dumps({'found': 0.5, 'n': 3}))"


@pytest.fixture
def lesson(tmp_path):
    cells = [
        new_markdown_cell("# A lesson\n\nLet $a < b$ and\n\n$$\\frac{a}{b}$$\n\nbut `$x$` is code."),
        new_code_cell(CODE + WRITE + "\nprint('seen')"),
    ]
    path = tmp_path / "01_lesson.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.mark.notebook
def test_a_notebook_becomes_a_page_and_a_card_with_its_metrics(lesson, tmp_path, capsys):
    assert book.run_book([lesson], tmp_path / "out") == 0
    page = (tmp_path / "out/01_lesson/01_lesson.html").read_text()
    assert "seen" in page and "<math" in page and "<mfrac" in page
    index = (tmp_path / "out/index.html").read_text()
    assert "A lesson" in index and "0.500" in index and "01_lesson/01_lesson.html" in index
    told = capsys.readouterr().out
    assert "minutes" in told and str(tmp_path / "out" / "index.html") in told


@pytest.mark.notebook
def test_a_failing_notebook_is_reported_and_its_page_shows_the_error(lesson, tmp_path):
    notebook = nbformat.read(lesson, as_version=4)
    notebook.cells.append(new_code_cell("1 / 0"))
    nbformat.write(notebook, lesson)
    assert book.run_book([lesson], tmp_path / "out") == 1
    assert "ZeroDivisionError" in (tmp_path / "out/01_lesson/01_lesson.html").read_text()
    assert "failed" in (tmp_path / "out/index.html").read_text()


def test_a_page_needs_no_network(lesson):
    page = book.page_of(lesson)
    assert not re.findall(r"""(?:src|href)=["']https?://""", page)
    assert not re.findall(r"@import|url\(['\"]?https?://", page)
    assert "<script" not in page


def test_formulas_become_mathml_and_code_stays():
    out = book.with_mathml("$x^2$ `$y$`\n```\n$z$\n```\ncosts 5 $ only")
    assert "<math" in out and "`$y$`" in out and "$z$" in out and "5 $ only" in out


def test_cleaning_takes_out_times_widgets_and_progress():
    cell = new_code_cell("x", metadata={"tags": ["parameters"], "papermill": {"duration": 3}})
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="10%"),
        nbformat.v4.new_output("stream", name="stdout", text="kept"),
    ]
    clean = book.cleaned(new_notebook(cells=[cell], metadata={"papermill": {}, "widgets": {}}))
    assert set(clean.metadata) == {"kernelspec", "language_info"}
    assert clean.cells[0].metadata == {"tags": ["parameters"]}
    assert [o.text for o in clean.cells[0].outputs] == ["kept"]


def test_an_unknown_number_is_refused_with_what_there_is():
    with pytest.raises(SystemExit, match="01_pretraining"):
        book.find_notebooks(["99"])
