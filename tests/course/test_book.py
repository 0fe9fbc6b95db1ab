"""The pages that `make run` leaves: whole, readable without a network, and honest about failures."""

import json
import re
import subprocess
import sys
from pathlib import Path

import book
import nbformat
import pages
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

CODE = "import os, json\nfrom pathlib import Path\n"
WRITE = (
    "Path(os.environ['SIMLAB_OUT'], 'metrics.json').write_text(json.dumps({'found': 0.5, 'n': 3}))"
)


@pytest.fixture
def lesson(tmp_path):
    cells = [
        new_markdown_cell(
            "# A lesson\n\nLet $a < b$ and\n\n$$\\frac{a}{b}$$\n\nbut `$x$` is code."
        ),
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
    page = pages.page_of(lesson)
    assert not re.findall(r"""(?:src|href)=["']https?://""", page)
    assert not re.findall(r"@import|url\(['\"]?https?://", page)
    assert "<script" not in page


def test_formulas_become_mathml_and_code_stays():
    out = pages.with_mathml("$x^2$ `$y$`\n```\n$z$\n```\ncosts 5 $ only")
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
    assert [p.stem[:2] for p in book.find_notebooks([])] == [
        "01",
        "02",
        "03",
        "03",
        "04",
        "05",
        "06",
    ]
    assert [p.stem for p in book.find_notebooks(["00"])] == ["00_start_here"]


def test_links_between_sources_lead_to_the_pages_of_the_site(tmp_path):
    lesson = NOTEBOOKS / "01_pretraining.ipynb"
    places = pages.site_of([{"name": lesson.stem, "source": lesson}])
    out = pages.with_links("[g](../docs/glossary.md#words) [e](exercises/01_pretraining.ipynb) "
                           "[code](../simlab/train.py) [w](https://a.org)", lesson, places)  # fmt: skip
    assert out == "[g](../glossary.html#words) [e](exercises.html) code [w](https://a.org)"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of the committed notebooks, as if they had just been run."""
    out = tmp_path_factory.mktemp("site")
    cards = []
    for path in book.find_notebooks([]):
        (out / path.stem).mkdir()
        (out / path.stem / path.name).write_bytes(path.read_bytes())
        cards.append({"name": path.stem, "source": path, "status": "done", "seconds": 1.0,
                      "metrics": {"found": 0.5}})  # fmt: skip
    pages.write_site(cards, out)
    return out


def test_every_link_of_the_site_leads_to_a_page_and_none_to_the_network(site):
    found = list(site.rglob("*.html"))
    assert len(found) >= 2 * len(book.find_notebooks([])) + 4
    for page in found:
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text
        alts = re.findall(r"<img[^>]*?alt=\"([^\"]*)\"", text)
        assert len(alts) == text.count("<img") and all(len(alt) > 40 for alt in alts)
        assert "No description" not in text, "nbconvert's words where it finds no text alternative"
        assert not re.findall(r"""(?:src)=["']https?://""", text)
        for target in re.findall(r"""(?:href|src)=["']([^"'#]+?)(?:#[^"']*)?["']""", text):
            if not re.match(r"(https?|data|mailto):", target):
                assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_the_site_shows_exercises_with_folded_solutions_figures_and_words(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "figure.png" in index and "Which path is yours" in index and "<table" in index
    exercises = (site / "01_pretraining/exercises.html").read_text(encoding="utf-8")
    assert exercises.count("<summary>Solution</summary>") == 4 and "<math" in exercises
    # tags hold what they are about: a fold folds, a fraction has its numbers
    assert re.search(r"<details><summary>Hint 1</summary>\s*<p>.*?</details>", exercises, re.S)
    assert re.search(r"<mfrac>.*?<mn>1</mn>.*?<mn>2</mn>.*?</mfrac>", exercises)
    assert not re.search(r"<details><summary>[^<]*</summary>\s*</details>", exercises)
    assert "Stop-gradient" in (site / "glossary.html").read_text(encoding="utf-8")
    for page in site.rglob("*.html"):
        assert 'class="course"' in page.read_text(encoding="utf-8"), f"{page} has no navigation"


def test_time_after_the_others_leaves_out_what_they_have_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "SOURCE", tmp_path)
    (tmp_path / "durations.json").write_text(
        '{"01_a": {"alone": 100, "runs": {"x": 90}},'
        ' "02_b": {"alone": 300, "memory": 1.5, "runs": {"x": 90, "y": 100}}}'
    )
    assert pages.measured("01_a") == (100, 100, 0)
    assert pages.measured("02_b") == (300, 210, 1.5)
    assert pages.time_of("02_b") == "5 min, 4 min after those before it"


def test_the_most_memory_of_a_child_is_measured():
    code = "import time; x = bytearray(200_000_000); time.sleep(1.5)"
    with book.PeakMemory() as memory:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert 200e6 < memory.peak < 600e6


def test_runs_are_told_apart_by_what_they_train_and_not_by_the_codes_digest(tmp_path):
    for name, code, epochs in (("a", "1", 5), ("b", "2", 5), ("c", "1", 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"code": code, "epochs": epochs}))
        (tmp_path / name / "metrics.json").write_text('{"seconds": 7}')
    assert sorted(book.trained(tmp_path).values()) == [7, 7]
