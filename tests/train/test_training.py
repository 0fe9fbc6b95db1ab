"""Training does what its configuration says, and learns."""

import math

import pytest
import torch
import torch.nn as nn
from tiny_runs import (
    SIMCLR,
    easy_data,
    flat,
    outcome,
    pretrain_config,
    random_data,
    same,
    supervised_config,
    task_of,
)
from torch.utils._python_dispatch import TorchDispatchMode

from simlab.methods.simsiam import SimSiamModule
from simlab.train import (
    build_task,
    loop,
    monitor,
    pretrain,
    resolve,
    train_supervised,
)
from simlab.train.callbacks import Watchers


def test_monitoring_changes_no_weight_and_no_running_statistic(tmp_path):
    states = [
        outcome(
            pretrain(
                pretrain_config(epochs=2, monitor_every=every), random_data(),
                encoder=flat(), folder=str(tmp_path / str(every)), progress=False,
            )
        )[1]
        for every in (1, 2)
    ]  # fmt: skip
    assert same(*states)
    task = task_of(pretrain_config(), random_data(), flat())
    task.network.train()
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    measured = task.monitor.measure(task.network, 1)
    assert same(before, task.network.state_dict())
    assert all(module.training for module in task.network.modules())
    assert measured == task.monitor.measure(
        task.network, 1
    )  # in training mode dropout would make them differ


def test_z_is_measured_on_clean_images_spread_over_the_test_set(monkeypatch):
    """A folder's images are sorted by class: the first ones would be of few classes."""
    monkeypatch.setattr(monitor, "MONITOR_IMAGES", 4)
    data = random_data(test=31)
    task = task_of(pretrain_config(), data, flat())
    seen = []
    monkeypatch.setattr(monitor, "collapse_metrics", lambda z: seen.append(z) or {"std_ratio": 1.0})
    task.monitor.measure(task.network, 1)
    images = data.test.images[[0, 10, 20, 30]].float() / 255
    mean, std = data.normalize.mean, data.normalize.std
    x = (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    network = task.network.eval()
    torch.testing.assert_close(seen[0], network.projector(network.encoder(x)))


def test_the_network_trains_in_training_mode_and_comes_back_in_evaluation_mode(
    monkeypatch, run_options
):
    modes = set()
    loss = SimSiamModule.loss

    def spy(self, *args):
        modes.update(module.training for module in self.modules())
        return loss(self, *args)

    monkeypatch.setattr(SimSiamModule, "loss", spy)
    run = pretrain(pretrain_config(epochs=2), random_data(), encoder=flat().eval(), **run_options)
    assert modes == {True}
    assert not any(module.training for module in run.encoder.modules())


def test_an_encoder_of_the_users_is_left_as_it_is(run_options):
    encoder = flat().eval()
    encoder.linear.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    run = pretrain(pretrain_config(), random_data(), encoder=encoder, **run_options)
    assert same(before, encoder.state_dict()) and not encoder.training
    assert all(param.grad is None for param in encoder.parameters())
    assert run.encoder is not encoder
    assert not same(before, run.encoder.state_dict())
    assert torch.equal(before["linear.weight"], run.encoder.linear.weight)  # frozen by the user
    assert run.config["encoder"] == "Flat"


def test_a_loaded_encoder_gives_the_same_bits_as_the_trained_one(run_options):
    trained, loaded = (pretrain(pretrain_config(), random_data(), **run_options) for _ in range(2))
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(trained.encoder(x), loaded.encoder(x))
    for a, b in zip(trained.encoder.parameters(), loaded.encoder.parameters(), strict=True):
        assert a.stride() == b.stride()  # the layout in memory chooses the convolution's code
    final = loaded.load_checkpoint()["network"]
    assert all(
        torch.equal(value, final[f"encoder.{name}"])
        for name, value in loaded.encoder.state_dict().items()
    )


@pytest.mark.long
def test_no_step_waits_for_the_device():
    """The loss is looked at every CHECK_EVERY steps; no other step reads a value back."""

    class Reads(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal")
            self.number += func.overloadpacket.__name__ in waits
            return func(*args, **kwargs or {})

    class NoRun:
        folder = type("Folder", (), {"name": "pretrain-0"})

        def __getattr__(self, _):
            return lambda *_: None

    def reads(steps, make=pretrain_config):
        data = random_data(4 * steps)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
        config = resolve(make(batch_size=4, view_size=8), data, encoder)
        task = build_task(config, data, encoder=encoder)
        with Reads() as mode:
            run = NoRun()
            loop.fit(task, config, run, torch.device("cpu"), Watchers(run), progress=False)
        return mode.number

    assert reads(18) == reads(6) < reads(26)
    assert reads(18, supervised_config) == reads(6, supervised_config)


def test_supervised_training_learns_an_easy_set(run_options):
    config = supervised_config(epochs=4, augment="none", lr=0.4)
    run = train_supervised(config, easy_data(), **run_options)
    loss = run.history["loss"]
    assert loss.iloc[-1] < 0.5 * loss.iloc[0]
    assert run.result["final"]["test_accuracy"] > 0.9
    assert run.result["best"] == run.result["final"]


def test_pretraining_learns_to_match_the_views(run_options):
    config = pretrain_config(epochs=4, augment="none", lr=1.0)
    loss = pretrain(config, easy_data(), **run_options).history["loss"]
    assert loss.iloc[-1] < min(loss.iloc[0], -0.5)


def test_a_label_budget_has_as_many_of_each_class_and_comes_from_the_seed():
    data = random_data(80)

    def chosen(**changes):
        images = task_of(supervised_config(labels=12, **changes), data, flat()).views.images
        assert images.labels.bincount().tolist() == [3, 3, 3, 3]
        return sorted(image.numpy().tobytes() for image in images.images)

    assert chosen() == chosen() != chosen(seed=1)
    assert set(chosen()) <= {image.numpy().tobytes() for image in data.train.images}


@pytest.mark.parametrize("labels", [10, 84])
def test_a_label_budget_that_does_not_fit_is_refused(labels, run_options):
    with pytest.raises(ValueError, match=f"labels={labels}"):
        train_supervised(supervised_config(labels=labels), random_data(80), **run_options)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_computes_in_it_and_keeps_float32_weights(
    precision, monkeypatch, run_options
):
    seen = set()
    forward = SimSiamModule.forward

    def spy(self, x):
        z, p = forward(self, x)
        seen.add(p.dtype)
        return z, p

    monkeypatch.setattr(SimSiamModule, "forward", spy)
    run = pretrain(pretrain_config(precision=precision), random_data(), **run_options)
    assert seen == {getattr(torch, precision)}
    state = run.load_checkpoint()
    assert all(v.dtype in (torch.float32, torch.int64) for v in state["network"].values())
    assert ("scale" in state["scaler"]) == (precision == "float16")  # GradScaler's
    assert math.isfinite(run.result["final"]["loss"])


@pytest.mark.long
def test_simclr_trains_by_the_same_loop_and_learns_to_match_the_views(run_options):
    config = pretrain_config(method=SIMCLR, epochs=4, augment="none", lr=1.0)
    run = pretrain(config, easy_data(), **run_options)
    loss = run.history["loss"]
    assert loss.iloc[-1] < loss.iloc[0] and "knn" in run.result["final"]
    options = "temperature=0.5 proj_layers=2 proj_dim=16 head_bn=all negatives=true views=2"
    assert run.config["method"] == f"simclr {options}"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["pretrain", "supervised"])
def test_sim_is_logged_apart_and_taken_off_again(kind, run_options):
    run_with = {
        "pretrain": lambda **c: pretrain(pretrain_config(**c), random_data(), **run_options),
        "supervised": lambda **c: train_supervised(
            supervised_config(**c), random_data(), **run_options
        ),
    }[kind]
    plain, with_sim = run_with(), run_with(sim_layers="blocks.*", sim_beta=0.5)
    assert "sim_loss" not in plain.history and with_sim.result["final"]["sim_loss"] > 0
    assert plain.encoder.state_dict().keys() == with_sim.encoder.state_dict().keys()
    assert not same(plain.encoder.state_dict(), with_sim.encoder.state_dict())
    off = run_with(sim_layers="blocks.*", sim_beta=0.0)
    assert off.result["final"]["sim_loss"] == 0
    again = run_with(sim_layers="blocks.*", sim_beta=0.5)  # loaded
    assert again.folder == with_sim.folder
    assert same(again.encoder.state_dict(), with_sim.encoder.state_dict())


def test_sims_projections_learn_with_the_encoder():
    config = pretrain_config(sim_layers="blocks.0,blocks.2", sim_small="two", encoder="tiny")
    data = random_data()
    task = task_of(config, data)
    encoder = task.network.encoder
    learned = {id(p) for group in task.network.parameter_groups() for p in group.params}
    assert all(id(p) in learned for p in encoder.blocks[0].sim.parameters())
    assert not hasattr(encoder.blocks[1], "sim")


def test_a_layer_that_is_not_there_is_refused_before_training(run_options):
    with pytest.raises(ValueError, match="layer9"):
        pretrain(pretrain_config(sim_layers="layer9"), random_data(), **run_options)
