"""The shell's words of a sweep: each typed by its parameter, options of a method among them."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from papermill.iorw import NoDatesSafeLoader
from small_notebooks import DEFAULTS, main, write_notebook

from simlab.methods import parse_method
from simlab.sweeps import grid_points, parse_grid, programs
from simlab.sweeps.grid import notebook_parameters

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


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=VALUES))
@example({"name": "a\nb: 'c' \"d\"", "lr": 1e-05})
def test_the_yaml_for_papermill_gives_every_value_back_on_one_line(changes):
    program = programs.NotebookProgram("n", changes, "", "c", path=Path("n"))
    arguments = program.arguments(Path("out"), Path("f"), changes)
    text = arguments[arguments.index("-y") + 1]
    assert "\n" not in text
    assert repr(yaml.load(text, Loader=NoDatesSafeLoader)) == repr(changes)


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
