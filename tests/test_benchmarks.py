"""The benchmarks run, in seconds: what each prints and writes, what it refuses, what it compares."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import all_benchmarks  # noqa: E402 - benchmarks/ is no package
import pairs  # noqa: E402
import sim_domains  # noqa: E402
import speedrun as speedrun_script  # noqa: E402
import timing  # noqa: E402
import whitening  # noqa: E402

from simlab.config import RECIPES, PretrainConfig, make_config  # noqa: E402
from simlab.evaluate import Features  # noqa: E402
from simlab.methods import parse_method  # noqa: E402
from simlab.models.encoders import TINY_WIDTHS  # noqa: E402
from simlab.train.optim import base_lr  # noqa: E402

NUMBER = r"[01]\.\d{4}"
SMALL_RUN = [
    "--batch-size",
    "16",
    "--widths",
    "4",
    "6",
    "8",
    "--proj-dim",
    "16",
    "--view-sizes",
    "8",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Dark and bright images, 30 and 10 of each."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, number in (("train", 30), ("test", 10)):
        for name, grey in (("dark", 60), ("bright", 180)):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                noise = random.normal(grey, 30, (12, 12, 3)).clip(0, 255)
                Image.fromarray(noise.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def speedrun(*words, data):
    command = [sys.executable, "benchmarks/speedrun.py", "--data", str(data), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.long
def test_the_speedruns_last_line_has_its_three_accuracies(folder):
    done = speedrun("--minutes", ".02", "--seeds", "0", "1", *SMALL_RUN, data=folder)
    assert not done.returncode, done.stderr
    *lines, last = done.stdout.splitlines()
    assert re.fullmatch(f"knn200 {NUMBER} knn20 {NUMBER} probe {NUMBER}", last), last
    assert sum(line.startswith("seed ") for line in lines) == 2
    report = "\n".join(lines)
    assert "over 2 seeds" in report and "s of CPU time" in report and "batch_size=16" in report
    for name in ("knn200", "probe", "untrained200", "untrained20"):
        assert re.search(f" {name} +{NUMBER} ± {NUMBER}, of the encoder alone {NUMBER}", report), (
            name
        )


@pytest.mark.parametrize(
    "words, message",
    [
        (["--minutes", "1"], "no folder train/"),
        (["--minutes", "0"], "minutes=0.0: expected"),
        (["--batch-size", "1"], "batch_size=1: expected at least 2"),
        (["--views", "1"], "views=1: expected at least 2"),
    ],
    ids=["folder", "minutes", "batch", "views"],
)
def test_the_speedrun_refuses(words, message, folder, tmp_path, monkeypatch, capsys):
    data = tmp_path if "train" in message else folder
    monkeypatch.setattr(sys, "argv", ["speedrun.py", "--data", str(data), *words])
    assert speedrun_script.main() == 2
    assert message in capsys.readouterr().err


def test_the_recipe_fast_is_the_speedruns_configuration():
    fast = make_config(PretrainConfig, **RECIPES["fast"])
    method = parse_method(fast.method)
    ours = speedrun_script.Options(data="")
    assert TINY_WIDTHS[fast.encoder] == ours.widths
    assert base_lr(fast) == ours.lr and fast.optimizer == "muon"
    for name in ("batch_size", "momentum", "weight_decay", "augment"):
        assert getattr(fast, name) == getattr(ours, name), name
    of_method = (method.temperature, method.proj_dim, method.views)
    assert of_method == (ours.temperature, ours.proj_dim, ours.views)


def tiny(case):
    """A size at which a case takes no time."""
    return {"steps of 64 images": 1, "images in the bank": 300}.get(case.unit, 40)


@pytest.mark.long
@pytest.mark.parametrize("case", pairs.CASES, ids=[f"{c.name}, {c.peer}" for c in pairs.CASES])
def test_both_sides_of_a_pair_run_and_are_timed(case):
    measured = all_benchmarks.measure(case, tiny(case), rounds=2)
    if measured is None:
        pytest.skip(f"{case.peer} is not installed")
    r = measured.ratio
    assert 0 < r.low <= r.median <= r.high and r.ours > 0 and r.peers > 0


def test_both_sides_of_a_pair_compute_the_same():
    ours, peers = pairs.cka_and_its_formula(50)
    assert ours() == pytest.approx(float(peers()), abs=1e-5)
    ours, peers = pairs.knn_and_sklearn(400)
    assert (ours().numpy() == peers()).mean() > 0.99


def ratio(median, low, high):
    return timing.Ratio(1.0, median, median, low, high, 5)


def test_a_ratio_has_moved_where_the_medians_lie_outside_of_each_others_rounds():
    before = ratio(3.0, 2.8, 3.2)
    assert ratio(2.0, 1.9, 2.1).moved_from(before)
    assert not ratio(3.1, 3.0, 3.3).moved_from(before)
    assert not ratio(2.7, 2.0, 3.1).moved_from(before), "its rounds reach as far as the old median"


def test_the_slower_peer_has_the_greater_ratio():
    calls = []

    def slow():
        calls.append("slow")
        sum(math.sqrt(i) for i in range(200_000))

    measured = timing.paired_rounds(lambda: calls.append("fast"), slow, rounds=4)
    assert measured.median > 1 and measured.peers > measured.ours
    # one call each to warm up, then in turns
    assert calls == ["fast", "slow"] + ["fast", "slow", "slow", "fast"] * 2


def measured(size, ours, peers, median=2.0):
    return all_benchmarks.Measured(
        "work", "a peer", "images", size, timing.Ratio(ours, peers, median, 1.5, 2.5, 5), 1.0, 2.0
    )


def test_what_is_stored_comes_back_and_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(all_benchmarks, "STORED", tmp_path / "pairs.json")
    rows = [measured(10, 0.1, 0.2), measured(40, 0.4, 3.2)]
    all_benchmarks.store(rows)
    environment, pairs_ = all_benchmarks.stored_pairs((tmp_path / "pairs.json").read_text())
    assert torch.__version__.startswith(environment["torch"])
    assert pairs_ == {row.key: row for row in rows}
    moved = measured(10, 0.1, 0.2, median=9.0)
    moved = all_benchmarks.Measured(**vars(moved) | {"ratio": ratio(9.0, 8.0, 10.0)})
    assert all_benchmarks.comparison(moved, pairs_[moved.key]).startswith("MOVED")
    assert all_benchmarks.comparison(rows[0], pairs_[rows[0].key]).startswith("same")
    assert all_benchmarks.comparison(rows[0], None).startswith("new")


def test_the_page_says_how_time_grows():
    rows = [measured(10, 0.1, 0.2), measured(40, 0.4, 3.2)]
    ours, theirs = all_benchmarks.growth(rows)["work", "a peer"]
    assert (ours, theirs) == pytest.approx((1.0, 2.0))
    page = all_benchmarks.page(rows, [("bench_x.py", 12.0, False)])
    assert "| work | a peer | 1.00 | 2.00 |" in page and "| bench_x.py | 12 | failed |" in page


@pytest.mark.long
def test_memory_is_what_a_call_adds():
    code = (
        "import sys, torch; sys.path.insert(0, 'benchmarks'); from timing import memory_of; "
        "print(memory_of(lambda: torch.ones(25 * 2**20)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(100, abs=20), done.stderr


@pytest.mark.long
def test_time_to_accuracy_measures_both_libraries(folder, tmp_path):
    pytest.importorskip("lightly")
    command = [sys.executable, "benchmarks/time_to_accuracy.py", "--data", str(folder)]
    command += ["--minutes", ".03", "--bank", "20", "--queries", "10", "--batch-size", "4"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    assert re.fullmatch(
        rf"simlab {NUMBER} simlab, whitened {NUMBER} lightly {NUMBER}", done.stdout.splitlines()[-1]
    )
    assert (tmp_path / "time_to_accuracy.png").stat().st_size > 5000
    assert "| lightly |" in (tmp_path / "time_to_accuracy.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("shift", sim_domains.SHIFTS)
def test_every_shift_has_four_domains_and_each_is_left_out(shift):
    names = sim_domains.domains_of(shift).names
    table = pd.read_csv(sim_domains.TABLE, comment="#")
    rows = table[table["shift"] == shift]
    assert len(names) == 4
    left_out = rows.groupby(["arm", "seed"])["domain"].apply(sorted)
    assert all(each == sorted(names) for each in left_out)
    assert set(rows["arm"]) == set(sim_domains.COMPARED)


def test_whitened_features_keep_their_labels_and_are_centred_by_the_bank():
    f = Features(torch.randn(50, 3) + 5, torch.arange(50), torch.randn(20, 3) + 5, torch.arange(20))
    white = whitening.whitened(f)
    assert white.train.mean(0).abs().max() < 1e-5
    assert torch.allclose(torch.cov(white.train.T), torch.eye(3), atol=1e-4)
    assert white.test.mean().abs() < 1
    assert white.train_labels is f.train_labels and white.test_labels is f.test_labels
