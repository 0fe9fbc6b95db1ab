"""The measures against closed forms, invariances and what they must miss; the diagnosis on
features made to collapse in known ways."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simlab.evaluate import collapse as C
from simlab.evaluate import diagnosis

N, D = 256, 64


def noise(n=N, d=D, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d=D, seed=9):
    return torch.linalg.qr(noise(d, d, seed))[0]


def clusters(k, n=N, d=D, width=0.01):
    return noise(k, d, 1)[torch.arange(n) % k] + width * noise(n, d, 2)


def flat(r, n=N, d=D):
    """Isotropic in r dimensions, rotated over all d channels."""
    return noise(n, r) @ rotation(d)[:r]


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


# -- diagnosis -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, z",
    [
        ("healthy", noise()),
        ("healthy", noise().relu()),
        ("healthy", flat(8)),
        ("healthy", noise(d=2)),  # a circle is all that two channels can fill
        ("healthy", noise(20, 2)),
        ("complete", torch.ones(N, D)),
        ("complete", 20 + noise()),
        ("complete", torch.zeros(N, D)),
        ("dimensional", flat(2)),
        (
            "dimensional",
            flat(2) + 0.003 * noise(seed=3),
        ),  # noise lifts the rank, not the participation
        ("local", clusters(2)),
        ("local", clusters(10)),
        ("local", clusters(60)),
        ("local", clusters(40, d=8)),  # more points than dimensions: the rank sees nothing
        ("local", clusters(10, d=512)),  # few points make a low rank: the cause is named
    ],
)
def test_the_kind_of_collapse_is_named(kind, z):
    verdict = diagnosis.diagnose(z)
    assert verdict.kind == kind, str(verdict)
    assert verdict.collapsed == (kind != "healthy") == bool(verdict.advice)


def history(*rows):
    """A run's table: what a row does not say is as in a healthy run."""
    return pd.DataFrame([C.collapse_metrics(noise()) | row for row in rows])


def test_a_diagnosis_of_features_equals_that_of_their_logged_metrics():
    for z in (noise(), flat(2), clusters(10), 20 + noise()):
        table = history({"epoch": 0, "loss": 0.0}, {"epoch": 5, **C.collapse_metrics(z)})
        run = SimpleNamespace(history=table)
        assert len({diagnosis.diagnose(x).kind for x in (z, z.float(), z.numpy(), table, run)}) == 1


def test_a_collapsing_run_is_dated_and_its_loss_is_not_praised():
    rows = [
        {"epoch": e, "loss": -1 + r / 10, "std_ratio": r, "knn": math.nan}
        for e, r in enumerate([0.9, 0.05, 0.4, 0.06, 0.02])
    ]
    verdict = diagnosis.diagnose(history(*rows))
    assert verdict.kind == "complete"
    text = str(verdict)
    assert "since epoch 3" in text and "up to 90.0%" in text and "only looks good" in text
    assert "collapse" not in str(diagnosis.diagnose(history(rows[0]))).splitlines()[0]
    assert "since" not in str(diagnosis.diagnose(history(rows[1])))  # it never was otherwise


def test_a_shrinking_z_is_a_complete_collapse_though_its_directions_differ():
    rows = [{"epoch": e, "scale_ratio": r, "std_ratio": 0.9} for e, r in ((1, 0.8), (2, 0.01))]
    verdict = diagnosis.diagnose(history(*rows))
    assert verdict.kind == "complete" and "since epoch 2" in str(verdict)
    assert "1.0% of what the loss asks for" in str(verdict)
    assert diagnosis.diagnose(history(rows[0])).kind == "healthy"
    yet_to_grow = {"scale_ratio": 0.01, "loss": 20.5, "loss_at_collapse": 24.75}
    assert diagnosis.diagnose(history(yet_to_grow)).kind == "healthy"
    assert diagnosis.diagnose(history(yet_to_grow | {"loss": 24.6})).kind == "complete"


def test_a_loss_is_compared_with_that_of_a_collapse():
    at_chance = {"loss": 1.379, "loss_at_collapse": math.log(4)}
    verdict = diagnosis.diagnose(history(at_chance))
    assert verdict.kind == "healthy" and "1.379 is what equal outputs get, 1.386" in str(verdict)
    collapsed = diagnosis.diagnose(
        history({"loss": 4.85, "loss_at_collapse": 4.844, "std_ratio": 0})
    )
    assert collapsed.kind == "complete" and "what equal features get: 4.844" in str(collapsed)
    for loss, at_collapse in ((3.2, 4.844), (-0.98, -1.0), (0.02, 0.0)):
        text = str(diagnosis.diagnose(history({"loss": loss, "loss_at_collapse": at_collapse})))
        assert "equal" not in text, text


def test_the_std_of_z_itself_is_the_mean_over_channels():
    z = noise() * torch.linspace(0, 2, noise().shape[1]) + 5
    assert C.raw_std(z) == pytest.approx(float(z.double().std(0).mean()), rel=1e-9)
    assert C.raw_std(torch.zeros(3, 2)) == 0


def test_a_run_that_recovers_is_judged_by_its_last_metrics():
    assert diagnosis.diagnose(history({"std_ratio": 0.01}, {"std_ratio": 0.9})).kind == "healthy"


def test_a_table_with_gaps_is_read_by_each_columns_last_number():
    verdict = diagnosis.diagnose(
        history(
            {"epoch": 1, "loss": -0.5},
            {"epoch": 2, "std_ratio": 0.02},
            {"epoch": 3, "std_ratio": np.nan, "loss": -0.99},
        )
    )
    assert verdict.kind == "complete" and verdict.metrics["std_ratio"] == 0.02
    assert verdict.metrics["loss"] == -0.99 and "since epoch 2" in str(verdict)


def test_knn_at_the_random_encoders_level_is_said_even_without_collapse():
    verdict = diagnosis.diagnose(history({"knn": 0.2}), knn_random=0.3)
    assert (
        verdict.kind == "healthy" and "no better than a random" in str(verdict) and verdict.advice
    )
    assert "random" not in str(diagnosis.diagnose(history({"knn": 0.4}), knn_random=0.3))
    assert "random" not in str(diagnosis.diagnose(history({"knn": 0.2})))
    assert "random" not in str(diagnosis.diagnose(noise(), knn_random=0.3))


def test_a_notebook_shows_the_words_themselves():
    assert repr(diagnosis.diagnose(flat(2))).startswith("dimensional collapse: the features differ")


@pytest.mark.parametrize("bad", [[[1.0, 2.0]], "run", 3, None, {"std_ratio": 1.0}])
def test_what_is_neither_features_nor_metrics_is_refused(bad):
    with pytest.raises(TypeError, match="features"):
        diagnosis.diagnose(bad)


def test_metrics_without_std_ratio_name_the_nearest():
    with pytest.raises(ValueError, match="std_ratio.*did you mean 'std_ration'"):
        diagnosis.diagnose(history({}).rename(columns={"std_ratio": "std_ration"}))


def test_the_warning_comes_before_the_verdict():
    assert diagnosis.COMPLETE_STD_RATIO < diagnosis.WARN_STD_RATIO


# -- measured runs ---------------------------------------------------------------------------------

TABLES = Path(__file__).parents[2] / "notebooks" / "tables"
# what was taken away; every other run of the tables learned something
COLLAPSED = {
    "no predictor, no BatchNorm": "complete",
    "no stop-gradient, no BatchNorm": "complete",
    "no stop-gradient, no BatchNorm, weight decay x10": "complete",
    "no stop-gradient, no BatchNorm, weight decay x20": "complete",
    "no predictor, BatchNorm": "dimensional",
    "no stop-gradient, BatchNorm": "dimensional",
    "fixed predictor, BatchNorm": "dimensional",
    "fixed predictor, no BatchNorm": "dimensional",
    "neither": "complete",
    "weight decay x10": "dimensional",
}


def measured_runs():
    for path in sorted(TABLES.glob("collapse_*.csv")):
        table = pd.read_csv(path, comment="#")
        for (setting, seed), rows in table.groupby(["setting", "seed"], sort=False):
            yield path.stem, setting, seed, rows.reset_index()


def test_the_diagnosis_misses_no_measured_run_and_raises_no_false_alarm():
    wrong, kinds = [], []
    for experiment, setting, seed, table in measured_runs():
        expected, kind = COLLAPSED.get(setting, "healthy"), diagnosis.diagnose(table).kind
        kinds.append((setting, expected))
        if kind != expected:
            wrong.append((experiment, setting, seed, kind))
    assert not wrong
    assert len(set(kinds)) >= 16 and {k for _, k in kinds} == {"healthy", "complete", "dimensional"}


def test_every_setting_of_the_tables_was_run_with_as_many_seeds_as_the_table_says():
    for path in TABLES.glob("collapse_*.csv"):
        seeds = int(path.read_text().split(" --seeds ")[1].split()[0])
        assert seeds >= (1 if path.stem == "collapse_others" else 5), path.stem
        table = pd.read_csv(path, comment="#")
        assert (table.groupby("setting")["seed"].nunique() == seeds).all(), path.stem


def test_measured_runs_that_learned_are_told_from_collapsed_ones_by_their_neighbours_as_well():
    """The labels above are no opinion: kNN accuracy over the untrained encoder's agrees."""
    gain = {"healthy": [], "collapsed": []}
    for experiment, setting, _, table in measured_runs():
        if experiment == "collapse_switches":
            last = table.iloc[-1]
            group = "collapsed" if setting in COLLAPSED else "healthy"
            gain[group].append(last["knn"] - last["knn_random"])
    assert min(gain["healthy"]) > 0 and np.mean(gain["healthy"]) > np.mean(gain["collapsed"]) + 0.04


def test_complete_collapse_has_the_least_loss_and_leaves_neighbours_of_the_untrained_encoder():
    def ends(name):
        return pd.concat([h.tail(1) for _, setting, _, h in measured_runs() if setting == name])

    plain = ends("no stop-gradient, no BatchNorm")
    assert (plain["std_ratio"] < 0.1).all() and (plain["loss"] < -0.99).all()
    assert plain["knn"].mean() < plain["knn_random"].mean() + 0.03
    decayed = ends("no stop-gradient, no BatchNorm, weight decay x20")
    assert len(decayed) >= 5 and (decayed["std_ratio"] < 0.1).all()
    assert decayed["knn"].mean() <= decayed["knn_random"].mean()
