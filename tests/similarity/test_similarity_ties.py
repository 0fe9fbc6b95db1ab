"""Equal distances and identical samples share their ranks and places."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from torch import nn

from simlab.similarity import (
    Representation,
    compare,
    mutual_knn_similarity,
    rsa_similarity,
)
from simlab.similarity.distances import pair_distances

# -------------------------------------------------------------------------------------------- ties


def categories(classes=10, n=120, seed=0):
    """One-hot labels, and features that depend on them."""
    rng = np.random.default_rng(seed)
    labels = np.eye(classes)[rng.integers(0, classes, n)]
    return labels, labels @ rng.standard_normal((classes, 20)) + rng.standard_normal((n, 20))


def binary(n=80, width=6, seed=0):
    rows = np.random.default_rng(seed).random((n, width)) < 0.5
    rows[:, 0] |= ~rows.any(1)  # each has a direction
    rows[:, -1] &= ~rows.all(1)
    return rows.astype(float)


def sparse(n=90, width=12, seed=0):
    rng = np.random.default_rng(seed)
    return np.maximum(rng.standard_normal((n, width)) - 1.2, 0).astype(np.float32)


def spearman(x, y, metric="euclidean"):
    """From SciPy; distances that differ by SciPy's own rounding are equal."""
    tables = [np.round(pdist(v.astype(float), metric), 11) for v in (x, y)]
    return spearmanr(*tables).statistic


TIED = {
    "labels": categories(),
    "binary": (binary(), binary(seed=1)),
    "binary, wide": (binary(width=50), binary(width=50, seed=1)),
    "sparse": (sparse(), sparse(width=20, seed=1)),
    "repeated": (np.repeat(sparse(seed=2), 2, 0)[:90], sparse(seed=3)),
}


@pytest.mark.parametrize("name", TIED)
def test_rsa_with_tied_distances_is_scipys_in_any_order_of_the_samples(name):
    x, y = TIED[name]
    expected = spearman(x, y)
    assert expected == pytest.approx(spearmanr(pdist(x), pdist(y)).statistic, abs=1e-12)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(x))
        assert rsa_similarity(x[order], y[order]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
@pytest.mark.parametrize("name", ["labels", "binary", "binary, wide"])
def test_rsa_of_directions_keeps_the_ties_of_whole_numbers(name, metric):
    x, y = TIED[name]
    for order in (np.arange(len(x)), np.arange(len(x))[::-1]):
        value = rsa_similarity(x[order], y[order], metric=metric)
        assert value == pytest.approx(spearman(x, y, metric), abs=1e-9)


def test_rsa_of_a_gram_of_tied_distances_keeps_the_ties():
    x, y = TIED["labels"]
    x, y = (torch.from_numpy(v) for v in (x, y))
    grams = [Representation.from_gram(v @ v.T) for v in (x, y)]
    assert rsa_similarity(*grams) == pytest.approx(rsa_similarity(x, y), abs=1e-9)


def test_compare_ranks_the_distances_of_the_features():
    for name in ("labels", "binary", "sparse", "repeated"):
        x, y = (torch.from_numpy(v).float() for v in TIED[name])
        halves = [Columns(0, x.shape[1]), Columns(x.shape[1], None)]
        for order in (torch.arange(len(x)), torch.arange(len(x)).flip(0)):
            data = torch.cat([x, y], 1)[order]
            result = compare(halves, data, "same", "rsa", samples=len(x), batch_size=32)
            assert result.matrix[0, 0] == pytest.approx(spearman(x.numpy(), y.numpy()), abs=1e-5)


class Columns(nn.Module):
    """Hands on some columns of its input."""

    def __init__(self, start, stop):
        super().__init__()
        self.columns, self.same = slice(start, stop), nn.Identity()

    def forward(self, x):
        return self.same(x[:, self.columns])


def test_distances_far_below_the_features_rounding_in_a_gram_are_right():
    """Two samples ten million times nearer to each other than to the rest, in float32."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.integers(-9, 9, (20, 300)), 2, 0) + 1e-7 * rng.standard_normal((40, 300))
    x = torch.from_numpy(x)
    assert np.array_equal(np.argsort(pair_distances(x).numpy()), np.argsort(pdist(x.numpy())))


# -------------------------------------------------------------------------------------- neighbours


def test_mutual_knn_of_independent_features_with_identical_samples_is_at_chance():
    rng = np.random.default_rng(0)

    def mostly_zero():
        return np.maximum(rng.standard_normal((80, 3)) - 1, 0)

    for metric in ("euclidean", "cosine"):
        values = [
            mutual_knn_similarity(mostly_zero(), mostly_zero(), metric=metric) for _ in range(8)
        ]
        assert np.mean(values) == pytest.approx(10 / 79, abs=0.02)


def test_tied_neighbours_share_the_places_that_are_left():
    """Four at distance 1 compete for two places: each has half of one."""
    star = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1.0]])
    line = np.arange(5.0)[:, None]
    marks = np.array([[0, 0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0.5, 0.5], [1, 0, 0, 0.5, 0.5]])
    marks = np.concatenate([marks, [[1, 0.5, 0.5, 0, 0], [1, 0.5, 0.5, 0, 0]]])
    near = np.array([[0, 1, 1, 0, 0], [1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 1.0]])
    near = np.concatenate([near, [[0, 0, 1, 1, 0]]])
    assert mutual_knn_similarity(star, line, k=2) == pytest.approx((marks * near).sum() / 10)
    assert mutual_knn_similarity(star, star, k=2) == pytest.approx((marks * marks).sum() / 10)


def test_neighbours_in_very_tight_classes_are_those_of_float64():
    """Classes .0003 as wide as they are far apart: a Gram in float32 does not see into them."""
    rng = np.random.default_rng(0)
    inside = rng.standard_normal((96, 30))
    centres = np.repeat(rng.standard_normal((8, 30)), 12, 0)
    x = torch.from_numpy(centres + 3e-4 * inside).float()
    y = torch.from_numpy(inside + 0.7 * rng.standard_normal((96, 30))).float()
    models = [Columns(0, 30), Columns(30, None)]
    value = compare(models, torch.cat([x, y], 1), "same", "mutual_knn", samples=96).matrix[0, 0]
    order_x = np.argsort(np.linalg.norm((x[:, None] - x[None]).double(), axis=2), axis=1)
    order_y = np.argsort(np.linalg.norm((y[:, None] - y[None]).double(), axis=2), axis=1)
    pairs = zip(order_x[:, 1:11], order_y[:, 1:11], strict=True)
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in pairs])
    assert value == pytest.approx(expected, abs=1e-6)
    assert mutual_knn_similarity(x, y) == pytest.approx(expected, abs=1e-9)
