"""Intervals: of a mean the textbook's, of every measure what leaving samples out by hand gives."""

import numpy as np
import pytest
import torch
from scipy import stats
from small_features import normal, related
from torch import nn

from simlab.similarity import (
    MEASURES,
    Result,
    cka_similarity,
    compare,
    deconfounded_cka_similarity,
    mutual_knn_similarity,
)
from simlab.similarity.intervals import (
    groups_left_out,
    halving_variance,
    interval_of,
    jackknife_variance,
    random_halves,
    sums_without_each,
)


def test_of_a_mean_it_is_students_interval():
    x = np.random.default_rng(0).normal(size=(12, 3))
    without = sums_without_each(x) / 11
    low, high = interval_of(x.mean(0), without, level=0.9)
    truth = stats.t.interval(0.9, 11, loc=x.mean(0), scale=stats.sem(x))
    assert np.allclose((low, high), truth)


def test_groups_and_halves_are_drawn_without_replacement():
    rests = groups_left_out(43, 10, seed=0)
    left_out = [set(range(43)) - set(rest.tolist()) for rest in rests]
    assert sorted(map(len, left_out)) == [4] * 7 + [5] * 3
    assert set.union(*left_out) == set(range(43))
    assert all(len(set(rest.tolist())) == len(rest) for rest in rests)
    for first, second in random_halves(43, 10, seed=0):
        assert (len(first), len(second)) == (21, 22)
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(43))
    again = random_halves(43, 10, seed=0), random_halves(43, 10, seed=0)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*again, strict=True))
    assert len({tuple(first.tolist()) for first, _ in again[0]}) == 10


@pytest.mark.parametrize("mean, inflated", [(2.0, 1.0), (0.0, 2.0)])
def test_what_is_due_to_pairs_is_counted_once(mean, inflated):
    """The mean of x_i x_j over pairs. For x of mean 0 the jackknife alone gives twice its variance.

    Its variance is 4 mean^2 / n + 2 / (n(n-1)) for x of variance 1.
    """
    n = 24
    random = np.random.default_rng(0)

    def statistic(x):
        return (x.sum() ** 2 - (x**2).sum()) / (len(x) * (len(x) - 1))

    jackknife = []
    corrected = []
    for seed in range(120):
        x = random.normal(mean, size=n)
        without = np.array([statistic(x[rest]) for rest in groups_left_out(n, 12, seed)])
        cuts = random_halves(n, 20, seed)
        halves = np.array([[statistic(x[half]) for half in cut] for cut in cuts])
        jackknife.append(jackknife_variance(without)[0])
        corrected.append(jackknife_variance(without, halves)[0])
    truth = 4 * mean**2 / n + 2 / (n * (n - 1))
    assert np.mean(jackknife) == pytest.approx(inflated * truth, rel=0.35)
    assert 0.8 * truth < np.mean(corrected) < np.mean(jackknife)
    if mean == 0:
        assert np.mean(corrected) < 0.85 * np.mean(jackknife)


def test_a_level_is_a_share():
    with pytest.raises(ValueError, match="level=95"):
        interval_of(np.zeros(1), np.zeros((10, 1)), level=95)


class Half(nn.Module):
    """Features that were drawn before: the first columns of the input, or the others."""

    def __init__(self, columns):
        super().__init__()
        self.columns = columns
        self.out = nn.Identity()

    def forward(self, x):
        return self.out(x[:, self.columns])


PAIR = {"a": Half(slice(0, 12)), "b": Half(slice(12, 21))}
PAIR_OF_LOGITS = {"a": Half(slice(0, 9)), "b": Half(slice(12, 21))}


def compare_pair(x, y, measures, **options):
    data = torch.cat([x, y], 1).float()
    return compare(PAIR, data, "out", measures, samples=len(x), **options)


@pytest.mark.long
def test_every_measure_has_an_interval_and_keeps_it_in_a_file(tmp_path):
    x, y = related(n=40)
    names = [name for name in MEASURES if not MEASURES[name].logits]
    options = {"predictivity": {"folds": 2}, "predictivity_pearson": {"folds": 2}}
    result = compare_pair(x, y, names, resamples=10, options=options)
    for name in names:
        assert result.has_interval(name)
        low, high = result.interval(measure=name)
        value = result.block(measure=name)
        assert low < value, name
        assert value < high, name
    back = Result.load(result.save(tmp_path / "with.npz"))
    assert np.array_equal(back.interval(measure="rsa")[0], result.interval(measure="rsa")[0])


def test_logits_have_intervals_too():
    x, y = related(n=60)
    data = torch.cat([x, y], 1).float()
    measures = ["disagreement", "jensen_shannon"]
    result = compare(PAIR_OF_LOGITS, data, "out", measures, samples=60, resamples=10)
    for name in measures:
        low, high = result.interval(measure=name)
        assert 0 <= low < high <= 1


def test_what_is_left_out_is_left_out_of_everything():
    """The values of parts are those of the functions on these samples."""
    x, y = related(n=50)
    result = compare_pair(x, y, ["cka", "mutual_knn"], resamples=10, seed=3)
    column = result.layers_of("b")[0].row
    parts = {}
    for number, rest in enumerate(groups_left_out(50, 10, seed=3)):
        parts[number] = rest, {name: result.without[name][number] for name in result.without}
    for number, cut in enumerate(random_halves(50, 5, seed=3)):
        values = {name: result.halves[name][number, 1] for name in result.values}
        parts[f"half {number}"] = cut[1], values
    functions = {"cka": cka_similarity, "mutual_knn": mutual_knn_similarity}
    for index, values in parts.values():
        for name in values:
            value = values[name][0, column]
            assert value == pytest.approx(functions[name](x[index], y[index]), abs=1e-5)
    assert set(result.without) == {"cka"}  # of nearest neighbours halves alone


def test_a_confounder_is_left_out_with_its_samples():
    x, y = related(n=50)
    tensor = normal(50, 5, seed=9).float()
    result = compare_pair(x, y, "deconfounded_cka", confounder=tensor, resamples=10)
    for number, (first, _) in enumerate(random_halves(50, 5, seed=0)):
        value = result.halves["deconfounded_cka"][number, 0, 0, 1]
        z = tensor[first].double()
        truth = deconfounded_cka_similarity(x[first], y[first], z)
        assert value == pytest.approx(truth, abs=1e-4)
    given = compare_pair(x, y, "deconfounded_cka", resamples=10)  # the samples themselves
    low, high = given.interval()
    assert low < given.matrix < high


def test_a_layer_beside_itself_has_an_interval_of_no_width():
    x, y = related(n=60)
    result = compare_pair(x, y, "cka", resamples=10)
    low, high = result.interval("a", "a")
    assert low.item() == pytest.approx(1, abs=1e-6) and high.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.long
def test_most_intervals_hold_the_mean_of_many_draws():
    """60 draws of 60 samples; benchmarks/bench_intervals.py has every measure."""
    truth = np.mean([cka_similarity(*draw(seed)) for seed in range(1000, 1300)])
    hits = 0
    for seed in range(60):
        x, y = draw(seed)
        rests = groups_left_out(60, 12, seed)
        without = np.array([cka_similarity(x[rest], y[rest]) for rest in rests])
        cuts = random_halves(60, 6, seed)
        halves = np.array([[cka_similarity(x[half], y[half]) for half in cut] for cut in cuts])
        low, high = interval_of(np.array(cka_similarity(x, y)), without, halves)
        hits += low <= truth <= high
    assert 52 <= hits <= 60


@pytest.mark.long
def test_of_nearest_neighbours_halves_tell_the_variance_and_leaving_out_overstates_it():
    """100 draws of 40 samples: the variance between them, and what is estimated from 25 of them."""

    def overlap(x, y):
        return mutual_knn_similarity(x, y, k=5)

    truth = np.var([overlap(*draw(seed, 40)) for seed in range(1000, 1100)], ddof=1)
    halved = []
    jackknifed = []
    for seed in range(25):
        x, y = draw(seed, 40)
        cuts = random_halves(40, 8, seed)
        halves = np.array([[overlap(x[half], y[half]) for half in cut] for cut in cuts])
        rests = groups_left_out(40, 10, seed)
        without = np.array([overlap(x[rest], y[rest]) for rest in rests])
        halved.append(halving_variance(halves)[0])
        jackknifed.append(jackknife_variance(without, halves)[0])
    assert 0.6 < np.mean(halved) / truth < 1.6
    assert np.mean(jackknifed) > 1.2 * np.mean(halved)


def test_a_correlations_interval_is_fishers_and_ends_below_one():
    halves = np.array([[0.90, 0.94], [0.95, 0.89], [0.91, 0.93], [0.96, 0.90]])
    value = np.array(0.93)
    low, high = interval_of(value, None, halves, is_correlation=True)
    plain_low, plain_high = interval_of(np.arctanh(value), None, np.arctanh(halves))
    assert (low, high) == pytest.approx((np.tanh(plain_low), np.tanh(plain_high)))
    assert high < 1 and value - low > high - value
    low, high = interval_of(np.array(1.0), None, np.ones((4, 2)), is_correlation=True)
    assert low == pytest.approx(1) and high == pytest.approx(1)


@pytest.mark.long
def test_the_correlation_of_a_prediction_has_fishers_interval_and_keeps_it_in_a_file(tmp_path):
    x, y = related(n=60)
    result = compare_pair(x, y, "predictivity_pearson", resamples=10)
    name = "predictivity_pearson"
    expected = interval_of(result.values[name], None, result.halves[name], is_correlation=True)
    low, high = result.interval("a", "b")
    assert low.item() == pytest.approx(expected[0][0, 1])
    assert high.item() == pytest.approx(min(1, expected[1][0, 1]))
    result.save(tmp_path / "result.npz")
    assert np.array_equal(type(result).load(tmp_path / "result.npz").interval("a", "b")[0], low)


def draw(seed, n=60):
    x = normal(n, 6, seed=seed)
    return x, x @ normal(6, 5, seed=1) + normal(n, 5, seed=9000 + seed)
