"""What diverges, lacks labels or does not fit is refused, and stores nothing broken."""

from pathlib import Path

import pytest
import torch
import torch.nn as nn
from tiny_runs import (
    flat,
    noise,
    pretrain_config,
    random_data,
    supervised_config,
)
from torch.utils.data import DataLoader

from simlab.data import Dataset, Images, from_arrays
from simlab.evaluate import knn
from simlab.methods.simsiam import SimSiamModule
from simlab.runs import module_digest
from simlab.train import (
    pretrain,
    train_supervised,
)
from simlab.train import run as train


def assert_diverged(entry, config, data, encoder, run_options):
    """It stops with a message, and is not taken for a finished run afterwards."""
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="diverged.*Lower lr") as caught:
            entry(config, data, encoder=encoder, **run_options)
    return caught


@pytest.mark.parametrize("entry", [pretrain, train_supervised])
def test_a_loss_that_becomes_nan_stops_and_leaves_the_last_checkpoint_whole(entry, run_options):
    make = pretrain_config if entry is pretrain else supervised_config
    config, data = make(epochs=3), random_data()
    breaks_at = 4 if entry is train_supervised else 7  # in the second epoch
    encoder = flat(breaks_at=breaks_at)
    caught = assert_diverged(entry, config, data, encoder, run_options)
    assert "epoch 2" in str(caught.value)
    seen = []
    with pytest.raises(FloatingPointError):
        entry(config, data, encoder=encoder, **run_options, on_epoch=seen.append)
    assert not seen  # the second try went on from the first epoch, and no further
    with train.claim(
        "pretrain" if entry is pretrain else "supervised",
        train.resolve(config, data, encoder),
        {"data": data.digest(), "encoder": module_digest(encoder), "method": "", "augment": ""},
        run_options["folder"],
    ) as run:  # fmt: skip
        assert not run.finished
        state = run.load_checkpoint()
        assert state["epoch"] == 1 and list(run.history["epoch"]) == [1]
        assert all(value.isfinite().all() for value in state["network"].values())


@pytest.mark.parametrize("lr", [1e30, 1e38])
@pytest.mark.parametrize("entry", [pretrain, train_supervised])
def test_weights_that_break_in_the_very_last_step_are_not_a_finished_run(entry, lr, run_options):
    """The loss of a run's only step is still fine."""
    make = pretrain_config if entry is pretrain else supervised_config
    config = make(lr=lr, batch_size=32, schedule="constant")
    assert_diverged(entry, config, random_data(), None, run_options)


def test_a_gradient_that_breaks_the_weights_in_an_epochs_last_step_is_not_stored(run_options):
    """Neither a loss nor a measurement has seen it by then."""
    config = supervised_config(epochs=2)
    assert_diverged(train_supervised, config, random_data(), flat(bad_gradient=2), run_options)
    assert not list(Path(run_options["folder"]).glob("*/checkpoints/*"))


def test_constant_images_train_without_nan(run_options):
    images = torch.full((40, 8, 8), 77, dtype=torch.uint8)
    data = from_arrays(images, torch.arange(40) % 2)
    run = pretrain(pretrain_config(epochs=2), data, **run_options)
    assert run.history[["loss", "std", "rank"]].notna().all(axis=None)
    assert train_supervised(supervised_config(), data, **run_options).finished


@pytest.mark.parametrize(
    ("labels", "test_labels"),
    [
        (None, None), (torch.arange(32) % 4, None), (torch.zeros(32).long(), torch.zeros(8).long()),
    ],
    ids=["none at all", "none of the test", "one class"],
)  # fmt: skip
def test_without_labels_pretraining_leaves_out_the_knn_and_says_so(
    labels, test_labels, run_options, capsys
):
    data = from_arrays(noise(32), labels, noise(8, 1), test_labels)
    run = pretrain(pretrain_config(epochs=2), data, **run_options)
    assert "no kNN accuracy: " in capsys.readouterr().out
    assert "no kNN accuracy: " in (run.folder / "train.log").read_text()
    assert "knn" not in run.history and "knn" not in run.result["final"]
    assert run.result["best"] == run.result["final"]
    assert run.best_checkpoint() is None


def test_with_some_labels_missing_the_knn_is_that_of_the_labelled_images(run_options, capsys):
    labels, test_labels = torch.arange(32) % 4 - 1, torch.arange(8) % 4 - 1
    data = from_arrays(noise(32), labels, noise(8, 1), test_labels)
    run = pretrain(pretrain_config(epochs=2), data, **run_options)
    assert "8 of 32 training images without a label (-1)" in capsys.readouterr().out
    labelled = from_arrays(
        noise(32)[labels >= 0], labels[labels >= 0], noise(8, 1)[test_labels >= 0], [0, 1, 2] * 2
    )
    labelled = Dataset("labelled", labelled.train, labelled.test, normalize=data.normalize)
    final = run.result["final"]
    assert (final["knn_k"], final["knn_images"]) == (5, 6)
    assert final["knn"] == knn(run.encoder, labelled, final["knn_k"], final["knn_temperature"])


def test_supervised_training_takes_the_labelled_images_alone(run_options, capsys):
    labels, test_labels = torch.arange(32) % 4 - 1, torch.arange(8) % 4 - 1
    data = from_arrays(noise(32), labels, noise(8, 1), test_labels)
    run = train_supervised(supervised_config(), data, **run_options)
    assert run.result["images"] == 24 and run.result["final"]["test_images"] == 6
    assert "left out: 8 of 32 training images" in capsys.readouterr().out
    by_fraction = train_supervised(supervised_config(labels=0.5), data, **run_options)
    assert by_fraction.result["images"] == 12


@pytest.mark.parametrize("labels", [None, torch.zeros(32).long(), torch.arange(32) % 2 - 1])
def test_supervised_training_needs_labels_of_two_classes(labels, run_options, tmp_path):
    data = from_arrays(noise(32), labels, noise(8, 1), labels if labels is None else labels[:8])
    with pytest.raises(ValueError, match="expected labelled training images of at least two cl"):
        train_supervised(supervised_config(), data, **run_options)
    assert not (tmp_path / "runs").exists()  # refused before anything is written


def test_unlabeled_images_are_what_pretraining_sees(monkeypatch, run_options):
    data = random_data()
    more = Images(noise(48, 2)[:, None], torch.full((48,), -1), data.classes)
    data = Dataset("more", data.train, data.test, more)
    seen = []
    loss = SimSiamModule.loss

    def spy(self, views, generator, progress):
        seen.append(len(views[0]))
        return loss(self, views, generator, progress)

    monkeypatch.setattr(SimSiamModule, "loss", spy)
    run = pretrain(pretrain_config(), data, **run_options)
    assert seen == [16] * 3 and "knn" in run.result["final"]


def test_a_batch_larger_than_the_data_is_all_of_it_at_the_rate_of_its_size(run_options):
    config = pretrain_config(batch_size=512, schedule="constant")
    run = pretrain(config, random_data(20), **run_options)
    assert run.config["batch_size"] == 20
    assert run.result["final"]["lr"] == pytest.approx(0.5 * 20 / 256)
    again = pretrain(
        pretrain_config(batch_size=20, schedule="constant"), random_data(20), **run_options
    )
    assert again.folder == run.folder


@pytest.mark.parametrize(
    ("config", "data", "options", "error", "says"),
    [
        (supervised_config(), random_data(), {}, TypeError, "expected a PretrainConfig"),
        ({"epochs": 3}, random_data(), {}, TypeError, "config is a dict: expected"),
        (pretrain_config(), noise(20), {}, TypeError, "data is a Tensor: .* from_arrays"),
        (pretrain_config(), DataLoader(noise(20)), {}, TypeError, "from_dataset .*its dataset"),
        (pretrain_config(), random_data(), {"frsh": True}, TypeError, "frsh"),
        (pretrain_config(), random_data(1), {}, ValueError, "only 1 image"),
        (pretrain_config(encoder="tny"), random_data(), {}, ValueError, "did you mean 'tiny'"),
        (pretrain_config(augment="simclr blurr=0"), random_data(), {}, ValueError, "'blur'"),
        (pretrain_config(), random_data(), {"encoder": nn.Conv2d(1, 4, 3)}, ValueError, "Flatten"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    config, data, options, error, says, run_options, tmp_path
):
    with pytest.raises(error, match=says):
        pretrain(config, data, **run_options, **options)
    assert not (tmp_path / "runs").exists()
