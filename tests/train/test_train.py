"""Training does what its configuration says, the same every time, and stores nothing broken."""

import dataclasses
import functools
import math
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from simlab.config import NOT_IDENTITY, PretrainConfig, SupervisedConfig
from simlab.data import Dataset, Images, from_arrays
from simlab.evaluate import knn
from simlab.methods import SimCLR, SimSiam, with_method_option
from simlab.methods.simsiam import SimSiamModule
from simlab.runs import module_digest
from simlab.train import (
    build_task,
    loop,
    monitor,
    pretrain,
    resolve,
    train_supervised,
    untrained,
)
from simlab.train import run as train
from simlab.train import views as views_of

SHARED = {
    "encoder": "tiny", "augment": "scattered", "view_size": 8, "epochs": 1, "batch_size": 16,
    "lr": 0.5, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3, "schedule": "cosine",
    "warmup_epochs": 0.0, "precision": "float32", "seed": 0, "device": "cpu", "threads": 1,
    "keep_checkpoints": 3,
}  # fmt: skip
MEASURES = {"monitor_every": 1, "knn_k": 5, "knn_temperature": 0.1}
SIMSIAM = "simsiam proj_dim=16 pred_dim=8 pred_lr=2"
SIMCLR = "simclr proj_dim=16"


def pretrain_config(**changes) -> PretrainConfig:
    return PretrainConfig(**SHARED | MEASURES | {"method": SIMSIAM} | changes)


def supervised_config(**changes) -> SupervisedConfig:
    return SupervisedConfig(**SHARED | changes)


def noise(number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 8, 8), generator=generator, dtype=torch.uint8)


def random_data(train: int = 32, test: int = 8) -> Dataset:
    """Random images in four classes."""
    labels = (torch.arange(train) % 4, torch.arange(test) % 4)
    return from_arrays(noise(train), labels[0], noise(test, 1), labels[1])


def easy_data() -> Dataset:
    """The class is the bright quarter of the image."""
    labels = torch.arange(160) % 4
    images = noise(160) // 4
    for i, c in enumerate(labels.tolist()):
        images[i, 4 * (c // 2) :, 4 * (c % 2) :][:4, :4] += 150
    return from_arrays(images, labels)


class Flat(nn.Module):
    """A quick encoder with BatchNorm and dropout.

    From the training batch `breaks_at` on it gives NaN; at `bad_gradient` its gradient alone is NaN.
    """

    def __init__(self, breaks_at: int = 10**9, bad_gradient: int = 10**9):
        super().__init__()
        self.linear, self.bn = nn.Linear(64, 12), nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(0.3)
        self.breaks_at, self.bad_gradient = breaks_at, bad_gradient
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.batches += self.training
        h = self.dropout(torch.relu(self.bn(self.linear(x.flatten(1)))))
        if self.training and int(self.batches) == self.bad_gradient:
            h.register_hook(lambda gradient: gradient * math.nan)
        return h * math.nan if int(self.batches) >= self.breaks_at else h


def task_of(config, data, encoder=None):
    """What the loop trains."""
    return build_task(resolve(config, data, encoder), data, encoder=encoder)


def flat(**options) -> Flat:
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        return Flat(**options)


def outcome(run) -> tuple[list[dict], dict]:
    """The metrics but for the time, and all that training changed: network, optimizer, scaler."""
    state = run.load_checkpoint()
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state["history"]]
    return rows, {name: state[name] for name in ("network", "optimizer", "scaler")}


def same(a, b) -> bool:
    """Equal to the last bit, in nested dicts and lists of tensors and numbers."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def kept(tmp_path):
    """Options of a quiet run in an empty folder."""
    return {"folder": str(tmp_path / "runs"), "progress": False}


# ------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("encoder", [None, flat()], ids=["tiny", "with dropout"])
def test_the_same_configuration_gives_the_same_bits(encoder, tmp_path):
    results = []
    for folder in ("a", "b"):
        torch.rand(3)  # what the caller drew before does not matter
        config = pretrain_config(epochs=2)
        options = {"folder": str(tmp_path / folder), "progress": False, "encoder": encoder}
        results.append(outcome(pretrain(config, random_data(), **options)))
    assert same(*results)


def test_what_a_callback_draws_does_not_change_the_run(tmp_path):
    plain, drawing = (
        pretrain(
            pretrain_config(epochs=2), random_data(), encoder=flat(), progress=False,
            folder=str(tmp_path / name), on_epoch=callback,
        )
        for name, callback in (("a", None), ("b", lambda history: torch.rand(5)))
    )  # fmt: skip
    assert same(outcome(plain), outcome(drawing))


@pytest.mark.parametrize("again", [False, True], ids=["trained", "loaded"])
def test_the_callers_random_numbers_and_threads_are_left_alone(again, kept):
    config = pretrain_config()
    kept["encoder"] = flat()
    if again:
        pretrain(config, random_data(), **kept)
    torch.manual_seed(5)
    expected = torch.rand(4)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    pretrain(dataclasses.replace(config, threads=threads + 1), random_data(), **kept)
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_num_threads() == threads


def test_the_number_of_threads_is_the_one_asked_for_and_is_recorded(kept):
    seen = []
    run = pretrain(
        pretrain_config(threads=2), random_data(), **kept, encoder=flat(),
        on_epoch=lambda history: seen.append(torch.get_num_threads()),
    )  # fmt: skip
    assert seen == [2] and run.result["environment"]["threads"] == 2


def first_weights(config, monkeypatch, kept) -> dict:
    """The network's weights as the loop gets them."""
    found = {}

    def stop(task, *_):
        found.update(task.network.state_dict())
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "fit", stop)
        pretrain(config, random_data(), **kept)
    return found


def test_the_seed_is_set_before_the_model_is_built(monkeypatch, kept):
    torch.manual_seed(1)
    first = first_weights(pretrain_config(), monkeypatch, kept)
    torch.manual_seed(2)
    assert same(first, first_weights(pretrain_config(), monkeypatch, kept))
    other = first_weights(pretrain_config(seed=1), monkeypatch, kept)
    for name in ("encoder.stem.0.weight", "projector.0.weight", "predictor.0.weight"):
        assert not torch.equal(first[name], other[name])
    baseline = untrained(pretrain_config(), random_data()).state_dict()
    assert all(torch.equal(value, first[f"encoder.{name}"]) for name, value in baseline.items())


def test_every_epoch_has_an_own_order_with_each_image_at_most_once(monkeypatch, kept):
    orders, seeds = [], set()
    batches, views_at_once = Images.batches, views_of.views_at_once

    def spy(self, order, batch_size):
        if batch_size == 16:
            orders.append(order.tolist())
        return batches(self, order, batch_size)

    def seed_spy(*args):
        seeds.add(args[-2].initial_seed())
        return views_at_once(*args)

    monkeypatch.setattr(Images, "batches", spy)
    monkeypatch.setattr(views_of, "views_at_once", seed_spy)
    pretrain(pretrain_config(epochs=3), random_data(37), **kept)
    pretrain(pretrain_config(epochs=3, seed=1), random_data(37), **kept)
    assert len(orders) == 6 and len(seeds) == 6
    for order in orders:
        assert len(order) == 32 == len(set(order)) and set(order) <= set(range(37))
    assert len({tuple(order) for order in orders}) == 6
    assert len({frozenset(order) for order in orders}) > 1  # those left out differ as well
    assert set().union(*orders) == set(range(37))


# ------------------------------------------------------------------ every field of a configuration

# field: (the configuration in which it matters, another value)
PRETRAIN_FIELDS = {
    "encoder": ({}, "small"),
    "augment": ({}, "scattered rotate=0"),
    "view_size": ({}, 6),
    "epochs": ({}, 2),
    "batch_size": ({}, 8),
    "accumulate": ({}, 2),
    "lr": ({}, 0.25),
    "lr_encoder": ({}, 0.25),
    "optimizer": ({"lr": 0.01}, "adam"),
    "momentum": ({}, 0.5),
    "weight_decay": ({}, 0.1),
    "schedule": ({}, "constant"),
    "warmup_epochs": ({}, 0.5),
    "decay_every": ({"schedule": "step", "epochs": 2, "decay_every": 1}, 2),
    "milestones": ({"schedule": "multistep", "milestones": "0.4"}, "0.6"),
    "decay": ({"schedule": "multistep", "milestones": "0.4", "decay": 0.1}, 0.5),
    "precision": ({}, "bfloat16"),
    "seed": ({}, 1),
    "monitor_every": ({"epochs": 2}, 2),
    "knn_k": ({}, 3),
    "knn_temperature": ({}, 0.2),
    "method": ({}, "simclr proj_dim=16"),
    "views_from": ({}, "label"),
    "sim_layers": ({}, "blocks.*"),
    "sim_beta": ({"sim_layers": "blocks.*"}, 0.5),
    "sim_tokens": ({"sim_layers": "blocks.*", "sim_beta": 0.5}, 4.0),
    "sim_sampling": ({"sim_layers": "blocks.*", "sim_beta": 0.5}, "v1"),
    "sim_loss": ({"sim_layers": "blocks.*", "sim_beta": 0.5}, "cos"),
    "sim_hidden": ({"sim_layers": "blocks.*", "sim_beta": 0.5}, 32),
    "sim_dim": ({"sim_layers": "blocks.*", "sim_beta": 0.5}, 16),
    "sim_small": ({"sim_layers": "blocks.*", "sim_beta": 0.5}, "two"),
}
# option: another value than the one in SIMSIAM, SIMCLR
METHOD_OPTIONS = {
    SIMSIAM: {
        "proj_layers": 3, "proj_dim": 24, "pred_dim": 12, "predictor": "none", "head_bn": "hidden",
        "stop_gradient": "false", "fix_pred_lr": "false", "pred_lr": 1,
    },
    SIMCLR: {
        "temperature": 0.1, "proj_layers": 3, "proj_dim": 24, "head_bn": "none",
        "negatives": "false",
    },
}  # fmt: skip
OPTIONS = [(method, option) for method in METHOD_OPTIONS for option in METHOD_OPTIONS[method]]
SUPERVISED_FIELDS = {"labels": ({}, 16), "lr": ({}, 0.1), "augment": ({}, "none")}
ELSEWHERE = {
    "data", "data_folder", "download", "image_size", "channels", "fit",  # which images: see below
    "stem",  # of the ResNets, see below
} | NOT_IDENTITY  # fmt: skip


@pytest.fixture(scope="module")
def result_of(tmp_path_factory):
    """Runs a configuration once; two that differ in a label alone would share nothing."""
    folder = tmp_path_factory.mktemp("runs")

    @functools.cache
    def result(config):
        entry = pretrain if isinstance(config, PretrainConfig) else train_supervised
        run = entry(config, random_data(), folder=str(folder), progress=False)
        return run.folder.name, outcome(run)

    return result


@pytest.mark.parametrize("field", PRETRAIN_FIELDS)
def test_a_changed_field_is_another_run_with_another_result(field, result_of):
    base, value = PRETRAIN_FIELDS[field]
    before, after = pretrain_config(**base), pretrain_config(**base | {field: value})
    (name1, result1), (name2, result2) = result_of(before), result_of(after)
    assert name1 != name2
    assert not same(result1, result2)


@pytest.mark.parametrize(("method", "option"), OPTIONS)
def test_a_changed_option_is_another_run_with_another_result(method, option, result_of):
    changed = with_method_option(method, option, METHOD_OPTIONS[method][option])
    (name1, result1), (name2, result2) = (
        result_of(pretrain_config(method=text)) for text in (method, changed)
    )
    assert name1 != name2
    assert not same(result1, result2)


@pytest.mark.parametrize(
    ("method", "cls"), [(SIMSIAM, SimSiam), (SIMCLR, SimCLR)], ids=["simsiam", "simclr"]
)
def test_every_option_is_tested_for_its_effect(method, cls):
    assert {field.name for field in dataclasses.fields(cls)} == set(METHOD_OPTIONS[method])


def test_the_same_method_as_text_and_as_an_object_is_one_run(kept):
    text = pretrain(pretrain_config(), random_data(), **kept)
    config = dataclasses.replace(pretrain_config(), method="simsiam")
    options = SimSiam(proj_dim=16, pred_dim=8, pred_lr=2)
    as_object = pretrain(config, random_data(), method=options, **kept)
    as_argument = pretrain(config, random_data(), method=SIMSIAM, **kept)
    assert text.folder == as_object.folder == as_argument.folder


@pytest.mark.parametrize("field", SUPERVISED_FIELDS)
def test_a_changed_field_is_another_supervised_run_with_another_result(field, result_of):
    base, value = SUPERVISED_FIELDS[field]
    before, after = supervised_config(**base), supervised_config(**base | {field: value})
    (name1, result1), (name2, result2) = result_of(before), result_of(after)
    assert name1 != name2
    assert not same(result1, result2)


def test_every_field_is_tested_for_its_effect():
    fields = {field.name for field in dataclasses.fields(PretrainConfig)}
    assert fields == set(PRETRAIN_FIELDS) | ELSEWHERE
    own = {field.name for field in dataclasses.fields(SupervisedConfig)}
    assert own - fields <= set(SUPERVISED_FIELDS)


def test_the_stem_changes_a_resnet():
    small, large = (
        untrained(pretrain_config(encoder="resnet18", stem=stem), random_data())
        for stem in ("small", "large")
    )
    assert small.conv1.weight.shape != large.conv1.weight.shape


def test_the_data_are_loaded_as_the_configuration_says(monkeypatch, kept):
    asked = []
    monkeypatch.setattr(train, "load_data", lambda **kw: asked.append(kw) or random_data())
    where = {"data": "fashion", "data_folder": "there", "download": True, "image_size": 24}
    how = {"channels": random_data().train.channels, "fit": "squeeze", "on_error": "skip"}
    pretrain(pretrain_config(**where, **how), **kept)
    named = {"name": "fashion", "folder": "there", "download": True, "image_size": 24}
    assert asked == [named | how]


@pytest.mark.parametrize("fixed", [True, False])
def test_the_predictors_rate_stays_when_asked(fixed, kept):
    config = pretrain_config(
        epochs=2, method=f"{SIMSIAM} fix_pred_lr={fixed}".replace("pred_lr=2", "pred_lr=3")
    )
    groups = pretrain(config, random_data(), **kept).load_checkpoint()["optimizer"]["param_groups"]
    highest = 0.5 * 16 / 256
    last = highest * (1 + math.cos(math.pi * 1.5 / 2)) / 2  # the second step of the second epoch
    rates = [group["lr"] for group in groups]
    assert rates == pytest.approx([last, 3 * (highest if fixed else last)])
    assert len(groups[1]["params"]) == 5  # Linear without bias, BatchNorm's two, Linear's two


def test_every_trainable_weight_is_in_the_optimizer_once():
    for predictor, trained in (("mlp", True), ("none", False), ("fixed", False)):
        config = pretrain_config(method=f"{SIMSIAM} predictor={predictor}")
        task = task_of(config, random_data(), flat())
        params = [p for group in task.network.parameter_groups() for p in group.params]
        own = [p for p in task.network.parameters() if p.requires_grad]
        assert len(params) == len(set(params)) == len(own) and set(params) == set(own)
        assert trained == any(p in set(params) for p in task.network.predictor.parameters())


# ----------------------------------------------------------------------------- training, monitoring


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


def test_the_network_trains_in_training_mode_and_comes_back_in_evaluation_mode(monkeypatch, kept):
    modes = set()
    loss = SimSiamModule.loss

    def spy(self, *args):
        modes.update(module.training for module in self.modules())
        return loss(self, *args)

    monkeypatch.setattr(SimSiamModule, "loss", spy)
    run = pretrain(pretrain_config(epochs=2), random_data(), encoder=flat().eval(), **kept)
    assert modes == {True}
    assert not any(module.training for module in run.encoder.modules())


def test_an_encoder_of_the_users_is_left_as_it_is(kept):
    own = flat().eval()
    own.linear.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    run = pretrain(pretrain_config(), random_data(), encoder=own, **kept)
    assert same(before, own.state_dict()) and not own.training
    assert all(param.grad is None for param in own.parameters())
    assert run.encoder is not own
    assert not same(before, run.encoder.state_dict())
    assert torch.equal(before["linear.weight"], run.encoder.linear.weight)  # frozen by the user
    assert run.config["encoder"] == "Flat"


def test_a_loaded_encoder_gives_the_same_bits_as_the_trained_one(kept):
    trained, loaded = (pretrain(pretrain_config(), random_data(), **kept) for _ in range(2))
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(trained.encoder(x), loaded.encoder(x))
    for a, b in zip(trained.encoder.parameters(), loaded.encoder.parameters(), strict=True):
        assert a.stride() == b.stride()  # the layout in memory chooses the convolution's code
    final = loaded.load_checkpoint()["network"]
    assert all(
        torch.equal(value, final[f"encoder.{name}"])
        for name, value in loaded.encoder.state_dict().items()
    )


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
            loop.fit(task, config, NoRun(), torch.device("cpu"), progress=False)
        return mode.number

    assert reads(18) == reads(6) < reads(26)
    assert reads(18, supervised_config) == reads(6, supervised_config)


# ------------------------------------------------------------------------------- what is recorded


def test_history_result_and_log_tell_the_same_story(kept):
    config = pretrain_config(epochs=3, monitor_every=2, knn_k=1000)
    run = pretrain(config, random_data(), **kept)
    history = run.history
    assert list(history["epoch"]) == [1, 2, 3]
    assert list(history["knn"].notna()) == [False, True, True]  # every second epoch, and the last
    for name in ("loss", "lr", "std", "std_ratio", "rank", "rank_ratio", "seconds"):
        assert history[name].notna().all(), name
    assert history["seconds"].is_monotonic_increasing
    result = run.result
    assert result["final"] == {
        name: value for name, value in history.iloc[-1].items() if value == value
    }
    assert result["final"]["knn_k"] == 32  # the bank has no more
    assert result["final"]["knn_temperature"] == 0.1
    assert result["seconds"] == round(result["final"]["seconds"], 1)
    assert {"python", "torch", "device", "threads"} <= set(result["environment"])
    assert run.config["precision"] == "float32"
    log = (run.folder / "train.log").read_text()
    assert "PretrainConfig(" in log and "'torch'" in log
    assert [f"epoch {e} " in log for e in (1, 2, 3, 4)] == [True, True, True, False]


def test_best_is_told_apart_from_final(monkeypatch, kept):
    accuracies = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(monitor, "knn_accuracy", lambda *args: next(accuracies))
    result = pretrain(pretrain_config(epochs=3), random_data(), **kept).result
    assert (result["final"]["epoch"], result["final"]["knn"]) == (3, 0.7)
    assert (result["best"]["epoch"], result["best"]["knn"]) == (2, 0.9)
    assert result["best"]["knn_k"] == 5


def test_the_progress_bar_shows_loss_and_speed(capsys, tmp_path):
    seen = []
    pretrain(
        pretrain_config(epochs=2), random_data(), folder=str(tmp_path),
        on_epoch=lambda history: seen.append(len(history)),
    )  # fmt: skip
    bar = capsys.readouterr().err
    assert "loss" in bar and "images" in bar and seen == [1, 2]


def test_a_collapse_is_warned_of(monkeypatch, kept, capsys):
    monkeypatch.setattr(loop, "collapse_warning", lambda *args: "it collapses")
    run = pretrain(pretrain_config(), random_data(), **kept)
    assert "it collapses" in (run.folder / "train.log").read_text()
    assert "epoch 1: it collapses" in capsys.readouterr().out


# ------------------------------------------------------------------------------ what goes wrong


def assert_diverged(entry, config, data, encoder, kept):
    """It stops with a message, and is not taken for a finished run afterwards."""
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="diverged.*Lower lr") as caught:
            entry(config, data, encoder=encoder, **kept)
    return caught


@pytest.mark.parametrize("entry", [pretrain, train_supervised])
def test_a_loss_that_becomes_nan_stops_and_leaves_the_last_checkpoint_whole(entry, kept):
    make = pretrain_config if entry is pretrain else supervised_config
    config, data = make(epochs=3), random_data()
    breaks_at = 4 if entry is train_supervised else 7  # in the second epoch
    own = flat(breaks_at=breaks_at)
    caught = assert_diverged(entry, config, data, own, kept)
    assert "epoch 2" in str(caught.value)
    seen = []
    with pytest.raises(FloatingPointError):
        entry(config, data, encoder=own, **kept, on_epoch=seen.append)
    assert not seen  # the second try went on from the first epoch, and no further
    with train.claim(
        "pretrain" if entry is pretrain else "supervised",
        train.resolve(config, data, own),
        {"data": data.digest(), "encoder": module_digest(own), "method": "", "augment": ""},
        kept["folder"],
    ) as run:  # fmt: skip
        assert not run.finished
        state = run.load_checkpoint()
        assert state["epoch"] == 1 and list(run.history["epoch"]) == [1]
        assert all(value.isfinite().all() for value in state["network"].values())


@pytest.mark.parametrize("lr", [1e30, 1e38])
@pytest.mark.parametrize("entry", [pretrain, train_supervised])
def test_weights_that_break_in_the_very_last_step_are_not_a_finished_run(entry, lr, kept):
    """The loss of a run's only step is still fine."""
    make = pretrain_config if entry is pretrain else supervised_config
    config = make(lr=lr, batch_size=32, schedule="constant")
    assert_diverged(entry, config, random_data(), None, kept)


def test_a_gradient_that_breaks_the_weights_in_an_epochs_last_step_is_not_stored(kept):
    """Neither a loss nor a measurement has seen it by then."""
    config = supervised_config(epochs=2)
    assert_diverged(train_supervised, config, random_data(), flat(bad_gradient=2), kept)
    assert not list(Path(kept["folder"]).glob("*/checkpoints/*"))


def test_constant_images_train_without_nan(kept):
    images = torch.full((40, 8, 8), 77, dtype=torch.uint8)
    data = from_arrays(images, torch.arange(40) % 2)
    run = pretrain(pretrain_config(epochs=2), data, **kept)
    assert run.history[["loss", "std", "rank"]].notna().all(axis=None)
    assert train_supervised(supervised_config(), data, **kept).finished


@pytest.mark.parametrize(
    ("labels", "test_labels"),
    [
        (None, None), (torch.arange(32) % 4, None), (torch.zeros(32).long(), torch.zeros(8).long()),
    ],
    ids=["none at all", "none of the test", "one class"],
)  # fmt: skip
def test_without_labels_pretraining_leaves_out_the_knn_and_says_so(
    labels, test_labels, kept, capsys
):
    data = from_arrays(noise(32), labels, noise(8, 1), test_labels)
    run = pretrain(pretrain_config(epochs=2), data, **kept)
    assert "no kNN accuracy: " in capsys.readouterr().out
    assert "no kNN accuracy: " in (run.folder / "train.log").read_text()
    assert "knn" not in run.history and "knn" not in run.result["final"]
    assert run.result["best"] == run.result["final"]
    assert run.best_checkpoint() is None


def test_with_some_labels_missing_the_knn_is_that_of_the_labelled_images(kept, capsys):
    labels, test_labels = torch.arange(32) % 4 - 1, torch.arange(8) % 4 - 1
    data = from_arrays(noise(32), labels, noise(8, 1), test_labels)
    run = pretrain(pretrain_config(epochs=2), data, **kept)
    assert "8 of 32 training images without a label (-1)" in capsys.readouterr().out
    labelled = from_arrays(
        noise(32)[labels >= 0], labels[labels >= 0], noise(8, 1)[test_labels >= 0], [0, 1, 2] * 2
    )
    labelled = Dataset("labelled", labelled.train, labelled.test, normalize=data.normalize)
    final = run.result["final"]
    assert (final["knn_k"], final["knn_images"]) == (5, 6)
    assert final["knn"] == knn(run.encoder, labelled, final["knn_k"], final["knn_temperature"])


def test_supervised_training_takes_the_labelled_images_alone(kept, capsys):
    labels, test_labels = torch.arange(32) % 4 - 1, torch.arange(8) % 4 - 1
    data = from_arrays(noise(32), labels, noise(8, 1), test_labels)
    run = train_supervised(supervised_config(), data, **kept)
    assert run.result["images"] == 24 and run.result["final"]["test_images"] == 6
    assert "left out: 8 of 32 training images" in capsys.readouterr().out
    by_fraction = train_supervised(supervised_config(labels=0.5), data, **kept)
    assert by_fraction.result["images"] == 12


@pytest.mark.parametrize("labels", [None, torch.zeros(32).long(), torch.arange(32) % 2 - 1])
def test_supervised_training_needs_labels_of_two_classes(labels, kept, tmp_path):
    data = from_arrays(noise(32), labels, noise(8, 1), labels if labels is None else labels[:8])
    with pytest.raises(ValueError, match="expected labelled training images of at least two cl"):
        train_supervised(supervised_config(), data, **kept)
    assert not (tmp_path / "runs").exists()  # refused before anything is written


def test_unlabeled_images_are_what_pretraining_sees(monkeypatch, kept):
    data = random_data()
    more = Images(noise(48, 2)[:, None], torch.full((48,), -1), data.classes)
    data = Dataset("more", data.train, data.test, more)
    seen = []
    loss = SimSiamModule.loss

    def spy(self, views, generator, progress):
        seen.append(len(views[0]))
        return loss(self, views, generator, progress)

    monkeypatch.setattr(SimSiamModule, "loss", spy)
    run = pretrain(pretrain_config(), data, **kept)
    assert seen == [16] * 3 and "knn" in run.result["final"]


def test_a_batch_larger_than_the_data_is_all_of_it_at_the_rate_of_its_size(kept):
    config = pretrain_config(batch_size=512, schedule="constant")
    run = pretrain(config, random_data(20), **kept)
    assert run.config["batch_size"] == 20
    assert run.result["final"]["lr"] == pytest.approx(0.5 * 20 / 256)
    again = pretrain(pretrain_config(batch_size=20, schedule="constant"), random_data(20), **kept)
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
    config, data, options, error, says, kept, tmp_path
):
    with pytest.raises(error, match=says):
        pretrain(config, data, **kept, **options)
    assert not (tmp_path / "runs").exists()


# ----------------------------------------------------------------------- supervised, and precision


def test_supervised_training_learns_an_easy_set(kept):
    config = supervised_config(epochs=4, augment="none", lr=0.4)
    run = train_supervised(config, easy_data(), **kept)
    loss = run.history["loss"]
    assert loss.iloc[-1] < 0.5 * loss.iloc[0]
    assert run.result["final"]["test_accuracy"] > 0.9
    assert run.result["best"] == run.result["final"]


def test_pretraining_learns_to_match_the_views(kept):
    config = pretrain_config(epochs=4, augment="none", lr=1.0)
    loss = pretrain(config, easy_data(), **kept).history["loss"]
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
def test_a_label_budget_that_does_not_fit_is_refused(labels, kept):
    with pytest.raises(ValueError, match=f"labels={labels}"):
        train_supervised(supervised_config(labels=labels), random_data(80), **kept)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_computes_in_it_and_keeps_float32_weights(precision, monkeypatch, kept):
    seen = set()
    forward = SimSiamModule.forward

    def spy(self, x):
        z, p = forward(self, x)
        seen.add(p.dtype)
        return z, p

    monkeypatch.setattr(SimSiamModule, "forward", spy)
    run = pretrain(pretrain_config(precision=precision), random_data(), **kept)
    assert seen == {getattr(torch, precision)}
    state = run.load_checkpoint()
    assert all(v.dtype in (torch.float32, torch.int64) for v in state["network"].values())
    assert ("scale" in state["scaler"]) == (precision == "float16")  # GradScaler's
    assert math.isfinite(run.result["final"]["loss"])


# ------------------------------------------------------------------------- SimCLR, SIM as an option


def test_simclr_trains_by_the_same_loop_and_learns_to_match_the_views(kept):
    config = pretrain_config(method=SIMCLR, epochs=4, augment="none", lr=1.0)
    run = pretrain(config, easy_data(), **kept)
    loss = run.history["loss"]
    assert loss.iloc[-1] < loss.iloc[0] and "knn" in run.result["final"]
    options = "temperature=0.5 proj_layers=2 proj_dim=16 head_bn=all negatives=true"
    assert run.config["method"] == f"simclr {options}"


@pytest.mark.parametrize("kind", ["pretrain", "supervised"])
def test_sim_is_logged_apart_and_taken_off_again(kind, kept):
    run_with = {
        "pretrain": lambda **c: pretrain(pretrain_config(**c), random_data(), **kept),
        "supervised": lambda **c: train_supervised(supervised_config(**c), random_data(), **kept),
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


def test_a_layer_that_is_not_there_is_refused_before_training(kept):
    with pytest.raises(ValueError, match="layer9"):
        pretrain(pretrain_config(sim_layers="layer9"), random_data(), **kept)
