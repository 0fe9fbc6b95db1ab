"""What each measure must and must NOT be invariant to, its precision and its range (float64)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_features import CONFOUNDER, normal, related, rotation

from simlab.similarity import (
    Representation,
    cca_similarity,
    cka_similarity,
    deconfounded_cka_similarity,
    mutual_knn_similarity,
    procrustes_distance,
    pwcca_similarity,
    rbf_cka_similarity,
    regression_similarity,
    rsa_similarity,
    svcca_similarity,
)
from simlab.similarity import gram as g

ALL = {
    "cka": cka_similarity,
    "rbf_cka": rbf_cka_similarity,
    "procrustes": procrustes_distance,
    "cca": cca_similarity,
    "svcca": svcca_similarity,
    "pwcca": pwcca_similarity,
    "regression": regression_similarity,
    "rsa": rsa_similarity,
    "knn": mutual_knn_similarity,
    "dcka": lambda x, y: deconfounded_cka_similarity(x, y, CONFOUNDER),
}


SELF = {"procrustes": 0.0}
# What may be done to y without the value changing. Everything is invariant to a shift.
ROTATION = {
    "cka",
    "rbf_cka",
    "dcka",
    "procrustes",
    "cca",
    "svcca",
    "pwcca",
    "regression",
    "rsa",
    "knn",
}
LINEAR = {"cca", "pwcca", "regression"}  # in y: of any invertible map
SPREAD = torch.diag(torch.logspace(-1, 1, 9, dtype=torch.float64))


@pytest.mark.parametrize("name", ALL)
def test_a_representation_is_most_alike_to_itself(name):
    x, y = related()
    assert ALL[name](x, x) == pytest.approx(SELF.get(name, 1.0), abs=1e-9)
    assert abs(ALL[name](x, y) - SELF.get(name, 1.0)) > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_rotation_scale_and_shift_do_not_matter(name):
    x, y = related()
    moved = 3.7 * y @ rotation(9) + 100 * normal(1, 9, seed=5)
    assert name in ROTATION
    assert ALL[name](x, moved) == pytest.approx(ALL[name](x, y), abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_only_cca_its_weighted_kin_and_regression_ignore_a_stretch(name):
    x, y = related()
    change = abs(ALL[name](x, y @ SPREAD) - ALL[name](x, y))
    assert change < 1e-8 if name in LINEAR else change > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_swapping_the_arguments_matters_only_to_pwcca_and_regression(name):
    x, y = related()
    change = abs(ALL[name](x, y) - ALL[name](y, x))
    assert change > 1e-3 if name in ("pwcca", "regression") else change < 1e-9


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_samples_matters(name):
    x, y = related()
    assert abs(ALL[name](x, y.flip(0)) - ALL[name](x, y)) > 1e-2


@pytest.mark.parametrize("name", ALL)
def test_constant_features_are_undefined_not_zero(name):
    x, _ = related()
    for constant in (torch.full((60, 4), 0.1), torch.zeros(60, 4)):
        assert np.isnan(ALL[name](x, constant))
        assert np.isnan(ALL[name](constant, x))


@pytest.mark.parametrize("name", [n for n in ALL if n != "pwcca"])
@pytest.mark.parametrize("p", [12, 90])
def test_the_gram_alone_gives_the_same_as_the_features(name, p):
    x, y = related(p=p, q=9)
    gx, gy = (Representation.from_gram((v - 5) @ (v - 5).T) for v in (x, y))
    assert ALL[name](gx, gy) == pytest.approx(ALL[name](x, y), abs=1e-8)


def test_pwcca_of_a_gram_is_refused():
    x, y = related()
    with pytest.raises(ValueError, match="features of x"):
        pwcca_similarity(Representation.from_gram(x @ x.T), y)


# Precision.


@pytest.mark.parametrize("mean", [0, 30, 1000])
@pytest.mark.parametrize("p", [40, 300])
def test_float32_with_a_large_mean_agrees_with_float64(mean, p):
    base = normal(128, p)
    x = (base + mean).float()
    y = (base @ normal(p, 50, seed=1) / p**0.5 + normal(128, 50, seed=2) + mean).float()
    truth = cka_similarity(x.double() - x.double().mean(0), y.double() - y.double().mean(0))
    rows = [g.centre(g.centred_gram(v)[0]) for v in (x, y)]
    value = g.cosine(g.inner_products(torch.stack(rows)))[0, 1]
    assert value == pytest.approx(truth, abs=1e-6)
    assert 0.1 < truth < 0.9


# Bad input.


@pytest.mark.parametrize("name", [n for n in ALL if n != "dcka"])
def test_different_numbers_of_samples_are_refused(name):
    with pytest.raises(ValueError, match="60 and 59 rows"):
        ALL[name](normal(60, 3), normal(59, 3))


@pytest.mark.parametrize("name", [n for n in ALL if n != "dcka"])
def test_features_that_are_not_finite_are_refused(name):
    bad = normal(60, 3)
    bad[4, 1] = float("nan")
    with pytest.raises(ValueError, match="1 of 180 features"):
        ALL[name](normal(60, 3), bad)


def test_images_that_are_not_flattened_are_refused():
    with pytest.raises(ValueError, match=r"\(8, 3, 4, 4\).*flatten"):
        cka_similarity(torch.zeros(8, 3, 4, 4), torch.zeros(8, 3))


@given(k=st.integers(-5, 80))
@settings(max_examples=20, deadline=None)
def test_neighbours_are_between_one_and_all_other_samples(k):
    x, y = related(n=12)
    if 1 <= k < 12:
        assert 0 <= mutual_knn_similarity(x, y, k=k) <= 1 + 1e-12
    else:
        with pytest.raises(ValueError, match=f"k={k}"):
            mutual_knn_similarity(x, y, k=k)


@pytest.mark.long
@given(n=st.integers(4, 40), p=st.integers(1, 60), q=st.integers(1, 60), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_values_stay_in_their_range(n, p, q, seed):
    x, y = normal(n, p, seed=seed), normal(n, q, seed=seed + 100)
    assert abs(cka_similarity(x, y)) <= 1 + 1e-9 or np.isnan(cka_similarity(x, y))
    for measure in (cca_similarity, svcca_similarity, pwcca_similarity, regression_similarity):
        assert -1e-9 <= measure(x, y) <= 1 + 1e-9
    assert -1e-9 <= procrustes_distance(x, y) <= 2 + 1e-9
    assert abs(rsa_similarity(x, y)) <= 1 + 1e-9
