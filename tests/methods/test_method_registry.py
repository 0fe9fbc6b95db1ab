"""A method as text: its name and options, read, written, changed, described and refused."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simlab._checks import descriptions
from simlab.methods import (
    METHODS,
    Method,
    SimCLR,
    SimSiam,
    describe_method,
    format_method,
    method_class,
    method_names,
    parse_method,
    with_method_option,
)


@pytest.mark.parametrize("name", METHODS)
def test_a_name_alone_is_the_method_with_its_defaults(name):
    method = parse_method(name)
    assert type(method) is method_class(name) and method == method_class(name)()
    assert method_names()[0] == "simsiam"


def test_options_are_read_by_their_types():
    text = "simsiam stop_gradient=false pred_lr=1 predictor=fixed proj_dim=64"
    options = {"stop_gradient": False, "pred_lr": 1.0, "predictor": "fixed", "proj_dim": 64}
    assert parse_method(text) == SimSiam(**options)
    assert parse_method("  simclr   temperature=.2 ") == SimCLR(temperature=0.2)
    assert parse_method("simsiam stop_gradient=False") == SimSiam(stop_gradient=False)


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        SimSiam,
        proj_dim=st.integers(1, 4096), pred_lr=st.floats(0, 1e6), stop_gradient=st.booleans(),
        head_bn=st.sampled_from(["all", "hidden", "none"]),
    )
)  # fmt: skip
def test_what_is_written_is_read_back_as_the_same_method(method):
    text = format_method(method)
    assert parse_method(text) == method and format_method(parse_method(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("simsim", "method 'simsim' is unknown; did you mean 'simsiam'"),
        ("", "method '' is unknown"),
        ("simclr pred_lr=1", "simclr has no option 'pred_lr'"),
        ("simclr temprature=1", "no option 'temprature'; did you mean 'temperature'"),
        ("simclr temperature", "'temperature': expected float, more than 0"),
        ("simclr temperature=0", "temperature=0.0: expected more than 0"),
        ("simclr temperature=nan", "temperature=nan: expected a finite number"),
        ("simclr temperature=warm", "'temperature=warm': expected float"),
        ("simclr temperature=1 temperature=2", "temperature is given twice"),
        ("simsiam proj_dim=1.5", "'proj_dim=1.5': expected int, at least 1"),
        ("simsiam proj_dim=0", "proj_dim=0: expected at least 1"),
        ("simsiam stop_gradient=no", "'stop_gradient=no': expected true or false"),
        ("simsiam predictor=mpl", "predictor='mpl' is unknown; did you mean 'mlp'"),
    ],
)
def test_what_is_wrong_is_refused_with_the_nearest_right_name(text, says):
    with pytest.raises(ValueError) as caught:
        parse_method(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("temperature", "0.1", TypeError),
        ("temperature", -1.0, ValueError),
        ("proj_dim", 1.0, TypeError),
    ],
)
def test_options_in_python_are_checked_as_those_in_text(option, value, says):
    with pytest.raises(says, match=f"^{option}="):
        SimCLR(**{option: value})


def test_one_option_of_a_text_is_changed_and_the_others_stay():
    text = with_method_option("simclr proj_dim=128", "temperature", 0.1)
    assert text == "simclr proj_dim=128 temperature=0.1"
    assert with_method_option(text, "temperature", "0.2") == "simclr proj_dim=128 temperature=0.2"
    assert with_method_option("simsiam", "stop_gradient", False) == "simsiam stop_gradient=false"
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        with_method_option(text, "temprature", 1)


@pytest.mark.parametrize("name", METHODS)
def test_the_description_has_every_option_with_default_and_source(name):
    text = describe_method(name)
    cls = method_class(name)
    for field in dataclasses.fields(cls):
        default = str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        assert f"  {field.name}={default}   (" in text
        assert descriptions(cls)[field.name] in text
    assert "arXiv" in text and "    L = " in text


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_bounds_are_ordered(name):
    method = parse_method(name)
    lowest, at_collapse = method.lowest_loss(32), method.loss_at_collapse(32)
    assert at_collapse is None or lowest <= at_collapse
    assert method.loss_label != "loss"


def test_the_readme_lists_every_method_with_its_idea_paper_and_file():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for name, entry in METHODS.items():
        if not entry.module.startswith("simlab."):
            continue  # a sketch of another test
        file = entry.module.replace(".", "/") + ".py"
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}` |"))
        assert entry.summary in row and f"]({file})" in row
        number = re.search(r"arxiv.org/abs/([\d.]+)\)", row)[1]
        assert number in describe_method(name)


def test_a_name_that_is_not_there_is_refused_with_the_nearest_one():
    from simlab import methods

    assert not hasattr(methods, "nothing")
    with pytest.raises(
        AttributeError, match=r"'simlab.methods' .*'SimSam'.*did you mean 'SimSiam'"
    ):
        _ = methods.SimSam


def test_the_axis_of_a_loss_says_its_lower_bound_where_there_is_one():
    class Bounded(Method):
        loss_label = "distance"

        def lowest_loss(self, images):
            return -1.0 / images

    class Unbounded(Method):
        loss_label = "energy"

    assert Bounded().loss_axis(4) == "distance (at least -0.25)"
    assert Unbounded().loss_axis(4) == "energy"
