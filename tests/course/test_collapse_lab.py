"""The collapse lab measures what it says: z by batch statistics, and every setting once."""

import pandas as pd
import pytest
import torch

from simlab.config import PretrainConfig
from simlab.data import Dataset, load_data
from simlab.train import pretrain
from simlab_course import collapse


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    data = load_data("fashion-scattered")
    index = torch.arange(192)
    lab = Dataset("few", data.train.subset(index), data.test.subset(index))
    config = PretrainConfig(
        epochs=2, batch_size=32, lr=2.0, knn_k=5, keep_checkpoints=2, monitor_every=1
    )
    return pretrain(config, lab, folder=tmp_path_factory.mktemp("runs"), progress=False), lab


def test_running_statistics_give_the_historys_std_and_batch_statistics_another(lab):
    run, data = lab
    history = collapse.embedding_history(run, data, k=5)
    assert history["knn"].tolist() == pytest.approx(run.history["knn"], abs=0.01)
    assert history["epoch"].tolist() == [1, 2]
    assert history["std_running"].tolist() == pytest.approx(run.history["std_ratio"], rel=1e-3)
    assert (history["std"] - history["std_running"]).abs().max() > 0.01
    # with batch statistics each channel of z has the std 1, so that no direction can vanish
    assert (history["std"] > 0.5).all()


def test_measuring_leaves_the_encoder_as_it_was(lab):
    run, data = lab
    before = {name: value.clone() for name, value in run.encoder.state_dict().items()}
    collapse.embedding_history(run, data)
    after = run.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_every_setting_of_the_tables_counts_once(capsys):
    settings = collapse.every_setting(("switches", "recipe", "augment", "methods", "others"))
    assert len(settings) == 9 + 3 + 2 + 1 + 5, "the default stands in four tables"
    assert settings["setting"].is_unique
    said = capsys.readouterr().out
    assert said.count("# python benchmarks/collapse_lab.py") == 5, "how each was made"


def test_the_rank_finds_collapse_and_does_not_rank_features():
    settings = collapse.every_setting(("switches", "recipe", "augment", "methods", "others"))
    sound = settings[~settings["collapsed"]]
    assert len(sound) > 8
    assert settings["rank"].corr(settings["knn"], "spearman") > 0.3
    assert sound["rank"].corr(sound["knn"], "spearman") < 0.3


def test_the_untrained_encoder_is_a_line_in_the_panel_of_accuracy_alone():
    history = pd.DataFrame({"epoch": [1, 2], "std": [0.9, 0.8], "rank": [3, 4], "knn": [0.4, 0.5]})
    measures = {"std": "std", "rank": "rank", "knn": "accuracy"}
    for untrained, lines in ((0.3, [1, 1, 2]), (None, [1, 1, 1])):
        figure = collapse.over_epochs({"SimSiam": history}, untrained, measures)
        assert [len(ax.lines) for ax in figure.axes] == lines
