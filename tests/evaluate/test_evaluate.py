"""Any encoder judged by several protocols: the table, and what decides a number in it."""

import dataclasses
import json
import math

import pandas as pd
import pytest
from PIL import Image
from small_encoders import COLOUR, QUICK, small_data, small_net

from simlab.data import Dataset
from simlab.evaluate import Evaluation, evaluate
from simlab.evaluate.bench.result import wilson

pytestmark = pytest.mark.long

EVERYTHING = ("knn", "probe", "probe-20", "sgd-probe", "finetune-50%")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """One evaluation by every protocol, in its folder."""
    folder = tmp_path_factory.mktemp("judged") / "result"
    return evaluate(
        small_net(), small_data(), EVERYTHING, layers=["0"], seeds=2, input=COLOUR,
        settings=QUICK, folder=folder, device="cpu", progress=False,
    )  # fmt: skip


def rows(result, **wanted):
    table = result.table
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table


def test_every_protocol_is_there_for_the_encoder_its_untrained_twin_and_pixels(judged):
    output = judged.table[judged.table["layer"] == ""]
    of = {name: set(table["protocol"]) for name, table in output.groupby("encoder")}
    assert of["Sequential"] == of["untrained twin"] == set(EVERYTHING)
    assert of["raw pixels"] == {"knn", "probe", "probe-20"}
    inner = judged.table[judged.table["layer"] == "0"]
    assert set(inner["protocol"]) == {"knn", "probe", "probe-20"}
    assert judged.table["accuracy"].between(0, 1).all() and (judged.table["tested"] == 20).all()


def test_what_the_seed_does_not_draw_is_measured_once_for_each_set_of_weights(judged):
    seeds = (
        judged.table[judged.table["layer"] == ""].groupby(["encoder", "protocol"])["seed"].count()
    )
    assert seeds["Sequential", "knn"] == seeds["raw pixels", "probe"] == 1
    assert seeds["untrained twin", "knn"] == seeds["Sequential", "probe-20"] == 2
    assert seeds["Sequential", "finetune-50%"] == seeds["Sequential", "sgd-probe"] == 2


def test_what_decided_a_number_stands_beside_it(judged):
    decided = {
        "knn": ["k", "temperature", "validation"],
        "probe": ["regulariser", "validation"],
        "sgd-probe": ["epochs", "rate"],
        "finetune-50%": ["rate", "epochs", "layer_decay", "batch_norm", "validation"],
    }
    for protocol, columns in decided.items():
        table = rows(judged, protocol=protocol)
        assert table[[*columns, "labels", "tested", "low", "high"]].notna().all(axis=None), protocol
    assert set(rows(judged, protocol="finetune-50%")["labels"]) == {30}
    assert set(rows(judged, protocol="probe-20")["labels"]) == {20}


def test_one_measurement_has_the_interval_of_the_test_images_several_that_of_the_seeds(judged):
    summary = judged.summary().set_index(["encoder", "protocol", "layer"])
    assert summary.loc[("Sequential", "knn", ""), "interval"] == "test images"
    row = summary.loc[("Sequential", "probe-20", "")]
    assert row["interval"] == "seeds" and row["n"] == 2
    values = rows(judged, encoder="Sequential", protocol="probe-20", layer="")["accuracy"]
    half = 12.7062 * values.std() / math.sqrt(2)  # t of one degree of freedom
    assert row["high"] - row["accuracy"] == pytest.approx(half, abs=1e-3)


def test_wilsons_interval_is_the_published_one():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10)[1] == pytest.approx(1) and wilson(1.0, 10)[0] == pytest.approx(
        0.7225, abs=1e-4
    )


def test_the_folder_holds_table_figure_and_all_that_decided(judged):
    table = pd.read_csv(judged.folder / "table.csv", keep_default_na=False)
    assert len(table) == len(judged.table)
    assert Image.open(judged.folder / "figure.png").size[0] > 300
    record = json.loads((judged.folder / "evaluation.json").read_text())
    assert record["input"]["arrays"]["mean"] == [0.3, 0.4, 0.5] and record["encoder"]["digest"]
    assert record["data"]["arrays"]["digest"] == small_data().digest()
    assert record["settings"]["probe_epochs"] == 2 and record["seeds"] == [0, 1]
    assert record["chosen_among"]["finetuning_rate"] and record["environment"]["torch"]
    assert {path.name for path in (judged.folder / "runs").glob("finetune-*")}


def test_the_same_evaluation_gives_the_same_table_and_loads_its_runs(judged, capsys):
    again = evaluate(
        small_net(), small_data(), EVERYTHING, layers=["0"], seeds=2, input=COLOUR,
        settings=QUICK, folder=judged.folder, device="cpu", progress=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(again.table, judged.table)
    assert "loads" in capsys.readouterr().out


def test_a_folder_with_another_result_is_not_written_over(judged):
    with pytest.raises(ValueError, match="holds another evaluation"):
        evaluate(small_net(seed=1), small_data(), ["knn"], folder=judged.folder, progress=False)


def test_the_test_labels_choose_nothing(judged, tmp_path):
    """With other test labels every accuracy may change, and no choice."""
    data = small_data()
    test = dataclasses.replace(data.test, labels=1 - data.test.labels)
    other = Dataset(data.name, data.train, test, normalize=data.normalize)
    result = evaluate(
        small_net(), other, ["knn", "probe", "finetune-50%"], seeds=1, input=COLOUR, settings=QUICK,
        folder=tmp_path, device="cpu", baselines=False, progress=False,
    )  # fmt: skip
    chosen = ["k", "temperature", "regulariser", "rate", "validation"]
    for protocol in ("knn", "probe", "finetune-50%"):
        before = rows(judged, encoder="Sequential", layer="", protocol=protocol, seed=0).iloc[0]
        after = rows(result, protocol=protocol).iloc[0]
        pd.testing.assert_series_equal(before[chosen], after[chosen], check_names=False)
        assert before["accuracy"] + after["accuracy"] == pytest.approx(1)


def test_the_result_shows_itself_in_a_notebook(judged):
    assert isinstance(judged, Evaluation) and "untrained twin" in judged._repr_html_()
    assert "probe-20" in str(judged)
