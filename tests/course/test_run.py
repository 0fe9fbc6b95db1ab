"""`make run`: quiet, honest about failures and about the time that is left."""

import io
import json
import subprocess
import sys

import book
import build_book
import cards
import nbformat
import progress
import pytest
from executed import cleaned, headings_of
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from progress import Progress

CODE = "import os, json\nfrom pathlib import Path\n"
WRITE = (
    "Path(os.environ['SIMLAB_OUT'], 'metrics.json').write_text(json.dumps({'found': 0.5, 'n': 3}))"
)


@pytest.fixture
def lesson(tmp_path):
    cells = [new_markdown_cell("# A lesson"), new_code_cell(CODE + WRITE + "\nprint('seen')")]
    path = tmp_path / "01_lesson.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.mark.notebook
def test_a_run_says_a_line_for_each_lesson_and_nothing_of_the_libraries(
    lesson, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(build_book, "build", lambda out: "")  # what it builds, test_book sees
    out = tmp_path / "out"
    failing = lesson.with_name("02_failing.ipynb")
    notebook = nbformat.read(lesson, as_version=4)
    notebook.cells.append(new_code_cell("1 / 0"))
    nbformat.write(notebook, failing)

    assert book.run_book([lesson, failing], out) == 1, "how many failed"
    output, errors = capfd.readouterr()
    lines = [line for line in output.splitlines() if " in 0:" in line]
    assert len(lines) == 2 and "\r" not in output
    assert lines[0].startswith("01_lesson") and "done" in lines[0] and "left" in lines[0]
    assert "failed: ZeroDivisionError" in lines[1] and "left" not in lines[1]
    assert "WARNING" not in errors and "Warning" not in errors
    results = output[output.index("Results") :]
    assert "found" in results and "0.500" in results and str(out / "index.html") in results
    executed = nbformat.read(out / "01_lesson/01_lesson.ipynb", as_version=4)
    assert executed.cells[1].outputs[0].text == "seen\n"
    assert "ZeroDivisionError" in (out / "02_failing/02_failing.ipynb").read_text()
    assert json.loads((out / "01_lesson/run.json").read_text())["metrics"]["n"] == 3


@pytest.mark.notebook
def test_a_lesson_without_failure_writes_nothing_to_stderr(lesson, tmp_path, capfd):
    book.run_notebook(lesson, tmp_path / "out", Progress(["01_lesson"], [1.0]))
    output, errors = capfd.readouterr()
    assert errors == "" and len(output.splitlines()) == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Stands in for the time module: seconds that the test sets."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_the_first_lesson_tells_how_much_slower_this_machine_is(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    stream = io.StringIO()
    display = Progress(["01_a", "02_b", "03_c"], [80.0, 120.0, 60.0], stream)
    display.start("01_a", cells=3)
    assert display.left() == 0, "nothing is known yet"
    clock.now = 240.0  # three times as long as measured
    assert display.finish("done") == 240.0
    assert display.left() == 3 * (120 + 60)
    display.start("02_b", cells=3)
    assert display.left(within=100.0) == 3 * (120 + 60) - 100
    assert display.left(within=1000.0) == 3 * 60, "a lesson that takes longer takes from no other"
    clock.now += 360
    display.finish("failed: ValueError")
    display.start("03_c", cells=3)
    clock.now += 180
    display.finish("done")
    assert stream.getvalue().splitlines() == [
        "01_a  done in 4:00, about 9 minutes left",
        "02_b  failed: ValueError in 6:00, about 3 minutes left",
        "03_c  done in 3:00",
    ]


def test_in_a_terminal_one_line_follows_the_cells_by_their_headings(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    display = Progress(["01_a"], [80.0], stream)
    display.start("01_a", cells=12)
    display.cell(2, "The loss")
    display.cell(7, "A heading that is much too long for a terminal of sixty columns")
    display.finish("done")
    states = stream.getvalue().split("\r\x1b[K")
    assert states[1].startswith("01_a  3/12  0:00") and states[1].endswith("The loss")
    assert len(states[2]) == 59 and "\n" not in "".join(states[:-1])
    assert states[-1] == "01_a  done in 0:00\n"


def test_an_unknown_number_is_refused_with_what_there_is():
    with pytest.raises(SystemExit, match="01_pretraining"):
        book.find_notebooks(["99"])
    numbers = [path.stem[:2] for path in book.find_notebooks([])]
    assert numbers == ["01", "02", "03", "03", "04", "05", "06", "07", "07"]
    assert [p.stem for p in book.find_notebooks(["00"])] == ["00_start_here"]


def test_time_after_the_others_leaves_out_what_they_have_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "DURATIONS", tmp_path / "durations.json")
    (tmp_path / "durations.json").write_text(
        '{"01_a": {"alone": 100, "runs": {"x": 90}},'
        ' "02_b": {"alone": 300, "memory": 1.5, "runs": {"x": 90, "y": 100}}}'
    )
    assert cards.seconds_in_turn(["01_a", "02_b"]) == [100, 210]
    assert cards.seconds_in_turn(["02_b", "03_new"]) == [300, 180], "its runs are trained then"
    assert cards.time_of("02_b") == "5 min, 4 min after those before it"
    assert cards.time_of("03_new") == "not measured yet"


@pytest.mark.long
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


# ----------------------------------------------------------------------- what of a notebook is shown


def test_cleaning_takes_out_times_widgets_and_progress():
    cell = new_code_cell("x", metadata={"tags": ["parameters"], "papermill": {"duration": 3}})
    cell.outputs = [
        new_output("stream", name="stderr", text="10%"),
        new_output("stream", name="stdout", text="loads /runs/pretrain-1, trained then\n"),
        new_output("stream", name="stdout", text="new run pretrain-2, like pretrain-1\nkept"),
    ]
    folded = {"tags": ["setup"], "jupyter": {"source_hidden": True}}
    cells = [cell, new_code_cell("y", metadata=folded)]
    clean = cleaned(new_notebook(cells=cells, metadata={"papermill": {}, "widgets": {}}))
    assert set(clean.metadata) == {"kernelspec", "language_info"}
    assert clean.cells[0].metadata == {"tags": ["parameters"]}
    assert clean.cells[1].metadata == folded
    assert [o.text for o in clean.cells[0].outputs] == ["kept"]


def test_each_cell_is_named_by_the_heading_above_it():
    cells = [new_markdown_cell("# One"), new_code_cell("x"), new_markdown_cell("text"),
             new_markdown_cell("words\n\n## Two"), new_code_cell("y")]  # fmt: skip
    assert headings_of(new_notebook(cells=cells)) == ["One", "One", "One", "Two", "Two"]
