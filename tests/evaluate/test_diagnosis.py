"""The diagnosis on features made to collapse in known ways, and on runs that were measured."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from collapsed_features import D, N, clusters, flat, noise

from simlab.evaluate import collapse as C
from simlab.evaluate import diagnosis


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
