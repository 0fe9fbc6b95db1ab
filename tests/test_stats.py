"""Intervals and paired differences against textbook numbers, and what layers keep where the answer is known."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn as nn

from simlab.data import Dataset, Images
from simlab.evaluate import ridge_r2, what_is_kept
from simlab.stats import (
    holm_adjusted,
    interval_table,
    paired_differences,
    pooled_deviation,
    power_of,
    seeds_for,
)
from simlab_course.figures import plot_sweep


def runs(**columns):
    return pd.DataFrame(columns)


def test_differences_are_taken_within_a_seed_and_have_students_interval():
    # the seeds differ by far more than the change does
    table = runs(
        beta=[0.0] * 5 + [1.0] * 5,
        seed=[*range(5)] * 2,
        score=[10, 20, 30, 40, 50.0, 11, 22, 33, 44, 55],
    )
    row = paired_differences(table, "beta", "score", 0.0).iloc[0]
    error = (2.5 / 5) ** 0.5  # of the differences 1 .. 5
    assert (row["n"], row["base"], row["mean"]) == (5, 30, 3)
    # t(.975; 4) = 2.7764451, t(.8; 4) = 0.9409646
    assert row["high"] - row["mean"] == pytest.approx(2.7764451 * error, rel=1e-6)
    assert row["mean"] - row["low"] == pytest.approx(2.7764451 * error, rel=1e-6)
    assert row["visible"] == pytest.approx((2.7764451 + 0.9409646) * error, rel=1e-6)


@pytest.mark.long
def test_what_is_called_visible_is_found_in_four_of_five_tries():
    rng, n = np.random.default_rng(0), 20
    verdicts = []
    for _ in range(400):
        base = rng.normal(size=n)
        table = runs(
            beta=[0.0] * n + [1.0] * n,
            seed=[*range(n)] * 2,
            score=[*base, *(base + rng.normal(0.66, 1, n))],
        )
        row = paired_differences(table, "beta", "score", 0.0).iloc[0]
        verdicts.append((row["low"] > 0, row["visible"]))
    power, visible = np.mean(verdicts, axis=0)
    assert power == pytest.approx(0.8, abs=0.06) and visible == pytest.approx(0.66, abs=0.04)


def test_only_seeds_with_both_runs_count_and_groups_stay_apart():
    table = runs(
        labels=[300] * 4 + [3000] * 4,
        beta=[0.0, 0.0, 1.0, 1.0] * 2,
        seed=[0, 1, 0, 1, 0, 1, 0, 2],
        score=[0.0, 0, 1, 1, 0, 0, 5, 9],
    )
    rows = paired_differences(table, "beta", "score", 0.0, group=["labels"])
    assert list(rows["labels"]) == [300, 3000] and list(rows["mean"]) == [1, 5]
    assert list(rows["n"]) == [2, 1] and np.isnan(rows["low"][1])
    with pytest.raises(ValueError, match="more than beta"):
        paired_differences(table, "beta", "score", 0.0)
    with pytest.raises(ValueError, match="did you mean 'score'"):
        paired_differences(table, "beta", "scores", 0.0, group=["labels"])
    with pytest.raises(ValueError, match="never 2.0"):
        paired_differences(table, "beta", "score", 2.0, group=["labels"])


def factorial(rng, values=3, seeds=4, tasks=2, effect=0.0, noise=1.0) -> pd.DataFrame:
    """Each number is the sum of its task, its seed, effect * beta and noise."""
    rows = []
    for task in range(tasks):
        for seed in range(seeds):
            start = 10 * task + rng.normal(scale=5)
            for beta in range(values):
                score = start + effect * beta + rng.normal(scale=noise)
                rows.append({"task": task, "seed": seed, "beta": float(beta), "score": score})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("effect, seeds", [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_seeds_are_those_of_the_tables_of_power(effect, seeds):
    """G*Power 3.1, matched pairs, two-sided, 5 %, power .8."""
    assert seeds_for(effect, 1.0) == seeds_for(-2 * effect, 2.0) == seeds
    assert power_of(effect, seeds) >= 0.8 > power_of(effect, seeds - 1)


def test_the_power_is_that_of_simulated_t_tests():
    difference = np.random.default_rng(0).normal(0.9, 1, size=(20_000, 6))
    t = difference.mean(axis=1) / (difference.std(axis=1, ddof=1) / 6**0.5)
    verdicts = np.abs(t) > 2.5705818  # t(.975; 5)
    assert power_of(0.9, 6) == pytest.approx(verdicts.mean(), abs=0.01)


def test_a_difference_that_nobody_can_see_is_refused():
    for points, sd in ((0.0, 1.0), (float("nan"), 1.0), (1.0, float("nan")), (1.0, -1.0)):
        with pytest.raises(ValueError, match="expected a difference"):
            seeds_for(points, sd)
    with pytest.raises(ValueError, match="over 100000 seeds"):
        seeds_for(1e-6, 1.0)
    assert seeds_for(1.0, 0.0) == 2


def test_with_two_values_the_pooled_deviation_is_that_of_the_differences():
    table = factorial(np.random.default_rng(0), values=2, tasks=1)
    wide = table.pivot(index="seed", columns="beta", values="score")
    sd, freedom = pooled_deviation([wide])
    assert sd == pytest.approx((wide[1.0] - wide[0.0]).std()) and freedom == 3


def test_the_pooled_deviation_is_that_of_the_analysis_of_variance():
    table = factorial(np.random.default_rng(1), values=3, seeds=5, tasks=1)
    wide = table.pivot(index="seed", columns="beta", values="score").to_numpy()
    residuals = wide - wide.mean(0) - wide.mean(1, keepdims=True) + wide.mean()
    sd, freedom = pooled_deviation([pd.DataFrame(wide)])
    assert freedom == (5 - 1) * (3 - 1)
    assert sd == pytest.approx((2 * (residuals**2).sum() / freedom) ** 0.5)
    gap = pd.DataFrame(wide)
    gap.iloc[0, 0] = float("nan")
    assert pooled_deviation([gap])[1] == freedom - 1
    assert pooled_deviation([gap, gap])[1] == 2 * (freedom - 1)
    with pytest.raises(ValueError, match="two seeds"):
        pooled_deviation([pd.DataFrame(wide[:1])])


def test_a_pooled_interval_holds_the_truth_as_often_as_it_says_and_is_shorter():
    rng, held, widths = np.random.default_rng(2), [], []
    for _ in range(20):
        table = factorial(rng, effect=0.7, seeds=3)
        for pool in (True, False):
            rows = paired_differences(table, "beta", "score", 0.0, group=["task"], pool=pool)
            truth = 0.7 * rows["beta"]
            widths.append((pool, (rows["high"] - rows["low"]).mean()))
            if pool:
                held += list((rows["low"] <= truth) & (truth <= rows["high"]))
    assert np.mean(held) == pytest.approx(0.95, abs=0.05)
    pooled, single = (np.mean([w for p, w in widths if p == pool]) for pool in (True, False))
    assert pooled < 0.7 * single


def test_over_tasks_a_seeds_mean_is_compared():
    table = factorial(np.random.default_rng(3))
    row = paired_differences(table, "beta", "score", 0.0, tasks=["task"]).iloc[0]
    means = table.groupby(["seed", "beta"])["score"].mean().unstack()
    difference = means[1.0] - means[0.0]
    assert (row["n"], row["mean"]) == (4, pytest.approx(difference.mean()))
    assert row["sd"] == pytest.approx(difference.std())
    # a seed without one of the tasks would be the mean of another set of tasks
    lacking = table.drop(table.index[(table.seed == 0) & (table.task == 1) & (table.beta == 1)])
    rows = paired_differences(lacking, "beta", "score", 0.0, tasks=["task"])
    assert list(rows["n"]) == [3, 4]


def test_holms_correction_is_the_step_down_procedure():
    p = pd.Series([0.01, 0.04, 0.03, 0.005, float("nan")])
    # .005 * 4, .01 * 3, .03 * 2, and .04 * 1 is no less than the one before
    assert list(holm_adjusted(p))[:4] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm_adjusted(p)[4])
    assert list(holm_adjusted(pd.Series([0.9, 0.8]))) == [1.0, 1.0]


def test_corrected_findings_are_rarely_false():
    """Where there is no difference at all, p-values are uniform."""
    families = np.random.default_rng(4).random((400, 6))
    false = [(holm_adjusted(pd.Series(p)) < 0.05).any() for p in families]
    assert np.mean(false) == pytest.approx(0.05, abs=0.03) and (families.min(1) < 0.05).mean() > 0.2


def test_the_columns_that_nobody_asked_for_are_not_there():
    table = factorial(np.random.default_rng(5))
    plain = paired_differences(table, "beta", "score", 0.0, group=["task"])
    assert list(plain) == ["task", "beta", "n", "base", "mean", "low", "high", "visible"]
    rows = paired_differences(table, "beta", "score", 0.0, group=["task"], holm=True, points=0.5)
    assert list(rows)[-4:] == ["sd", "p", "p_holm", "seeds"]
    assert list(rows["seeds"]) == [seeds_for(0.5, sd) for sd in rows["sd"]]


def results(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns | {"status": "done"})


def test_the_interval_is_students_over_the_seeds():
    table = results(
        beta=[0.0] * 3 + [1.0] * 5 + [2.0],
        seed=[0, 1, 2, *range(5), 0],
        score=[1.0, 2.0, 3.0, 1, 2, 3, 4, 5, 9.0],
    )
    rows = interval_table(table, "beta", "score")
    assert list(rows["n"]) == [3, 5, 1] and list(rows["mean"]) == [2.0, 3.0, 9.0]
    # t(0.975; 2) = 4.3026527, sd 1 over sqrt(3); t(0.975; 4) = 2.7764451, sd sqrt(2.5) over sqrt(5)
    half = (rows["high"] - rows["low"]) / 2
    assert half[0] == pytest.approx(4.3026527 / 3**0.5, rel=1e-7)
    assert half[1] == pytest.approx(2.7764451 * 0.5**0.5, rel=1e-7)
    assert np.isnan(half[2])


def test_a_mean_over_more_than_seeds_is_refused():
    table = results(lr=[1, 1, 2, 2], seed=[0, 1, 0, 1], x=[1] * 4, score=[1.0, 2, 3, 4])
    with pytest.raises(ValueError, match="more than the seed"):
        interval_table(table, "x", "score")
    assert len(interval_table(table, "x", "score", group="lr")) == 2
    with pytest.raises(ValueError, match="did you mean 'score'"):
        interval_table(table, "x", "scores")


def test_points_without_a_number_are_warned_of():
    table = results(x=[1, 1], seed=[0, 1], score=[1.0, float("nan")])
    with pytest.warns(UserWarning, match="1 of 2 points"):
        assert list(interval_table(table, "x", "score")["n"]) == [1]


def test_the_plot_draws_means_bars_and_bare_points():
    table = results(
        beta=[0.0, 0.0, 1.0] * 2,
        seed=[0, 1, 0] * 2,
        lr=[1] * 3 + [2] * 3,
        score=[1.0, 3, 5, 2, 4, 6],
    )
    figure = plot_sweep(table, "beta", "score", group="lr")
    assert isinstance(figure, matplotlib.figure.Figure)
    (axes,) = figure.axes
    lines = [container.lines[0] for container in axes.containers]
    assert [list(line.get_ydata()) for line in lines] == [[2.0, 5.0], [3.0, 6.0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["lr = 1", "lr = 2"]
    segments = axes.containers[0].lines[2][0].get_segments()
    assert segments[0][0][1] == pytest.approx(2 - 12.7062047) and len(segments[1]) == 0


def scattered(n=300, size=8):
    """A bright dot on noise; the factors are its place."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 20, (n, 1, size, size), dtype=torch.uint8, generator=generator)
    x, y = torch.randint(0, size, (2, n), generator=generator)
    images[torch.arange(n), 0, y, x] = 255
    factors = torch.stack((x, y, 90.0 * (x % 2)), dim=1).float()
    return Images(images, torch.arange(n) % 2, ("a", "b"), factors, ("x", "y", "angle"))


class Ramp(nn.Module):
    """Multiplies the image by its columns' numbers: its average tells where the dot is."""

    def forward(self, x):
        return x * torch.arange(x.shape[-1])


class Forget(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def copying(channels):
    """A convolution that copies the image, into so many channels."""
    conv = nn.Conv2d(1, channels, 1, bias=False)
    nn.init.ones_(conv.weight)
    return conv


def test_a_layer_that_copies_keeps_the_image_and_one_that_forgets_keeps_nothing():
    images = scattered()
    encoder = nn.Sequential(copying(1), Ramp(), Forget(), nn.Flatten())
    data = Dataset("dots", images.subset(torch.arange(200)), images.subset(torch.arange(200, 300)))
    table = what_is_kept(encoder, data, ["0", "1", "2"]).set_index("layer")
    assert list(table.columns) == ["rank", "rebuild", "x", "y", "angle"]
    assert table.loc["0", "rebuild"] > 0.1 > 0.05 > table.loc["2", "rebuild"]
    assert table.loc["1", "x"] > 0.8 and table.loc["1", "y"] < 0.2 and table.loc["0", "x"] < 0.2
    assert abs(table.loc["2", ["x", "y", "angle"]]).max() < 0.1
    assert not any(m._forward_hooks for m in encoder.modules()) and encoder.training


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


def test_the_same_is_read_from_maps_that_have_their_channels_last():
    images = scattered(80)
    encoder = nn.Sequential(copying(3), ChannelsLast(), nn.Flatten(1, 2), nn.Flatten())
    data = Dataset("dots", images.subset(torch.arange(50)), images.subset(torch.arange(50, 80)))
    table = what_is_kept(encoder, data, ["0", "1"]).drop(columns="layer")
    assert table.loc[0].tolist() == pytest.approx(table.loc[1].tolist(), abs=1e-4)
    with pytest.raises(ValueError, match=r"layer '2' is \[50, 64, 3\]: expected a map"):
        what_is_kept(encoder, data, ["2"])


def test_a_layer_that_is_not_there_is_an_error_and_leaves_no_hook():
    images = scattered(20)
    encoder = nn.Sequential(nn.Identity(), nn.Flatten())
    with pytest.raises(ValueError, match="'5' matches nothing"):
        what_is_kept(encoder, Dataset("dots", images, images), ["5"])
    assert not any(m._forward_hooks for m in encoder.modules())


def test_a_channel_that_is_almost_always_zero_does_not_spoil_the_reading():
    generator = torch.Generator().manual_seed(0)
    x, x_test = torch.randn(2, 200, 5, generator=generator)
    noise = torch.randn(200, generator=generator)
    rare, rare_test = torch.zeros(2, 200, 1)
    rare[0], rare_test[:20] = 1e-3, 1.0
    y, y_test = x.sum(1, keepdim=True) + noise[:, None], x_test.sum(1, keepdim=True)
    assert ridge_r2(torch.cat((x, rare), 1), torch.cat((x_test, rare_test), 1), y, y_test) > 0.9
