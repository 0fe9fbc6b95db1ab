"""What comes back: names, intervals, files and figures that say what was measured."""

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from simlab.similarity import Result, compare

torch.manual_seed(0)
X = torch.randn(120, 12)


def net(seed, depth=3):
    torch.manual_seed(seed)
    parts = [m for _ in range(depth) for m in (nn.Linear(12, 12), nn.Tanh())]
    return nn.Sequential(*parts)


MODELS = {"a": net(0), "b": net(1), "c <i>": net(2)}
MEASURES = ["cka", "rbf_cka", "deconfounded_cka"]


@pytest.fixture(scope="module")
def result():
    return compare(MODELS, X, measures=MEASURES, batch_size=10)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_the_result_knows_what_was_measured(result):
    info = result.info
    assert (info.samples, info.batches, info.batch_sizes) == (120, 12, [10])
    assert info.estimator == "debiased" and info.confounder == "images"
    assert info.pool == dict.fromkeys(MODELS, "flatten")
    assert [o.name for o in result.layers_of("b")] == ["0", "2", "4"]
    assert result.layers_of("b")[0].shape == (12,) and result.layers_of("b")[0].type == "Linear"
    for text in ("120 samples", "12 batches of 10", "debiased", "a x b"):
        assert text in repr(result)
    assert np.array_equal(result.matrix, result.block("a", "c <i>", "cka"))


def test_unknown_names_are_refused(result):
    for wrong, options in (("model='z'", {"a": "z"}), ("measure='rsa'", {"measure": "rsa"})):
        with pytest.raises(ValueError, match=wrong):
            result.block(**options)
    with pytest.raises(ValueError, match="kind='bar'"):
        result.plot("bar")
    with pytest.raises(ValueError, match="layer of a='x'"):
        result.overview("x")
    with pytest.raises(ValueError, match="layer=3: a has 3 layers"):
        result.overview(3)


def test_the_interval_is_around_the_value_and_narrows_with_more_batches(result):
    torch.manual_seed(1)
    more = compare(MODELS, torch.randn(480, 12), measures=MEASURES, batch_size=10)
    for measure in MEASURES:
        low, high = result.interval("a", "b", measure)
        value = result.block("a", "b", measure)
        assert (low < value).all() and (value < high).all()
        narrow = np.subtract(*more.interval("a", "b", measure)[::-1])
        assert narrow.mean() < 0.75 * (high - low).mean()


@pytest.mark.long
def test_the_interval_covers_the_value_of_a_very_long_run():
    """Intervals of 20 batches: most of 20 runs hold what 400 batches give."""
    pair = {"a": MODELS["a"], "b": MODELS["b"]}
    torch.manual_seed(2)
    long = compare(pair, torch.randn(4000, 12), layers="4", batch_size=10).matrix[0, 0]
    hits = 0
    for _ in range(20):
        low, high = compare(pair, torch.randn(200, 12), layers="4", batch_size=10).interval()
        hits += low[0, 0] <= long <= high[0, 0]
    assert hits >= 16


def test_intervals_are_refused_below_ten_batches_and_of_one_set():
    with pytest.raises(ValueError, match="at least 10 batches.*there are 9"):
        compare(net(0), X[:90], batch_size=10).interval()
    with pytest.raises(ValueError, match="resamples=20.*one set"):
        compare(net(0), X, samples=100).interval()
    with pytest.raises(ValueError, match="resamples: needs all samples at once"):
        compare(net(0), X, resamples=20)
    for groups in (9, 21):
        with pytest.raises(ValueError, match=f"resamples={groups}: expected 10 to 20 groups of 40"):
            compare(net(0), X, samples=40, resamples=groups)


def test_saved_and_loaded_is_the_same(result, tmp_path):
    path = result.save(tmp_path / "similarity.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["similarity.npz"]  # no temporary file is left
    back = Result.load(path)
    assert back.layers == result.layers and back.models == result.models
    assert back.info == result.info and back.reasons == result.reasons
    for name in MEASURES:
        assert np.array_equal(back.block(measure=name), result.block(measure=name))
        assert np.array_equal(back.interval(measure=name)[0], result.interval(measure=name)[0])
    one_set = compare(net(0), X, samples=50, null=5)
    assert np.array_equal(
        Result.load(one_set.save(tmp_path / "p.npz")).p_values(), one_set.p_values()
    )


def test_a_file_with_pickled_objects_is_refused(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, meta=np.array([{"models": ["a"]}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        Result.load(path)


def test_a_file_that_is_no_result_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, x=np.zeros(3))
    with pytest.raises(ValueError, match="other.npz is no saved Result"):
        Result.load(path)


def test_no_null_no_p_values(result):
    with pytest.raises(ValueError, match="null=100"):
        result.p_values()


def test_frames_carry_the_layer_names(result):
    frame = result.to_frame()
    assert list(frame.index) == ["0", "2", "4"] and list(frame.columns) == ["0", "2", "4"]
    tidy = result.to_frame(tidy=True)
    assert len(tidy) == 3 * 9 * 9
    line = tidy[
        (tidy.measure == "rbf_cka")
        & (tidy.model_1 == "a")
        & (tidy.model_2 == "b")
        & (tidy.layer_1 == "2")
        & (tidy.layer_2 == "4")
    ]
    assert line["value"].item() == result.block("a", "b", "rbf_cka")[1, 2]


def test_the_tidy_table_has_intervals_p_values_and_reasons(result):
    tidy = result.to_frame(tidy=True)
    columns = ["measure", "model_1", "layer_1", "model_2", "layer_2"]
    assert list(tidy.columns) == [*columns, "value", "low", "high", "p", "reason"]
    low, high = result.interval("b", "a", "cka")
    lines = tidy[(tidy.measure == "cka") & (tidy.model_1 == "b") & (tidy.model_2 == "a")]
    assert np.allclose(lines["low"], low.ravel()) and np.allclose(lines["high"], high.ravel())
    assert tidy["p"].isna().all() and (tidy["reason"] == "").all()


def test_the_tidy_table_says_why_there_is_no_value():
    dead = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 3))
    nn.init.zeros_(dead[1].weight)
    models = {"a": net(0, 2), "dead": dead}
    measures = ["cka", "cca", lambda x, y: 1.0]
    tidy = compare(models, X, measures=measures, samples=40, null=4).to_frame(tidy=True)

    def lines(measure, a, b, layer="0"):
        of_models = (tidy.model_1 == a) & (tidy.model_2 == b)
        return tidy[of_models & (tidy.measure == measure) & (tidy.layer_2 == layer)]

    assert (lines("cca", "a", "a", "2")["reason"].iloc[:1] == "computed across models only").all()
    assert lines("cca", "a", "a", "2")["p"].isna().all()
    assert lines("cka", "a", "dead", "1")["reason"].str.startswith("dead/1: constant").all()
    across = lines("cca", "a", "dead")
    assert (across["reason"] == "").all() and across["p"].between(0.2, 1).all()
    assert lines("lambda", "a", "dead")["p"].isna().all()  # larger or smaller: nobody has said


@pytest.mark.long
def test_a_figure_takes_a_title_and_a_file(result, tmp_path):
    for kind in ("matrix", "depth", "overview"):
        path = tmp_path / f"{kind}.png"
        ax = result.plot(kind, title="Two nets & more", save=path)
        assert ax.get_title() == "Two nets & more" and path.stat().st_size > 1000
    fig, (left, right) = plt.subplots(1, 2)
    result.plot(ax=left, save=str(tmp_path / "in_a_part.pdf"))
    assert (tmp_path / "in_a_part.pdf").exists()


def test_the_html_names_everything_and_escapes_what_users_typed(result):
    page = result._repr_html_()
    assert "c &lt;i&gt;" in page and "<i>" not in page
    assert "120 samples" in page and "similarity" in page
    faulty = compare(nn.Sequential(nn.Linear(12, 2), nn.ReLU()), X * 0, layers=nn.Linear)
    assert "constant" in faulty._repr_html_()
    many = compare(net(0, 12), X * 0, layers=nn.Linear)
    assert many._repr_html_().count("constant") == 8
    assert "and 4 more" in many._repr_html_()


def test_the_heat_map_has_names_and_fixed_limits(result):
    for measure in MEASURES:
        ax = result.plot(measure=measure, a="a", b="b")
        image = ax.images[0]
        assert image.get_clim() == (0, 1)
        assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "2", "4"]
        assert np.allclose(image.get_array(), result.block("a", "b", measure))
        assert "similarity" in image.colorbar.ax.get_ylabel()
    distance = compare(net(0), X, measures="procrustes_distance", samples=60).plot()
    assert distance.images[0].get_clim() == (0, 2)
    assert distance.images[0].colorbar.ax.get_ylabel() == "procrustes distance"


def test_figures_are_drawn_where_asked_and_change_no_style(result):
    before = dict(matplotlib.rcParams)
    for kind in ("matrix", "depth", "overview"):
        fig, (left, right) = plt.subplots(1, 2, layout="constrained")
        assert result.plot(kind, ax=right) is right and not left.has_data()
        assert result.plot(kind).figure is not fig
    assert dict(matplotlib.rcParams) == before


def test_undefined_cells_are_grey_and_said_so():
    faulty = compare(nn.Sequential(nn.Linear(12, 2), nn.Linear(2, 3)), X, layers=["0", "1"])
    faulty.values["cka"][1] = np.nan
    ax = faulty.plot()
    assert "undefined" in ax.images[0].colorbar.ax.get_ylabel()
    ax.figure.canvas.draw()


def test_the_curve_over_depth_follows_the_diagonal_or_the_best_match(result):
    ax = result.plot("depth")
    assert [line.get_label() for line in ax.lines] == ["b, same layer", "c <i>, same layer"]
    assert np.allclose(ax.lines[0].get_ydata(), result.block("a", "b").diagonal())
    assert len(ax.collections) == 2  # intervals: there are 12 batches
    mixed = compare({"a": net(0), "d": net(3, 2)}, X, batch_size=40)
    ax = mixed.plot("depth")
    assert np.allclose(ax.lines[0].get_ydata(), mixed.matrix.max(1)) and not ax.collections
    alone = compare(net(0), X).plot("depth")
    assert alone.lines[0].get_ydata()[-1] == pytest.approx(1)


@pytest.mark.long
def test_long_lists_of_layers_are_thinned_but_never_cut_off():
    deep = compare(net(0, 60), X[:40], batch_size=40)
    ax = deep.plot()
    ax.figure.canvas.draw()
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert len(names) <= 40 and names[0] == "0"
    boxes = [t.get_window_extent() for t in ax.get_xticklabels()]
    assert all(a.x1 <= b.x0 + 1 for a, b in zip(boxes, boxes[1:], strict=False))
