"""Sweeps: what is refused, what is run, what survives, and the table that comes out.

The notebooks are built here and run by real kernels; they import nothing heavy.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from papermill.iorw import NoDatesSafeLoader

from simlab import cli
from simlab.methods import parse_method
from simlab.stats import interval_table
from simlab.sweeps import (
    collect,
    grid_points,
    parse_grid,
    point,
    programs,
    read_parameters,
    runner,
    sweep,
)
from simlab.sweeps.grid import notebook_parameters

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT)}
CELL = """
epochs: int = 5  # passes
lr: float = 0.1
seed: int = 0
name: str = "a"
flag: bool = False
layers: list = ["x"]
extra: dict = {}
"""
BODY = """
import json, os, pathlib, time
with open("runs.txt", "a") as f:  # beside the notebook: one line for each time that it is run
    f.write(f"{seed} {os.getpid()}\\n")
if pathlib.Path("slow").exists() and seed == 1:
    time.sleep(120)
got = dict(epochs=epochs, lr=lr, seed=seed, name=name, flag=flag, layers=layers, extra=extra)
out = pathlib.Path(os.environ["SIMLAB_OUT"])
(out / "metrics.json").write_text(json.dumps({
    "score": epochs * lr + seed, "deep": {"rank": 7.5}, "seed": 99, "got": json.dumps(got),
    "threads": os.environ["OMP_NUM_THREADS"], "where": os.getcwd()}))
"""
DEFAULTS = {
    "epochs": 5,
    "lr": 0.1,
    "seed": 0,
    "name": "a",
    "flag": False,
    "layers": ["x"],
    "extra": {},
}


def main(words: list[str]) -> int:
    """The exit code of `simlab sweep`."""
    return cli.main(["sweep", *words])


def write_notebook(path: Path, cell=CELL, body=BODY, text="A title", tag="parameters") -> Path:
    nb = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
    )
    nb.cells = [
        nbformat.v4.new_markdown_cell(text),
        nbformat.v4.new_code_cell(cell, metadata={"tags": [tag]}),
        nbformat.v4.new_code_cell(body),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


@pytest.fixture
def notebook(tmp_path):
    return write_notebook(tmp_path / "my books" / "study.ipynb")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three points run by Python, two at once, in a folder whose name needs care."""
    folder = tmp_path_factory.mktemp("sweep")
    book = write_notebook(folder / "study.ipynb")
    grid, out = {"lr": [1, 1e-05], "seed": range(2)}, folder / "it's {a} $folder"
    return book, out, grid, sweep(book, grid, out, jobs=2, threads=3)


def stamps(folder: Path) -> dict:
    """When each point's status was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("points/*/status.json")}


# ---------------------------------------- what is refused before anything starts


def test_a_misspelled_parameter_starts_nothing_and_names_the_right_one(notebook, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(notebook), "epoch=1,2", "--out", str(out)]) == 2
    assert "did you mean 'epochs'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="did you mean 'layers'"):
        sweep(notebook, {"layer": [["a"]]}, out)
    assert not out.exists() and not (notebook.parent / "runs.txt").exists()


def test_options_may_stand_before_between_and_behind_the_notebook_and_its_grid(notebook, tmp_path):
    """A dry run of each order plans the same two points; what is left over is refused."""
    out = ["--out", str(tmp_path / "out")]
    book, words, dry = str(notebook), ["seed=0:2"], ["--jobs", "2", "--dry-run"]
    orders = [
        [book, *words, *out, *dry],
        [*dry, *out, book, *words],
        [*dry, book, *words, *out],
        [book, *out, *words, *dry],
        [book, *dry, *out, *words],
    ]
    for order in orders:
        assert main(order) == 0
        plan = json.loads((tmp_path / "out" / "sweep.json").read_text())
        assert [values["seed"] for values in plan["points"].values()] == [0, 1]
        assert plan["command"].endswith("--jobs 2 --threads 1")


def test_words_that_are_left_over_and_a_missing_folder_are_refused(notebook, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    for words, says in (
        ([*out, "--dry-run", "lr=.5"], "lr=.5"),
        ([], "--out"),
        (["--job=2"], "--job"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(notebook), "seed=0", *words])
        assert caught.value.code == 2 and says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        ("epochs", np.int64(1)),
        ("lr", np.float64(0.5)),
        ("epochs", True),
        ("flag", 1),
        ("epochs", 0.5),
        ("epochs", 2.0),
        ("epochs", "5"),
        ("name", 3),
        ("name", Path("a")),
        ("name", np.str_("a")),
        ("layers", {"a"}),
        ("layers", [("a", "b")]),
        ("layers", [np.int64(1)]),
        ("extra", {1: 2}),
        ("extra", {"a": {1, 2}}),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", 2**53 + 1),
        ("name", None),
        ("epochs", np.arange(3)),
        ("layers", [[float("nan")]]),
        ("lr", 1j),
    ],
)
def test_a_value_that_is_not_of_the_parameters_json_type_is_refused(name, value):
    with pytest.raises(TypeError, match=f"{name}=.*expected a JSON value of type"):
        grid_points({name: [value]}, DEFAULTS)


def test_json_values_keep_their_type_and_an_int_becomes_the_float_that_it_equals():
    grid = {
        "epochs": [2],
        "lr": [1],
        "flag": [True],
        "name": ["1"],
        "extra": [{"a": {"b": [1.0]}}],
        "layers": [[], [1, "1", None, True]],
    }
    points = list(grid_points(grid, DEFAULTS).values())
    assert [repr(p["layers"]) for p in points] == ["[]", "[1, '1', None, True]"]
    assert {(type(p["lr"]), type(p["epochs"])) for p in points} == {(float, int)}


@pytest.mark.parametrize(
    "grid",
    [
        {},
        {"seed": []},
        {"seed": [1, 2, 1]},
        {"lr": [1, 1.0]},
        {"extra": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]},
        {"seed": range(10**4), "epochs": range(10**4)},
    ],
)
def test_a_grid_without_points_with_the_same_twice_or_with_too_many_is_refused(grid):
    with pytest.raises(ValueError, match="twice|points"):
        grid_points(grid, DEFAULTS)


def test_points_that_look_alike_have_their_own_folders():
    values = ["1", "1.0", "a b", "a/b", "a  b", "A b", "..", "x" * 99, "x" * 98, "ä", "{seed}"]
    names = [name.lower() for name in grid_points({"name": values}, DEFAULTS)]
    assert len(set(names)) == len(values)
    assert all(len(name) < 80 and not set(name) & set("/{} ") for name in names)


def test_a_grid_in_another_order_has_the_same_points():
    one = grid_points({"seed": [0, 1], "lr": [0.1, 0.2]}, DEFAULTS)
    other = grid_points({"lr": [0.2, 0.1], "seed": [1, 0]}, DEFAULTS)
    assert one == other and list(one) != list(other)


@pytest.mark.parametrize(
    "cell",
    [
        "a: float | None = 1.0",
        "a = 1  # not b=2",
        "a = b = 1",
        "a, b = 1, 2",
        "import os",
        "a = (1, 2)",
        "a: int = 0.5",
        "b = 1\na = 2 * b",
        "a = 1\na = 2",
        "%time\na = 1",
        "status = 1",
        "a = None",
        "a: tuple = [1]",
        "x = 1\n'''\ny = 2\n'''",
        "a = float('nan')",
    ],
)
def test_a_parameters_cell_that_papermill_would_misread_is_refused(tmp_path, cell):
    with pytest.raises(ValueError, match="Expected `name: type = literal`"):
        read_parameters(write_notebook(tmp_path / "a.ipynb", cell))


def test_exactly_one_parameters_cell_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="0 code cells"):
        read_parameters(write_notebook(tmp_path / "a.ipynb", tag="parameter"))
    nb = nbformat.read(write_notebook(tmp_path / "a.ipynb"), 4)
    nb.cells[2].metadata["tags"] = ["parameters"]
    nbformat.write(nb, tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match="2 code cells"):
        read_parameters(tmp_path / "a.ipynb")


def test_the_parameters_cell_is_read_with_types_from_annotations_and_defaults(tmp_path):
    cell = "# x = 3\na: float = 1\n\nb = True  # help\nc: list[int] = [\n  1,\n  2]\nd: 'str' = ''"
    found = read_parameters(write_notebook(tmp_path / "a {b}.ipynb", cell))
    assert repr(found) == "{'a': 1.0, 'b': True, 'c': [1, 2], 'd': ''}"


def test_a_missing_notebook_and_wrong_jobs_are_refused(notebook, tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean 'study.ipynb'"):
        sweep(notebook.with_name("stuff.ipynb"), {"seed": [0]}, tmp_path / "out")
    for wrong in (0, -1, 1.0, True):
        with pytest.raises(ValueError, match="jobs="):
            sweep(notebook, {"seed": [0]}, tmp_path / "out", jobs=wrong)
    with pytest.raises(FileNotFoundError, match="no sweep"):
        collect(tmp_path)
    assert not (tmp_path / "out").exists()


# ---------------------------------------- the shell's words


@pytest.mark.parametrize(
    "word, values",
    [
        ("epochs=5,10", [5, 10]),
        ("seed=0:3", [0, 1, 2]),
        ("seed=0:10:5,7", [0, 5, 7]),
        ("seed=2:-2:-2", [2, 0]),
        ("lr=1,1e-5,.5", [1.0, 1e-05, 0.5]),
        ("flag=true,false", [True, False]),
        ("flag=True", [True]),
        ("name=0:3", ["0:3"]),
        ("name=5,true", ["5", "true"]),
        ("name=a=b", ["a=b"]),
        ('name="a,b",""', ["a,b", ""]),
        ('layers=["a","b"],[]', [["a", "b"], []]),
        ('extra={"a":{"b":null}}', [{"a": {"b": None}}]),
    ],
)
def test_a_word_is_typed_by_its_parameter(word, values):
    (got,) = parse_grid([word], DEFAULTS).values()
    assert repr(got) == repr(values)


@pytest.mark.parametrize(
    "word",
    [
        "epochs",
        "epochs=1.5",
        "epochs=1e1",
        "epochs=",
        "epochs=5,,10",
        "epochs=true",
        "seed=0:0",
        "seed=0:9:0",
        "seed=0:1000000000000",
        "seed=0:3:1:1",
        "seed=0:3x",
        "lr=a",
        "lr=nan",
        "lr=1e999",
        "lr=0:3",
        "flag=1",
        "flag=yes",
        "name=",
        "name=a,,b",
        'name=a,"b,c"',
        'name="a"b',
        "layers=a",
        "layers=1],[2",
        "layers=(1,2)",
        "extra={1:2}",
        "epochz=1",
        "=1",
        "",
    ],
)
def test_a_word_that_does_not_fit_is_refused(word):
    with pytest.raises((ValueError, TypeError)):
        grid_points(parse_grid([word], DEFAULTS), DEFAULTS)


def test_a_name_given_twice_is_refused():
    with pytest.raises(ValueError, match="once"):
        parse_grid(["seed=1", "seed=2"], DEFAULTS)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
VALUES = {
    "epochs": st.integers(),
    "lr": FLOATS,
    "flag": st.booleans(),
    "name": st.text(),
    "layers": st.lists(JSON),
    "extra": st.dictionaries(st.text(), JSON),
}
GRIDS = st.fixed_dictionaries(
    {}, optional={name: st.lists(v, min_size=1, max_size=3) for name, v in VALUES.items()}
)


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(GRIDS)
def test_every_grid_survives_being_written_as_json_words(grid):
    words = [f"{name}={','.join(map(json.dumps, values))}" for name, values in grid.items()]
    assert repr(parse_grid(words, DEFAULTS)) == repr(grid)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(VALUES)), st.text("0123456789:,.-+e[]{}\"' \\truefalsn\n"))
def test_any_text_is_typed_values_or_a_clear_error(name, text):
    try:
        (values,) = parse_grid([f"{name}={text}"], DEFAULTS).values()
    except (ValueError, TypeError) as error:
        assert name in str(error) or "range" in str(error)
    else:
        assert all(type(value) is type(DEFAULTS[name]) for value in values)


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=VALUES))
@example({"name": "a\nb: 'c' \"d\"", "lr": 1e-05})
def test_the_yaml_for_papermill_gives_every_value_back_on_one_line(changes):
    program = programs.NotebookProgram("n", changes, "", "c", path=Path("n"))
    arguments = program.arguments(Path("out"), Path("f"), changes)
    text = arguments[arguments.index("-y") + 1]
    assert "\n" not in text
    assert repr(yaml.load(text, Loader=NoDatesSafeLoader)) == repr(changes)


# ---------------------------------------- what is run


# ---------------------------------------- options of a method

METHOD = {"method": "simclr proj_dim=64", "seed": 0}


def test_an_option_of_the_method_is_put_into_its_text():
    grid = parse_grid(["method.temperature=.1,.2", "seed=0,1"], METHOD)
    assert repr(grid) == "{'method.temperature': [0.1, 0.2], 'seed': [0, 1]}"
    points = grid_points(grid, METHOD).values()
    changes = [notebook_parameters(values, METHOD) for values in points]
    texts = [f"simclr proj_dim=64 temperature={value}" for value in (0.1, 0.1, 0.2, 0.2)]
    assert [change["method"] for change in changes] == texts
    assert [change["seed"] for change in changes] == [0, 1, 0, 1]
    assert {parse_method(text).temperature for text in texts} == {0.1, 0.2}


def test_an_option_of_another_method_of_the_grid_is_typed_by_that_method():
    words = ["method=simsiam", "method.pred_dim=8,16", "method.stop_gradient=false"]
    points = grid_points(parse_grid(words, METHOD), METHOD).values()
    texts = [notebook_parameters(values, METHOD)["method"] for values in points]
    assert texts == [f"simsiam pred_dim={dim} stop_gradient=false" for dim in (8, 16)]


def test_an_option_takes_the_place_of_the_texts_own_in_every_method_of_the_grid():
    words = ["method=simclr temperature=.5,simsiam", "method.proj_dim=8"]
    points = grid_points(parse_grid(words, METHOD), METHOD).values()
    texts = [notebook_parameters(values, METHOD)["method"] for values in points]
    assert texts == ["simclr temperature=.5 proj_dim=8", "simsiam proj_dim=8"]


@pytest.mark.parametrize(
    "word, message",
    [
        ("method.temprature=.1", "no option 'temprature'; did you mean 'temperature'"),
        ("method.pred_dim=8", "simclr has no option 'pred_dim'"),
        ("seed.x=1", "only an option of 'method'"),
        ("methods.temperature=.1", "did you mean 'method'"),
        ("method.temperature=a", "method.temperature=a"),
        ("method.temperature=-1", "temperature"),
        ("method.proj_dim=.5", "method.proj_dim=0.5"),
        ("method.temperature=.1,0.10", "twice"),
    ],
)
def test_an_option_that_the_method_lacks_or_refuses_is_refused(word, message):
    with pytest.raises((ValueError, TypeError), match=message):
        grid_points(parse_grid([word], METHOD), METHOD)


@pytest.mark.notebook
def test_the_notebook_gets_the_methods_text_and_the_table_its_option_as_a_number(tmp_path):
    body = (
        "import json, os, pathlib\npath = pathlib.Path(os.environ['SIMLAB_OUT'], 'metrics.json')\n"
        "path.write_text(json.dumps({'text': method}))"
    )
    book = write_notebook(tmp_path / "a.ipynb", 'method: str = "simclr"', body)
    assert main([str(book), "method.temperature=.1,.2", "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert list(table["method.temperature"]) == [0.1, 0.2]
    assert list(table["text"]) == ["simclr temperature=0.1", "simclr temperature=0.2"]
    assert list(table["method"]) == list(table["text"])


# ---------------------------------------- the kernels


@pytest.mark.notebook
def test_a_point_gets_typed_values_its_threads_and_the_notebooks_folder(finished):
    book, _, _, table = finished
    assert list(table["status"]) == ["done"] * 4
    got = [json.loads(text) for text in table["got"]]
    expected = [DEFAULTS | {"lr": lr, "seed": seed} for lr in (1.0, 1e-05) for seed in (0, 1)]
    assert [repr(g) for g in got] == [repr(e) for e in expected]
    assert set(table["threads"]) == {"3"} and set(table["where"]) == {str(book.parent)}


@pytest.mark.notebook
def test_the_table_has_parameters_metrics_versions_and_durations(finished):
    _, out, _, table = finished
    assert list(table["score"]) == [5.0, 6.0, 5e-05, 1.00005] and set(table["deep.rank"]) == {7.5}
    assert list(table["seed"]) == [0, 1, 0, 1] and set(table["metric.seed"]) == {99}
    assert set(table["epochs"]) == {5} and (table["duration"] > 0).all()
    assert set(table["version.python"]) == {sys.version.split()[0]}
    assert table["version.papermill"].notna().all()
    assert list(pd.read_csv(out / "table.csv")["score"]) == list(table["score"])
    plan = json.loads((out / "sweep.json").read_text())
    words = shlex.split(plan["command"])[3:5]
    assert parse_grid(words, DEFAULTS) == {"lr": [1.0, 1e-05], "seed": [0, 1]}
    names = {"parameters.json", "notebook.ipynb", "metrics.json", "status.json", "log"}
    assert all({p.name for p in folder.iterdir()} == names for folder in (out / "points").iterdir())


@pytest.mark.notebook
def test_two_jobs_run_at_the_same_time(finished):
    _, out, _, _ = finished
    states = [json.loads(path.read_text()) for path in out.glob("points/*/status.json")]
    spans = sorted((s["started"], s["started"] + s["duration"]) for s in states)
    assert spans[1][0] < spans[0][1] and len(spans) == 4
    for start, _ in spans:  # never three
        assert sum(a <= start < b - 0.2 for a, b in spans) <= 2


@pytest.mark.notebook
def test_finished_points_are_not_run_again(finished, monkeypatch):
    book, out, grid, table = finished
    versions = json.loads((out / "sweep.json").read_text())["versions"]
    monkeypatch.setattr(runner, "versions", lambda: versions)
    monkeypatch.setattr(point, "start_process", lambda task: pytest.fail(f"started {task}"))
    before = stamps(out)
    assert sweep(book, grid, out)["score"].equals(table["score"])
    assert len(sweep(book, {"lr": [1.0], "seed": 1}, out)) == 1 and len(collect(out)) == 4
    write_notebook(book, text="A better title")  # words are not code
    sweep(book, grid, out)
    assert stamps(out) == before


@pytest.mark.notebook
def test_changed_code_in_the_same_folder_is_refused(finished, monkeypatch):
    book, out, grid, _ = finished
    write_notebook(book, body=BODY + "\nprint(1)")
    with pytest.raises(ValueError, match="changed since"):
        sweep(book, grid, out)
    with pytest.raises(ValueError, match="changed since"):
        sweep(book, grid, out, dry_run=True)
    write_notebook(book)
    assert len(stamps(out)) == 4


@pytest.mark.notebook
def test_other_versions_are_warned_of(finished, monkeypatch):
    book, out, grid, _ = finished
    monkeypatch.setattr(runner, "versions", lambda: {"python": "0"})
    with pytest.warns(UserWarning, match="other versions"):
        sweep(book, grid, out)


@pytest.mark.notebook
def test_a_failed_point_is_recorded_with_its_traceback_and_the_others_go_on(tmp_path, capsys):
    body = (
        "import os\nif seed == 3: os.environ['SIMLAB_OUT'] = '.'\n"
        "if seed == 2 and not os.path.exists('mended'): os._exit(3)\n"
        f"{BODY}\nif seed == 1: 1 / 0  # its metrics are there, but do not count"
    )
    book = write_notebook(tmp_path / "a.ipynb", body=body)
    options = ["--out", str(tmp_path / "out"), "--jobs", "2"]
    assert main([str(book), "seed=0:4", *options]) == 1
    table = collect(tmp_path / "out").set_index("seed")
    assert list(table["status"]) == ["done", "failed", "failed", "failed"]
    assert table.loc[1, "error"].startswith("ZeroDivisionError: division by zero")
    assert "Kernel died" in table.loc[2, "error"] and "no metrics.json" in table.loc[3, "error"]
    assert table["score"].notna().tolist() == [True, False, False, False]
    failed = tmp_path / "out" / "points" / table.loc[1, "point"]
    assert "1 / 0" in json.loads((failed / "status.json").read_text())["traceback"]
    assert "ZeroDivisionError" in (failed / "notebook.ipynb").read_text()
    assert "failed: ZeroDivisionError" in capsys.readouterr().err
    (tmp_path / "mended").touch()  # failed points are tried again, the finished one is not
    before = stamps(tmp_path / "out")
    assert main([str(book), "seed=0,2", *options]) == 0
    again = collect(tmp_path / "out").set_index("seed")
    assert list(again["status"]) == ["done", "failed", "done", "failed"]
    after = stamps(tmp_path / "out")
    assert [after[name] == before[name] for name in again["point"]] == [True, True, False, True]


def runs(folder: Path) -> list[tuple[int, int]]:
    """Seed and kernel of every time that the notebook was run."""
    path = folder / "runs.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def wait(condition, seconds: float = 300):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def start(tmp_path):
    """`simlab sweep` in a process group of its own, as a shell starts it."""
    processes = []

    def run(*words: str) -> subprocess.Popen:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "simlab", "sweep", *words],
                env=ENV,
                cwd=tmp_path,
                text=True,
                start_new_session=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # tests that were started in the background have it ignored, and so would this
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.notebook
def test_ctrl_c_ends_every_process_and_the_same_command_goes_on(notebook, tmp_path, start):
    folder, out = notebook.parent, tmp_path / "out"
    (folder / "slow").touch()
    process = start(str(notebook), "seed=0:3", "--out", "out")
    wait(lambda: len(runs(folder)) == 2)  # seed 0 is done, seed 1 sleeps
    with pytest.raises(RuntimeError, match="another sweep is working"):
        sweep(notebook, {"seed": range(3)}, out)
    assert list(collect(out)["status"]) == ["done", "unfinished", "unfinished"]
    kernel = runs(folder)[1][1]
    assert alive(kernel)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everything in the group
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command resumes" in errors
    wait(lambda: not alive(kernel), 20)
    assert list(collect(out)["status"]) == ["done", "unfinished", "unfinished"]
    (folder / "slow").unlink()
    before = stamps(out)
    assert main([str(notebook), "seed=0:3", "--out", str(out)]) == 0
    assert list(collect(out)["score"]) == [0.5, 1.5, 2.5]
    assert [seed for seed, _ in runs(folder)] == [0, 1, 1, 2]
    assert stamps(out).items() > before.items()


@pytest.mark.notebook
def test_a_2_x_2_sweep_survives_kill_9_and_becomes_a_table(notebook, tmp_path, start):
    folder, out = notebook.parent, tmp_path / "out"
    words = ["my books/study.ipynb", "epochs=5,10", "seed=0:2", "--out", "out", "--jobs", "2"]
    (folder / "slow").touch()
    process = start(*words)
    # both points of seed 0 come to their end, those of seed 1 sleep
    wait(lambda: len(runs(folder)) == 4 and len(stamps(out)) == 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    kernels, before = [pid for seed, pid in runs(folder) if seed == 1], stamps(out)
    (folder / "slow").unlink()
    process = start(*words)
    printed, errors = process.communicate(timeout=1800)
    assert process.returncode == 0 and "score" in printed, errors
    assert "4 points, 2 to run" in errors and "2/2" in errors
    assert not any(map(alive, kernels))
    assert len(runs(folder)) == 6 and len(set(stamps(out))) == 4
    assert stamps(out).items() > before.items()
    table = pd.read_csv(out / "table.csv")
    assert len(table) == 4 and (table["status"] == "done").all()
    assert np.allclose(table["score"], table["epochs"] * table["lr"] + table["seed"])
    rows = interval_table(table, "epochs", "score")
    assert len(rows) == 2 and set(rows["n"]) == {2}


@pytest.mark.notebook
def test_the_dry_runs_commands_give_in_bash_what_the_sweep_gives(finished, capsys):
    book, done, _, _ = finished
    out = done.with_name("dry 'run' {b} $HOME")
    grid = {
        "lr": 1e-05,
        "seed": range(2),
        "name": "q\"' $HOME\nyes",
        "layers": [["a b", {"c": None}]],
    }
    plan = sweep(book, grid, out, threads=2, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and list(plan["status"]) == ["unfinished"] * 2
    assert not any((out / "points").iterdir())
    subprocess.run(["bash", "-c", lines[0]], check=True, cwd="/", capture_output=True, env=ENV)
    sweep(book, grid, out, threads=2, dry_run=True)  # what is left
    assert capsys.readouterr().out.splitlines() == lines[1:]
    table = sweep(book, grid, out, threads=2)  # runs the other one itself
    assert list(table["status"]) == ["done"] * 2 and (table["duration"] > 0).all()
    got = [json.loads(text) for text in table["got"]]
    for seed in range(2):
        changes = {"lr": 1e-05, "seed": seed, "name": grid["name"], "layers": grid["layers"][0]}
        assert repr(got[seed]) == repr(DEFAULTS | changes)
    assert set(table["threads"]) == {"2"} and set(table["where"]) == {str(book.parent)}


@pytest.mark.notebook
def test_dask_runs_the_same_points_in_its_workers(tmp_path, monkeypatch):
    """A scheduler and a worker in this process; with processes of their own: the next test."""
    from dask import distributed

    monkeypatch.setattr(runner, "here", None)
    book = write_notebook(tmp_path / "a.ipynb", body=BODY + "\nif seed == 3: 1 / 0")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        table = sweep(book, {"seed": [1, 3]}, tmp_path / "out", scheduler=cluster.scheduler_address)
        with distributed.Client(cluster) as client:  # a Client as well, which stays open
            again = sweep(book, {"seed": [1]}, tmp_path / "out", scheduler=client)
            assert client.status == "running" and list(again["status"]) == ["done"]
    assert list(table["status"]) == ["done", "failed"] and table["score"][0] == 1.5


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.distributed
def test_dask_runs_the_same_points_on_two_worker_processes(tmp_path):
    from dask import distributed

    body = "import psutil\n" + BODY.replace("got =", "time.sleep(2)\nif seed == 3: 1 / 0\ngot =")
    book = write_notebook(
        tmp_path / "a.ipynb",
        body=body.replace('"threads"', '"worker": psutil.Process().parents()[1].pid, "threads"'),
    )
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        table = sweep(
            book, {"seed": [0, 1, 3]}, tmp_path / "out", scheduler=cluster.scheduler_address
        )
    assert list(table["status"]) == ["done", "done", "failed"]
    assert list(table["score"][:2]) == [0.5, 1.5]
    assert len(set(table["worker"].dropna())) == 2 and os.getpid() not in set(table["worker"])
