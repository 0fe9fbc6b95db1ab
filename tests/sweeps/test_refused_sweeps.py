"""What of a sweep is refused before anything starts, and its points."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from small_notebooks import DEFAULTS, main, write_notebook

from simlab.sweeps import collect, grid_points, read_parameters, sweep


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
    parameters = read_parameters(write_notebook(tmp_path / "a {b}.ipynb", cell))
    assert repr(parameters) == "{'a': 1.0, 'b': True, 'c': [1, 2], 'd': ''}"


def test_a_missing_notebook_and_wrong_jobs_are_refused(notebook, tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean 'study.ipynb'"):
        sweep(notebook.with_name("stuff.ipynb"), {"seed": [0]}, tmp_path / "out")
    for wrong in (0, -1, 1.0, True):
        with pytest.raises(ValueError, match="jobs="):
            sweep(notebook, {"seed": [0]}, tmp_path / "out", jobs=wrong)
    with pytest.raises(FileNotFoundError, match="no sweep"):
        collect(tmp_path)
    assert not (tmp_path / "out").exists()
