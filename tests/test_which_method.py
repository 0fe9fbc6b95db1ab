"""The page that helps to choose says what the tables say."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from simlab.stats import mean_and_interval

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks")]
import label_free  # noqa: E402

PAGE = label_free.PAGE.read_text(encoding="utf-8")


def ends(sweep):
    table = pd.read_csv(label_free.TABLES / f"collapse_{sweep}.csv", comment="#")
    return table.groupby(["setting", "seed"], sort=False).tail(1)


def stored_rates():
    return pd.read_csv(label_free.TABLES / "label_free.csv")


@pytest.mark.long
def test_the_file_and_the_pages_table_are_computed_from_the_committed_runs():
    stored = stored_rates()
    rates = label_free.failure_table()
    pd.testing.assert_frame_equal(stored, rates, check_dtype=False)
    assert label_free.with_table(PAGE, rates) == PAGE, "python benchmarks/label_free.py"
    assert label_free.page_table(rates) in PAGE


def test_what_the_page_reads_off_its_table_is_there():
    rate = stored_rates().set_index(["question", "measure"])["failure_rate"]
    uniformity, rank = "uniformity of z", "RankMe: effective rank of z"
    assert rate["hyperparameters", "loss"] > 0.5
    assert rate["hyperparameters", rank] < 0.2 and rate["the same, none collapsed", rank] > 0.5
    for question in ("hyperparameters", "the same, none collapsed"):
        assert rate[question, uniformity] <= 0.1
    assert rate["hyperparameters"].idxmin() == uniformity
    assert rate["augmentation", uniformity] == 1
    of_methods = rate["method"]
    assert (round(of_methods["normalised std of z"], 2), round(of_methods[rank], 2)) == (0.25, 0.33)
    assert of_methods.drop(["normalised std of z", rank]).between(0.4, 1).all()


def test_a_setting_that_is_called_collapsed_is_worse_and_yet_mostly_better_than_untrained():
    everything = label_free.settings(("switches", "recipe"))
    healthy = label_free.settings(("switches", "recipe"), only_healthy=True)["setting"].unique()
    accuracy = everything.groupby("setting")["knn"].mean()
    collapsed = accuracy.drop(healthy)
    assert (len(accuracy), len(collapsed)) == (12, 8)
    assert accuracy[healthy].min() > collapsed.max()
    assert (collapsed > everything["knn_random"].mean()).sum() == 6
    over = everything.assign(over=everything["knn"] - everything["knn_random"])
    mean, half = mean_and_interval(over.groupby("setting")["over"])
    assert (mean > half)[collapsed.index].sum() == 5, "for sure"


@pytest.mark.parametrize(
    "sweep, begins", [("augment", "objects at any position"), ("coloured", "colour is a nuisance")]
)
def test_the_accuracies_of_the_page_are_those_of_the_sweeps(sweep, begins):
    (line,) = re.findall(rf"^\| {begins}.*$", PAGE, re.MULTILINE)
    said = {(float(mean), float(half)) for mean, half in re.findall(r"(\.\d{3}) ± (\.\d{3})", line)}
    mean, half = mean_and_interval(ends(sweep).groupby("setting")["knn"])
    wanted = {(round(m, 3), round(h, 3)) for m, h in zip(mean, half, strict=True)}
    assert said == wanted
    assert f"{ends(sweep)['knn_random'].mean():.3f}"[1:] in line


def test_a_measure_that_prefers_the_worse_setting_fails():
    accuracies = {"good": (0.5, 0.52, 0.51), "bad": (0.3, 0.31, 0.33)}
    rows = [
        {"setting": name, "seed": seed, "knn": value}
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    assert list(label_free.sure_pairs(pd.DataFrame(rows))) == [("good", "bad")]
    rows[0]["knn"] = 0.2  # seeds that disagree settle nothing
    assert not list(label_free.sure_pairs(pd.DataFrame(rows)))
