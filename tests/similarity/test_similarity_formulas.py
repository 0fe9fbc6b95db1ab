"""Each measure against its closed form (float64)."""

import numpy as np
import pytest
import torch
from small_features import CONFOUNDER, normal, related, rotation

from simlab.similarity import (
    Representation,
    cca_similarity,
    cka_similarity,
    deconfounded_cka_similarity,
    hsic,
    mutual_knn_similarity,
    procrustes_distance,
    pwcca_similarity,
    rbf_cka_similarity,
    regression_similarity,
    rsa_similarity,
    svcca_similarity,
)
from simlab.similarity import gram as g
from simlab.similarity.measures import rank_matrix


def test_biased_cka_is_the_ratio_of_frobenius_norms():
    x, y = (v - v.mean(0) for v in related())
    norm = torch.linalg.norm
    truth = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
    assert cka_similarity(x, y, debiased=False) == pytest.approx(truth.item(), rel=1e-12)


def test_biased_cka_of_two_samples_is_one():
    assert cka_similarity(normal(2, 5), normal(2, 7, seed=1), debiased=False) == pytest.approx(1)


@pytest.mark.parametrize("n, p, q", [(32, 64, 64), (64, 500, 30), (200, 20, 400)])
def test_biased_cka_of_independent_noise_follows_its_formula_and_debiased_is_zero(n, p, q):
    pairs = [(normal(n, p, seed=s), normal(n, q, seed=1000 + s)) for s in range(40)]
    biased = np.mean([cka_similarity(x, y, debiased=False) for x, y in pairs])
    assert biased == pytest.approx(1 / np.sqrt((1 + n / p) * (1 + n / q)), abs=0.03)
    values = [cka_similarity(x, y) for x, y in pairs]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(40) + 1e-3
    assert min(values) < 0  # negative values are legitimate


def song(k, m):
    """HSIC1 written out as in Song et al. 2012, equation 5."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    return (
        np.trace(k @ m)
        + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * one @ k @ m @ one
    ) / (n * (n - 3))


@pytest.mark.parametrize("p, q", [(12, 9), (90, 70), (90, 9)])
def test_hsic_is_songs_estimator_by_features_and_by_grams(p, q):
    x, y = related(p=p, q=q)
    truth = song((x @ x.T).numpy(), (y @ y.T).numpy())
    assert hsic(x, y) == pytest.approx(truth, rel=1e-9)
    a, b = (Representation.from_gram(v @ v.T) for v in (x, y))
    assert hsic(a, b) == pytest.approx(truth, rel=1e-9)


def test_u_centring_leaves_no_row_sums_no_diagonal_and_nothing_of_three_samples():
    k = related()[0]
    a = g.centre(k @ k.T)
    assert a.sum(1).abs().max() < 1e-10 and a.diagonal().abs().max() == 0
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        g.centre(torch.eye(3))
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        hsic(k[:3], k[:3])


def test_debiased_cka_never_exceeds_one_with_few_samples_and_many_features():
    for seed in range(30):
        x = normal(5, 100, seed=seed)
        y = x + 2 * normal(5, 100, seed=50 + seed)
        assert abs(cka_similarity(x, y)) <= 1 + 1e-12


def test_wide_rbf_kernels_give_linear_cka_and_narrow_ones_do_not():
    x, y = related()
    for debiased in (True, False):
        linear = cka_similarity(x, y, debiased=debiased)
        far = [
            abs(rbf_cka_similarity(x, y, debiased=debiased, scale=s) - linear)
            for s in (0.5, 5, 50, 5000)
        ]
        assert far[0] > 0.02 and far[1] > far[2] > far[3] and far[3] < 1e-6


def test_rbf_bandwidth_is_the_median_without_the_diagonal():
    x, _ = related(n=9)
    truth = torch.pdist(x).median()
    assert g.median_distance(x @ x.T).item() == pytest.approx(truth.item())


def test_deconfounded_cka_is_the_cka_of_regression_residuals():
    x, y = related()
    for debiased in (True, False):
        k, m, c = (g.centre(v @ v.T, debiased).flatten() for v in (x, y, CONFOUNDER))
        design = torch.stack([torch.ones_like(c), c], 1)
        rest = [v - design @ torch.linalg.lstsq(design, v[:, None]).solution[:, 0] for v in (k, m)]
        truth = torch.nn.functional.cosine_similarity(*rest, dim=0)
        value = deconfounded_cka_similarity(x, y, CONFOUNDER, debiased=debiased)
        assert value == pytest.approx(truth.item(), abs=1e-10)


def test_deconfounded_cka_forgets_what_both_share_with_the_confounder():
    z = normal(200, 5)
    x = torch.cat([3 * z, normal(200, 5, seed=1)], 1)
    y = torch.cat([3 * z, normal(200, 5, seed=2)], 1)
    assert cka_similarity(x, y) > 0.9
    assert abs(deconfounded_cka_similarity(x, y, z)) < 0.1
    assert np.isnan(deconfounded_cka_similarity(z, y, z))


def test_clamping_makes_the_residual_grams_positive_and_changes_the_value():
    x, y = related()
    left = g.residual(x @ x.T, 5 * CONFOUNDER @ CONFOUNDER.T)
    assert torch.linalg.eigvalsh(left).min() < -1e-3
    assert (
        torch.linalg.eigvalsh(g.residual(x @ x.T, 5 * CONFOUNDER @ CONFOUNDER.T, clamp=True)).min()
        > -1e-8
    )
    z = torch.cat([x[:, :6], CONFOUNDER], 1)
    plain, clamped = (deconfounded_cka_similarity(x, y, z, clamp=c) for c in (False, True))
    assert abs(plain - clamped) > 1e-3 and abs(clamped) <= 1


def test_procrustes_is_the_residual_of_the_best_rotation_in_all_its_forms():
    x, y = (v - v.mean(0) for v in related(q=12))
    x, y = x / torch.linalg.norm(x), y / torch.linalg.norm(y)
    u, _, v = torch.linalg.svd(y.T @ x)
    squared = torch.linalg.norm(x - y @ (u @ v)).item() ** 2
    assert procrustes_distance(x, y) == pytest.approx(squared, abs=1e-10)
    assert procrustes_distance(x, y, form="complement") == pytest.approx(squared / 2, abs=1e-10)
    angle = procrustes_distance(x, y, form="angle")
    assert angle == pytest.approx(np.arccos(1 - squared / 2), abs=1e-10)
    with pytest.raises(ValueError, match="'euclid'.*squared, angle, complement"):
        procrustes_distance(x, y, form="euclid")


def test_the_procrustes_angle_is_a_metric_and_one_minus_the_norm_is_not():
    sets = [normal(12, 3, seed=s) + 2 * normal(12, 3) for s in range(14)]
    for form, metric in (("angle", True), ("complement", False)):
        d = np.array([[procrustes_distance(a, b, form=form) for b in sets] for a in sets])
        slack = (d[:, :, None] + d.T[None] - d[:, None, :]).min()
        assert (slack > -1e-6) == metric


def naive_cca(x, y):
    """Canonical correlations through whitening, in numpy."""
    x, y = x - x.mean(0), y - y.mean(0)

    def white(v):
        values, vectors = np.linalg.eigh(v.T @ v)
        return v @ vectors / np.sqrt(values)

    return np.linalg.svd(white(x).T @ white(y))[1]


def test_cca_svcca_pwcca_and_regression_follow_their_definitions():
    x, y = (v.numpy() for v in related())
    rho = naive_cca(x, y)
    assert cca_similarity(x, y) == pytest.approx(rho.mean(), abs=1e-10)
    assert cca_similarity(x, y, squared=True) == pytest.approx((rho**2).mean(), abs=1e-10)

    def top(v, share):
        v = v - v.mean(0)
        u, s, _ = np.linalg.svd(v, full_matrices=False)
        r = np.searchsorted(np.cumsum(s**2) / np.sum(s**2), share) + 1
        return u[:, :r] * s[:r]

    for share in (0.5, 0.9, 0.99):
        truth = naive_cca(top(x, share), top(y, share)).mean()
        assert svcca_similarity(x, y, variance=share) == pytest.approx(truth, abs=1e-10)

    xc, yc = x - x.mean(0), y - y.mean(0)
    qx, qy = np.linalg.qr(xc)[0], np.linalg.qr(yc)[0]
    u, s, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    weights = [sum(abs(h @ xc[:, j]) for j in range(xc.shape[1])) for h in (qx @ u).T]
    assert pwcca_similarity(x, y) == pytest.approx(np.dot(weights, s) / np.sum(weights), abs=1e-10)

    fit = yc @ np.linalg.lstsq(yc, xc, rcond=None)[0]
    r2 = 1 - np.sum((xc - fit) ** 2) / np.sum(xc**2)
    assert regression_similarity(x, y) == pytest.approx(r2, abs=1e-10)


def test_pwcca_is_not_invariant_to_a_rotation_of_its_own_features():
    x, y = related()
    change = abs(pwcca_similarity(x @ rotation(12), y) - pwcca_similarity(x, y))
    assert change > 1e-4


def test_cca_saturates_where_either_side_reaches_n_minus_one_features():
    n = 30
    assert cca_similarity(normal(n, n - 1), normal(n, 3, seed=1)) == pytest.approx(1)
    assert cca_similarity(normal(n, 100), normal(n, 3, seed=1)) == pytest.approx(1)
    assert cca_similarity(normal(n, n - 8), normal(n, 3, seed=1)) < 0.99


@pytest.mark.parametrize("p, q", [(5, 20), (30, 10)])
def test_squared_cca_of_independent_noise_is_the_larger_width_over_n_minus_one(p, q):
    n = 101
    values = [
        cca_similarity(normal(n, p, seed=s), normal(n, q, seed=500 + s), squared=True)
        for s in range(60)
    ]
    assert np.mean(values) == pytest.approx(max(p, q) / (n - 1), abs=0.01)


def test_directions_that_are_rounding_noise_do_not_count_in_cca():
    x, y = related()
    redundant = torch.cat([x, x[:, :3] * 2], 1).float()  # rank 12 of 15 columns
    assert cca_similarity(redundant, y) == pytest.approx(cca_similarity(x, y), abs=1e-5)


def test_svcca_keeps_variance_not_singular_values():
    x = normal(400, 10) * torch.tensor([10.0] + [1.0] * 9, dtype=torch.float64)
    y = torch.cat([x[:, :1], normal(400, 4, seed=4)], 1)
    # The first direction holds 91.7 % of the variance but 52.6 % of the singular values' sum.
    assert svcca_similarity(x, y[:, :1], variance=0.9) == pytest.approx(1, abs=2e-2)
    _, s = Representation(x).basis
    assert s.max() ** 2 / s.square().sum() > 0.9 > s.max() / s.sum()


def test_svcca_share_is_checked():
    with pytest.raises(ValueError, match=r"variance=99"):
        svcca_similarity(*related(), variance=99)


def distances(x, metric):
    """[n, n] straight from the definitions."""
    if metric == "euclidean":
        return np.linalg.norm(x[:, None] - x[None], axis=2)
    x = x - x.mean(1, keepdims=True) if metric == "correlation" else x
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return 1 - x @ x.T


def average_ranks(values):
    """Ranks from 1; those of equal values are averaged."""
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


@pytest.mark.parametrize("metric", ["euclidean", "correlation", "cosine"])
def test_rsa_is_spearman_of_the_upper_triangles(metric):
    x, y = (v.numpy() + 1.5 for v in related())
    ranks = [average_ranks(distances(v, metric)[np.triu_indices(60, 1)]) for v in (x, y)]
    assert rsa_similarity(x, y, metric=metric) == pytest.approx(
        np.corrcoef(*ranks)[0, 1], abs=1e-10
    )


def test_tied_distances_share_their_rank():
    x = torch.tensor([[0.0], [1.0], [2.0], [4.0], [4.0]], dtype=torch.float64)
    above = np.triu_indices(5, 1)
    ranks = average_ranks(distances(x.numpy(), "euclidean")[above])
    assert np.allclose(rank_matrix(Representation(x)).numpy()[above], ranks - ranks.mean())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_mutual_knn_is_the_mean_overlap_of_neighbour_lists(metric):
    x, y = (v.numpy() + 1.5 for v in related())
    near = [np.argsort(distances(v, metric) + 9e9 * np.eye(60))[:, :7] for v in (x, y)]
    truth = np.mean([len(set(a) & set(b)) / 7 for a, b in zip(*near, strict=True)])
    assert mutual_knn_similarity(x, y, k=7, metric=metric) == pytest.approx(truth, abs=1e-12)


def test_mutual_knn_of_independent_noise_is_k_over_n_minus_one():
    values = [
        mutual_knn_similarity(normal(80, 6, seed=s), normal(80, 6, seed=90 + s), k=8)
        for s in range(30)
    ]
    assert np.mean(values) == pytest.approx(8 / 79, abs=0.01)


def test_cosine_and_correlation_geometry_notice_a_shift():
    x, y = related()
    for metric in ("cosine", "correlation"):
        shifted = y + 3 * normal(1, 9, seed=5)
        assert (
            abs(rsa_similarity(x, shifted, metric=metric) - rsa_similarity(x, y, metric=metric))
            > 1e-2
        )
        with pytest.raises(ValueError, match="raw features"):
            rsa_similarity(Representation(x), y, metric=metric)
