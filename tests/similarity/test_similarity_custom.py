"""A user's own measures: what is said of them is kept, and none takes the place of another."""

from functools import partial

import matplotlib
import numpy as np
import pytest
import torch
from small_models import A, B, X

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from simlab.similarity import Measure, Result, cka_similarity, compare
from simlab.similarity.registry import resolve_measures

OTHER = torch.nn.Sequential(*B[:4])  # of fewer layers than A: the curve takes the most alike one


def gap(x, y, power=1):
    """A distance without an upper end: how far the Grams of two layers are apart."""
    return float((x @ x.T - y @ y.T).norm() ** power)


def run(*measures, **options):
    return compare({"a": A, "o": OTHER}, X, measures=measures, samples=40, **options)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_lambdas_partials_and_functions_of_one_name_do_not_take_each_others_place():
    class Constant:
        def __init__(self, value):
            self.value = value

        def __call__(self, x, y):
            return self.value

    result = run(
        lambda x, y: 1.0,
        lambda x, y: 2.0,
        partial(cka_similarity, debiased=False),
        Constant(3),
        Constant(4),
        gap,
        gap,
    )
    values = {name: result.block(measure=name)[0, 1] for name in result.values}
    names = ["lambda", "lambda 2", "cka_similarity(debiased=False)", "Constant", "Constant 2"]
    assert list(values) == [*names, "gap"]
    expected = compare({"a": A, "o": OTHER}, X, samples=40, estimator="biased")
    assert values.pop(names[2]) == pytest.approx(expected.matrix[0, 1], abs=1e-5)
    assert list(values.values())[:4] == [1, 2, 3, 4]


def test_what_is_said_of_a_measure_is_kept_in_the_file(tmp_path):
    mine = Measure(gap, name="my gap", kind="distance", limits=(0, 50), symmetric=True)
    result = Result.load(run(mine, gap, "cka").save(tmp_path / "r.npz"))
    assert result.info.kinds == {"my gap": "distance", "gap": "measure", "cka": "similarity"}
    assert result.info.limits == {"my gap": (0, 50), "gap": None, "cka": (0, 1)}
    assert np.allclose(result.block(measure="my gap"), result.block(measure="gap"), rtol=1e-5)
    assert result.plot(measure="my gap").images[0].get_clim() == (0, 50)


def test_a_measure_without_limits_is_drawn_on_a_scale_of_its_values():
    result = run(gap)
    assert result.matrix.max() > 5  # beyond the scale of a similarity
    assert result.plot().images[0].get_clim() == (0, result.matrix.max())


def test_the_most_alike_layer_has_the_smallest_distance_and_the_largest_similarity():
    result = run(Measure(gap, kind="distance"), "cka")
    (curve,) = result.plot("depth", measure="gap").lines
    assert np.allclose(curve.get_ydata(), result.block(measure="gap").min(1))
    (curve,) = result.plot("depth", measure="cka").lines
    assert np.allclose(curve.get_ydata(), result.block(measure="cka").max(1))


def test_where_the_kind_is_not_said_it_is_not_guessed():
    result = run(gap, null=5)
    for ask in (lambda: result.plot("depth"), result.p_values):
        with pytest.raises(ValueError, match="'gap' a similarity or a distance.*kind="):
            ask()


def test_a_symmetric_measure_is_computed_once_for_a_pair_another_in_both_directions():
    calls = []

    def spread(x, y):
        calls.append(1)
        return float(x.norm() / y.norm())

    both = run(Measure(spread, name="ratio")).values["ratio"]
    twice = len(calls)
    run(Measure(spread, name="ratio", symmetric=True))
    assert len(calls) - twice < twice
    assert both[0, 3] * both[3, 0] == pytest.approx(1, rel=1e-5) and both[0, 3] != both[3, 0]


def test_options_reach_a_users_measure():
    plain, squared = (run(gap, options={"gap": {"power": power}}).matrix for power in (1, 2))
    assert np.allclose(plain**2, squared, rtol=1e-4)
    with pytest.raises(ValueError, match="option of gap='powr'; did you mean 'power'"):
        run(gap, options={"gap": {"powr": 2}})


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Measure(gap, kind="distanz"), ValueError, "did you mean 'distance'"),
        (lambda: Measure(gap, limits=(1, 0)), ValueError, r"limits=\(1, 0\)"),
        (lambda: Measure("cka"), TypeError, "expected one function"),
        (lambda: Measure(), TypeError, "none"),
        (lambda: resolve_measures([Measure(gap, name="cka")], {}), ValueError, 'name="my_cka"'),
        (lambda: resolve_measures([Measure(gap, name="x")] * 2, {}), ValueError, "two have the n"),
        (lambda: resolve_measures([], {}), ValueError, "measures is empty"),
    ],
)
def test_a_measure_that_can_not_be_meant_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("gives", [lambda x, y: x[0], lambda x, y: None], ids=["rows", "None"])
def test_a_measure_that_gives_no_number_is_named(gives):
    with pytest.raises(TypeError, match="measure 'mine': expected one number, got"):
        run(Measure(gives, name="mine"))


def test_a_measure_that_edits_its_features_is_refused_before_another_sees_them():
    with pytest.raises(ValueError, match="measure 'lambda' edits its arguments"):
        run(lambda x, y: float(x.mul_(0).sum()), gap)
    with torch.inference_mode():
        assert run(gap).has_interval("gap") is False
