"""CKNNA and linear predictivity against independent computations and published code."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from small_features import normal, related, rotation

from simlab.similarity import (
    MEASURES,
    Representation,
    cknna_similarity,
    predictivity,
    regression_similarity,
)
from simlab.similarity.measures.predictivity import PENALTIES, _leave_one_out_error, _splits

# ------------------------------------------------------------------------------------------ CKNNA


def neighbours_of(rows, i, k):
    """Indices of the k other rows with the largest cosine to row i, one by one."""
    others = [j for j in range(len(rows)) if j != i]
    return sorted(others, key=lambda j: -(rows[i] @ rows[j]))[:k]


def song_by_loops(k, m):
    """HSIC1 of Song 2012, eq. 5, with every sum written out, for kernels that are not symmetric."""
    n = len(k)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    first = sum(k[i, j] * m[j, i] for i, j in pairs)
    second = sum(k[i, j] for i, j in pairs) * sum(m[i, j] for i, j in pairs)
    third = sum(k[i, j] * m[j, h] for i, j in pairs for h in range(n) if h != j)
    return (first + second / ((n - 1) * (n - 2)) - 2 * third / (n - 2)) / (n * (n - 3))


def cknna_by_loops(x, y, k):
    x, y = (v.numpy() / np.linalg.norm(v.numpy(), axis=1, keepdims=True) for v in (x, y))
    n = len(x)

    def aligned(a, b):
        left, right = np.zeros((n, n)), np.zeros((n, n))
        for i in range(n):
            for j in set(neighbours_of(a, i, k)) & set(neighbours_of(b, i, k)):
                left[i, j], right[i, j] = a[i] @ a[j], b[i] @ b[j]
        return song_by_loops(left, right)

    return aligned(x, y) / np.sqrt(aligned(x, x) * aligned(y, y))


@pytest.mark.parametrize("k", [2, 5, 11])
def test_cknna_is_its_definition_by_loops(k):
    x, y = related(n=16)
    x = x + 0.5  # rows are not centred
    for a, b in ((x, y), (y, x)):
        assert cknna_similarity(a, b, k=k) == pytest.approx(cknna_by_loops(a, b, k), abs=1e-12)


def test_cknna_is_what_the_authors_code_gives():
    """platonic-rep, metrics.py at dcd76ba, rows of length 1; it adds 1e-6 to a denominator."""

    def waves(rows, columns, wave, step=1):
        count = torch.arange(1, rows * columns + 1, dtype=torch.float64)
        return wave(step * count**2).reshape(rows, columns)

    x = waves(12, 5, torch.sin)
    y = x @ waves(5, 4, torch.cos) + 0.5 * waves(12, 4, torch.sin, step=3)
    published = {2: (0.51903, 0.54195), 3: (0.58207, 0.58923), 5: (0.67232, 0.64604)}
    for k, (forth, back) in published.items():
        assert cknna_similarity(x, y, k=k) == pytest.approx(forth, abs=2e-5)
        assert cknna_similarity(y, x, k=k) == pytest.approx(back, abs=2e-5)


def test_cknna_ignores_rotation_and_lengths_and_notices_a_shift():
    x, y = related()
    value = cknna_similarity(x, y)
    assert 0.1 < value < 0.9
    assert cknna_similarity(x, x) == pytest.approx(1, abs=1e-12)
    assert cknna_similarity(x, 3e4 * y @ rotation(9)) == pytest.approx(value, abs=1e-9)
    lengths = normal(60, 1, seed=4).exp()
    assert cknna_similarity(x, y * lengths) == pytest.approx(value, abs=1e-9)
    assert abs(cknna_similarity(x, y + 30) - value) > 1e-2


def test_cknna_of_independent_features_is_about_the_chance_that_neighbours_agree():
    values = [
        cknna_similarity(normal(60, 8, seed=s), normal(60, 8, seed=99 + s)) for s in range(20)
    ]
    assert np.mean(values) == pytest.approx(10 / 59, abs=0.04)


def test_a_row_of_zeros_has_the_cosine_zero_with_every_other():
    x, y = related(n=16)
    x[3] = 0
    k = 15  # all others are neighbours: ties do not matter
    rows = [torch.nn.functional.normalize(v) for v in (x, y)]
    left, right = (v @ v.T for v in rows)
    sums = [song_by_loops(*pair) for pair in ((left, right), (left, left), (right, right))]
    truth = sums[0] / np.sqrt(sums[1] * sums[2])
    assert cknna_similarity(x, y, k=k) == pytest.approx(truth.item(), abs=1e-12)


def test_cknna_of_bad_input_is_refused_or_undefined():
    x, y = related(n=16)
    for k in (1, 16):
        with pytest.raises(ValueError, match=f"k={k}: expected 2 <= k < 16"):
            cknna_similarity(x, y, k=k)
    assert np.isnan(cknna_similarity(x, torch.ones(16, 3)))
    with pytest.raises(ValueError, match="needs the raw features"):
        cknna_similarity(Representation.from_gram(x @ x.T), y)


# ------------------------------------------------------------------------------------ predictivity


def with_scikit_learn(x, y, folds, seed):
    """R^2 and mean r of RidgeCV on the same folds, in NumPy."""
    residual = total = 0
    correlations = []
    for fitted, held_out in _splits(len(x), folds, seed):
        x_fit, y_fit, truth = x[fitted].numpy(), y[fitted].numpy(), x[held_out].numpy()
        unit = ((y_fit - y_fit.mean(0)) ** 2).sum() / len(y_fit)
        model = RidgeCV([unit * penalty for penalty in PENALTIES]).fit(y_fit, x_fit)
        prediction = model.predict(y[held_out].numpy())
        residual += ((truth - prediction) ** 2).sum()
        total += ((truth - x_fit.mean(0)) ** 2).sum()
        columns = zip(truth.T, prediction.T, strict=True)
        correlations += [np.corrcoef(a, b)[0, 1] for a, b in columns]
    return 1 - residual / total, np.mean(correlations)


@pytest.mark.parametrize("n, p, q, folds", [(100, 12, 9, 5), (60, 12, 90, 4), (30, 70, 50, 10)])
def test_predictivity_is_that_of_scikit_learns_ridge_on_the_same_folds(n, p, q, folds):
    x, y = related(n=n, p=p, q=q)
    for seed in (0, 1):
        r2, r = with_scikit_learn(x, y, folds, seed)
        assert predictivity(x, y, folds=folds, seed=seed) == pytest.approx(r2, abs=1e-9)
        value = predictivity(x, y, score="pearson", folds=folds, seed=seed)
        assert value == pytest.approx(r, abs=1e-9)


def test_the_leave_one_out_error_is_that_of_as_many_refits():
    x, y = related(n=15, q=6)
    x = x - x.mean(0)
    y = y - y.mean(0)
    u, s, _ = torch.linalg.svd(y, full_matrices=False)
    penalty = 2.5
    truth = 0.0
    for i in range(15):
        rest = torch.arange(15) != i
        x_mean, y_mean = x[rest].mean(0), y[rest].mean(0)
        centred = y[rest] - y_mean
        gram = centred.T @ centred + penalty * torch.eye(6, dtype=torch.float64)
        weights = torch.linalg.solve(gram, centred.T @ (x[rest] - x_mean))
        truth += float((x[i] - x_mean - (y[i] - y_mean) @ weights).square().sum())
    assert _leave_one_out_error(x, u, s, u.T @ x, penalty) == pytest.approx(truth, rel=1e-10)


def test_independent_features_predict_nothing_where_the_in_sample_r2_is_one():
    x, y = normal(60, 20), normal(60, 100, seed=1)
    assert regression_similarity(x, y) == pytest.approx(1, abs=1e-9)
    assert -0.2 < predictivity(x, y) < 0.05
    assert abs(predictivity(x, y, score="pearson")) < 0.15


def test_a_linear_map_is_predicted_and_what_it_leaves_out_is_not():
    x = normal(200, 10)
    y = x[:, :5] @ normal(5, 30, seed=1)
    assert predictivity(y, x) > 0.999
    assert predictivity(x, y) == pytest.approx(0.5, abs=0.07)  # half of x's variance is in y
    assert predictivity(x, x) == pytest.approx(1, abs=1e-6)


def test_scale_shift_and_rotation_do_not_matter_to_predictivity():
    x, y = related()
    for score in ("r2", "pearson"):
        value = predictivity(x, y, score=score)
        moved = 1e6 * y @ rotation(9) + 100
        assert predictivity(1e-6 * x, moved, score=score) == pytest.approx(value, abs=1e-8)
    turned = predictivity(x @ rotation(12), y)
    assert turned == pytest.approx(predictivity(x, y), abs=1e-9)


def test_bad_predictivity_is_refused():
    x, y = related(n=20)
    for folds in (1, 7):
        with pytest.raises(ValueError, match=f"folds={folds}: expected 2 <= folds <= 6 for 20"):
            predictivity(x, y, folds=folds)
    with pytest.raises(ValueError, match="score='r'"):
        predictivity(x, y, score="r")
    gram = Representation.from_gram(x @ x.T)
    assert predictivity(gram, y) == pytest.approx(predictivity(x, y), abs=1e-9)
    with pytest.raises(ValueError, match="a Gram does not determine"):
        predictivity(gram, y, score="pearson")
    assert np.isnan(predictivity(x, torch.ones(20, 3)))
    assert np.isnan(predictivity(torch.ones(20, 3), x))


# ----------------------------------------------------------------------------------- in `compare`


@pytest.mark.long
def test_compare_gives_what_the_functions_give():
    from small_models import LAYERS, A, B, X, features

    from simlab.similarity import compare

    names = ["cknna", "predictivity", "predictivity_pearson"]
    options = {"cknna": {"k": 5}, "predictivity": {"folds": 3}}
    layers = [str(layer) for layer in LAYERS[1:]]
    result = compare({"a": A, "b": B}, X, layers, names, samples=60, options=options)
    for i, one in enumerate(LAYERS[1:]):
        for j, two in enumerate(LAYERS[1:]):
            x, y = features(A, X[:60], one), features(B, X[:60], two)
            assert result.block(measure="cknna")[i, j] == pytest.approx(
                cknna_similarity(x, y, k=5), abs=1e-4
            )
            assert result.block(measure="predictivity")[i, j] == pytest.approx(
                predictivity(x, y, folds=3), abs=1e-4
            )
            back = result.block("b", "a", "predictivity_pearson")[j, i]
            assert back == pytest.approx(predictivity(y, x, score="pearson"), abs=1e-4)
    assert not any(MEASURES[name].symmetric for name in names)
