"""The measures of collapse against closed forms, invariances and what they must miss."""

import math

import pytest
import torch
from collapsed_features import D, N, clusters, flat, noise, rotation
from hypothesis import given, settings
from hypothesis import strategies as st

from simlab.evaluate import collapse as C

SCALARS = [
    C.feature_std,
    C.effective_rank,
    C.participation_ratio,
    C.uniformity,
    *(lambda z, i=i: C.near_duplicates(z)[i] for i in range(3)),
]


# -- closed forms ----------------------------------------------------------------------------------


def test_orthonormal_rows_use_every_dimension_equally():
    z = torch.eye(D)
    assert C.spectrum(z) == pytest.approx(torch.ones(D, dtype=torch.float64))
    assert C.effective_rank(z) == pytest.approx(D)
    assert C.participation_ratio(z) == pytest.approx(D - 1)  # centring costs one
    assert C.uniformity(z) == pytest.approx(-4)  # all squared distances are 2
    assert C.near_duplicates(z) == (0, D, 0)


def test_isotropic_features_have_std_one_over_sqrt_d():
    m = C.collapse_metrics(noise(4000, 32))
    assert m["std"] == pytest.approx(1 / math.sqrt(32), rel=0.01)
    assert m["std_ratio"] == pytest.approx(1, rel=0.01)
    assert m["rank_ratio"] == pytest.approx(1, abs=0.02)
    assert m["uniformity"] == pytest.approx(-4 + 8 / 32, abs=0.05)


@pytest.mark.parametrize("z", [torch.ones(N, D), torch.full((N, D), -3e-3).half()])
def test_identical_features_are_complete_collapse_in_every_measure_that_sees_it(z):
    m = C.collapse_metrics(z)
    assert m["std"] == pytest.approx(0, abs=1e-9)
    assert m["rank"] == pytest.approx(1, abs=1e-5)
    assert m["participation"] == 0 and m["uniformity"] == pytest.approx(0, abs=1e-9)
    assert (m["duplicate_fraction"], m["distinct_points"]) == (1, 1)


def test_all_zero_features_have_no_rank_and_no_nan():
    m = C.collapse_metrics(torch.zeros(N, D))
    assert m["rank"] == m["std"] == m["participation"] == 0
    assert all(math.isfinite(v) for v in m.values())


def test_the_rms_std_equals_the_root_of_one_minus_the_mean_pairwise_cosine():
    z = noise() + 1.5
    u = torch.nn.functional.normalize(z, dim=1)
    rms = u.var(0).sum().sqrt()
    cosines = (u @ u.T)[~torch.eye(N, dtype=torch.bool)]
    assert rms == pytest.approx((1 - cosines.mean()).sqrt().item(), rel=1e-10)
    assert C.feature_std(z) * math.sqrt(D) <= rms  # a mean of stds is at most the RMS


def test_two_opposite_points_are_rank_one_and_as_far_apart_as_can_be():
    z = torch.tensor([[3.0, 0], [-1, 0]])
    assert C.effective_rank(z) == pytest.approx(1)
    assert C.uniformity(z) == pytest.approx(-8)
    assert C.feature_std(z) == pytest.approx(math.sqrt(2) / 2)  # (N - 1): sqrt(2), and 0


def test_the_effective_rank_and_spectrum_are_those_of_the_singular_value_decomposition():
    for z in (noise(40, 90) + 1, noise(90, 40) + 1):  # both Gram matrices
        s = torch.linalg.svdvals(torch.nn.functional.normalize(z, dim=1))
        p = s / s.sum()
        assert C.spectrum(z) == pytest.approx(s, abs=1e-9)
        assert C.effective_rank(z) == pytest.approx(math.exp(-(p * p.log()).sum()))
        lam = torch.linalg.eigvalsh(torch.nn.functional.normalize(z, dim=1).T.cov())
        assert C.participation_ratio(z) == pytest.approx((lam.sum() ** 2 / (lam**2).sum()).item())


def test_uniformity_and_twins_in_uneven_blocks_equal_the_whole_matrix_of_pairs(monkeypatch):
    z = clusters(100) + 1
    u = torch.nn.functional.normalize(z, dim=1)
    d = torch.cdist(u, u).square()
    off = ~torch.eye(N, dtype=torch.bool)
    close = (d <= C.DUPLICATE_DISTANCE * d[off].mean()) | ~off
    monkeypatch.setattr(C, "BLOCK", 50 * N)
    assert [len(b) for b in C._squared_distances(u)] == [50] * 5 + [6]
    assert C.uniformity(z) == pytest.approx(torch.exp(-2 * d)[off].mean().log().item())
    share, distinct, dimension = C.near_duplicates(z)
    assert share == pytest.approx((close.sum(1) > 1).double().mean().item())
    assert distinct == pytest.approx(N**2 / close.sum().item())
    nearer = (d <= C.DUPLICATE_DISTANCE / 4 * d[off].mean()) | ~off
    ratio = (close.sum() - N + 1) / (nearer.sum() - N + 1)
    assert dimension == pytest.approx(math.log2(ratio))


def test_alignment_is_zero_for_equal_directions_two_for_unrelated_four_for_opposite():
    z = noise(2000)
    assert C.alignment(z, 3 * z) == pytest.approx(0, abs=1e-12)
    assert C.alignment(z, noise(2000, seed=5)) == pytest.approx(2, abs=0.05)
    assert C.alignment(z, -z) == pytest.approx(4)
    assert C.alignment(z, z.flip(0)) != pytest.approx(0, abs=0.5)  # the pairing matters


# -- invariances and non-invariances ---------------------------------------------------------------


@pytest.mark.parametrize("measure", SCALARS)
def test_measures_ignore_the_length_of_a_row_and_the_order_of_images(measure):
    z = clusters(30, width=0.05) + 0.3
    lengths = torch.linspace(0.1, 20, N, dtype=torch.float64)[:, None]
    assert measure(z * lengths) == pytest.approx(measure(z), rel=1e-9)
    assert measure(z.flip(0)) == pytest.approx(measure(z), rel=1e-9)


@pytest.mark.parametrize("measure", SCALARS[1:])
def test_measures_but_the_std_ignore_rotation(measure):
    z = clusters(30, width=0.05) + 0.3
    assert measure(z @ rotation()) == pytest.approx(measure(z), rel=1e-6)


def test_rank_sees_rotated_dimensional_collapse_that_the_std_misses():
    m = C.collapse_metrics(flat(4))
    assert m["std_ratio"] > 0.85
    assert m["rank"] == pytest.approx(4, abs=0.1)
    assert m["participation"] == pytest.approx(4, abs=0.2)


def test_participation_sees_through_weak_noise_that_lifts_the_rank():
    z = flat(3) + 0.05 * noise(seed=7)
    assert C.participation_ratio(z) < 6 < 20 < C.effective_rank(z)


def test_rank_is_not_centred_so_that_rounding_noise_does_not_hide_complete_collapse():
    z = torch.ones(N, D) + 1e-6 * noise().float()
    assert C.effective_rank(z) < 1.01
    assert C.participation_ratio(z) > 30  # as documented: the centred measure is blind to it


def test_k_tight_clusters_count_as_k_points_whatever_the_std_says():
    for k in (2, 8, 32):
        m = C.collapse_metrics(clusters(k))
        assert (m["duplicate_fraction"], m["distinct_points"]) == (1, pytest.approx(k))
    assert m["std_ratio"] > 0.9


@pytest.mark.parametrize("r", [1, 2, 3])
def test_the_twins_of_a_smooth_cloud_have_its_dimension_and_those_of_clusters_none(r):
    cloud = torch.cat([noise(2000, r, 3), torch.ones(2000, 1) * 5], 1)  # flat but for its length
    assert C.near_duplicates(cloud)[2] == pytest.approx(r, abs=0.15)
    assert C.near_duplicates(clusters(10 * r))[2] == pytest.approx(0, abs=0.01)


def test_a_cloud_that_only_shrinks_gets_no_twins():
    for scale in (1, 1e-6):  # the second is under the rounding of distances without centring
        z = 100 + scale * noise()
        assert C.collapse_metrics(z)["std_ratio"] < 0.02
        assert C.near_duplicates(z) == (0, N, 0)


# -- types and bad input ---------------------------------------------------------------------------


def test_half_precision_features_are_measured_like_their_float64_copy():
    z = noise().bfloat16()
    assert C.collapse_metrics(z) == pytest.approx(C.collapse_metrics(z.double()), rel=1e-12)


def test_measures_take_features_that_require_gradients_and_leave_them_alone():
    z = noise().requires_grad_()
    C.collapse_metrics(z)
    assert z.grad is None and isinstance(C.feature_std(z), float)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=4))
def test_wrong_shapes_are_refused_with_the_shape(shape):
    z = torch.ones(shape)
    if len(shape) == 2 and shape[0] >= 2 and shape[1] >= 1:
        assert math.isfinite(C.feature_std(z))
    else:
        with pytest.raises(ValueError, match=r"\[N, D\]"):
            C.collapse_metrics(z)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_feature_that_is_not_finite_is_an_error_naming_the_row(bad):
    z = noise()
    z[17, 3] = bad
    for measure in (*SCALARS, C.spectrum, lambda z: C.alignment(noise(), z)):
        with pytest.raises(FloatingPointError, match="row 17"):
            measure(z)


def test_labels_and_unequal_views_are_refused():
    with pytest.raises(ValueError, match="int64"):
        C.feature_std(torch.ones(4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\[4, 3\].*\[5, 3\]"):
        C.alignment(torch.ones(4, 3), torch.ones(5, 3))
