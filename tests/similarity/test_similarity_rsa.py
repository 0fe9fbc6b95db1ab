"""RSA by every comparison of distances, with and without ties, against scipy and rsatoolbox."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr
from small_features import normal, related

from simlab.similarity import compare, rsa_similarity

BINARY = (normal(16, 5, seed=1) > 0).double(), (normal(16, 5, seed=2) > 0).double()


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "correlation", "cosine"])
def test_pearson_and_cosine_are_those_of_the_distances(metric):
    x, y = related()
    squared = metric == "sqeuclidean"
    options = {"metric": metric.removeprefix("sq"), "squared": squared}
    one, other = (pdist(v.numpy(), metric) for v in (x, y))
    truth = pearsonr(one, other).statistic
    assert rsa_similarity(x, y, comparison="pearson", **options) == pytest.approx(truth, abs=1e-9)
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert rsa_similarity(x, y, comparison="cosine", **options) == pytest.approx(cosine, abs=1e-9)


def tau_a_by_loops(one, other):
    pairs = list(itertools.combinations(range(len(one)), 2))
    signs = [np.sign(one[i] - one[j]) * np.sign(other[i] - other[j]) for i, j in pairs]
    return np.sum(signs) / len(pairs)


@pytest.mark.parametrize("x, y", [related(n=16), BINARY], ids=["no ties", "ties"])
def test_kendalls_tau_a_is_counted_over_all_pairs_of_distances(x, y):
    truth = tau_a_by_loops(*(pdist(v.numpy(), "sqeuclidean").round(9) for v in (x, y)))
    assert rsa_similarity(x, y, comparison="kendall") == pytest.approx(truth, abs=1e-9)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    value = rsa_similarity(x[order], y[order], comparison="kendall")
    assert value == pytest.approx(truth, abs=1e-9)


def test_equal_distances_everywhere_are_undefined():
    x = torch.eye(8, dtype=torch.float64)
    for comparison in ("spearman", "pearson", "kendall"):
        assert np.isnan(rsa_similarity(x, normal(8, 3), comparison=comparison))


def test_an_unknown_comparison_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="comparison='kendal'; did you mean 'kendall'"):
        rsa_similarity(*related(), comparison="kendal")


def test_compare_has_them_by_name_and_by_option():
    x, y = (v.float() for v in related(n=40))
    mixing = torch.nn.Linear(12, 9, bias=False).requires_grad_(False)
    other = torch.nn.Linear(12, 9, bias=False).requires_grad_(False)
    names = ["rsa", "rsa_pearson", "rsa_kendall", "rsa_correlation"]
    options = {"rsa": {"comparison": "cosine"}, "rsa_correlation": {"comparison": "pearson"}}
    result = compare({"a": mixing, "b": other}, x, "", names, samples=40, options=options)
    one, two = mixing(x), other(x)
    expected = {
        "rsa": {"comparison": "cosine"},
        "rsa_pearson": {"comparison": "pearson"},
        "rsa_kendall": {"comparison": "kendall"},
        "rsa_correlation": {"comparison": "pearson", "metric": "correlation"},
    }
    for name, keywords in expected.items():
        truth = rsa_similarity(one, two, **keywords)
        assert result.block(measure=name).item() == pytest.approx(truth, abs=1e-4)
