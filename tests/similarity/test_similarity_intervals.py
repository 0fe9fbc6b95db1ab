"""Intervals: of a mean the textbook's, of every measure what leaving samples out by hand gives."""

import numpy as np
import pytest
import torch
from scipy import stats
from small_features import normal, related
from torch import nn

from simlab.similarity import MEASURES, Result, cka_similarity, compare, mutual_knn_similarity
from simlab.similarity.intervals import groups_left_out, jackknife_interval, sums_without_each


def test_of_a_mean_it_is_students_interval():
    x = np.random.default_rng(0).normal(size=(12, 3))
    without = sums_without_each(x) / 11
    low, high = jackknife_interval(x.mean(0), without, 0.9)
    truth = stats.t.interval(0.9, 11, loc=x.mean(0), scale=stats.sem(x))
    assert np.allclose((low, high), truth)


def test_groups_cover_all_samples_and_are_drawn_without_replacement():
    rests = groups_left_out(43, 10, seed=0)
    left_out = [set(range(43)) - set(rest.tolist()) for rest in rests]
    assert sorted(map(len, left_out)) == [4] * 7 + [5] * 3
    assert set.union(*left_out) == set(range(43))
    assert all(len(set(rest.tolist())) == len(rest) for rest in rests)
    assert any(
        rest.tolist() != other.tolist() for rest, other in zip(rests, rests[1:], strict=False)
    )
    again = groups_left_out(43, 10, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(rests, again, strict=True))


def test_a_level_is_a_share():
    with pytest.raises(ValueError, match="level=95"):
        jackknife_interval(np.zeros(1), np.zeros((10, 1)), 95)


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


def test_every_measure_has_an_interval_and_keeps_it_in_a_file(tmp_path):
    x, y = related(n=60)
    names = [name for name in MEASURES if not MEASURES[name].logits]
    result = compare_pair(x, y, names, jackknife=10)
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
    result = compare(PAIR_OF_LOGITS, data, "out", measures, samples=60, jackknife=10)
    for name in measures:
        low, high = result.interval(measure=name)
        assert 0 <= low < high <= 1


def test_what_is_left_out_is_left_out_of_everything():
    """The values without a group are those of the functions on the other samples."""
    x, y = related(n=50)
    result = compare_pair(x, y, ["cka", "mutual_knn"], jackknife=10, seed=3)
    column = len(result.layers_of("a"))
    for group, rest in enumerate(groups_left_out(50, 10, seed=3)):
        cka = result.without["cka"][group, 0, column]
        knn = result.without["mutual_knn"][group, 0, column]
        assert cka == pytest.approx(cka_similarity(x[rest], y[rest]), abs=1e-5)
        assert knn == pytest.approx(mutual_knn_similarity(x[rest], y[rest]), abs=1e-5)


def test_a_confounder_is_left_out_with_its_samples():
    x, y = related(n=50)
    tensor = normal(50, 5, seed=9).float()
    result = compare_pair(x, y, "deconfounded_cka", confounder=tensor, jackknife=10)
    assert result.without["deconfounded_cka"].std(0)[0, 1] < 0.1
    given = compare_pair(x, y, "deconfounded_cka", jackknife=10)  # the samples themselves
    low, high = given.interval()
    assert low < given.matrix < high


def test_a_layer_beside_itself_has_an_interval_of_no_width():
    x, y = related(n=60)
    result = compare_pair(x, y, "cka", jackknife=10)
    low, high = result.interval("a", "a")
    assert low.item() == pytest.approx(1, abs=1e-6) and high.item() == pytest.approx(1, abs=1e-6)


def test_most_intervals_hold_the_mean_of_many_draws():
    """60 draws of 60 samples; benchmarks/bench_intervals.py has 200 for every measure."""
    truth = np.mean([cka_similarity(*draw(seed)) for seed in range(1000, 1400)])
    hits = 0
    for seed in range(60):
        x, y = draw(seed)
        without = [cka_similarity(x[rest], y[rest]) for rest in groups_left_out(60, 20, seed)]
        low, high = jackknife_interval(cka_similarity(x, y), np.array(without))
        hits += low <= truth <= high
    assert 51 <= hits <= 60


def draw(seed):
    x = normal(60, 6, seed=seed)
    return x, x @ normal(6, 5, seed=1) + normal(60, 5, seed=9000 + seed)
