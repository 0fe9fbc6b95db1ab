"""Every field of a configuration, and every option of a method, has an effect and another name."""

import dataclasses
import functools
import math

import pytest
from tiny_runs import (
    SIMCLR,
    SIMSIAM,
    flat,
    outcome,
    pretrain_config,
    random_data,
    same,
    supervised_config,
    task_of,
)

from simlab.config import NOT_IDENTITY, PretrainConfig, SupervisedConfig
from simlab.methods import SimCLR, SimSiam, with_method_option
from simlab.train import (
    loading,
    pretrain,
    train_supervised,
    untrained,
)

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
        "negatives": "false", "views": 3,
    },
}  # fmt: skip
OPTIONS = [(method, option) for method in METHOD_OPTIONS for option in METHOD_OPTIONS[method]]
SUPERVISED_FIELDS = {"labels": ({}, 16), "lr": ({}, 0.1), "augment": ({}, "none")}
ELSEWHERE = {
    "data", "data_folder", "download", "image_size", "fit",  # which images: see below
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


def test_the_same_method_as_text_and_as_an_object_is_one_run(run_options):
    text = pretrain(pretrain_config(), random_data(), **run_options)
    config = dataclasses.replace(pretrain_config(), method="simsiam")
    options = SimSiam(proj_dim=16, pred_dim=8, pred_lr=2)
    as_object = pretrain(config, random_data(), method=options, **run_options)
    as_argument = pretrain(config, random_data(), method=SIMSIAM, **run_options)
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
    supervised_fields = {field.name for field in dataclasses.fields(SupervisedConfig)}
    assert supervised_fields - fields <= set(SUPERVISED_FIELDS)


def test_the_stem_changes_a_resnet():
    small, large = (
        untrained(pretrain_config(encoder="resnet18", stem=stem), random_data())
        for stem in ("small", "large")
    )
    assert small.conv1.weight.shape != large.conv1.weight.shape


def test_the_data_are_loaded_as_the_configuration_says(monkeypatch, run_options):
    calls = []
    monkeypatch.setattr(loading, "load_data", lambda **kw: calls.append(kw) or random_data())
    where = {"data": "fashion", "data_folder": "there", "download": True, "image_size": 24}
    how = {"channels": random_data().train.channels, "fit": "squeeze", "on_error": "skip"}
    threads = {"decoding_threads": 3}
    pretrain(pretrain_config(**where, **how, **threads), **run_options)
    named = {"name": "fashion", "folder": "there", "download": True, "image_size": 24}
    assert calls == [named | how | {"threads": 3}]


@pytest.mark.parametrize("fixed", [True, False])
def test_the_predictors_rate_stays_when_asked(fixed, run_options):
    config = pretrain_config(
        epochs=2, method=f"{SIMSIAM} fix_pred_lr={fixed}".replace("pred_lr=2", "pred_lr=3")
    )
    checkpoint = pretrain(config, random_data(), **run_options).load_checkpoint()
    groups = checkpoint["optimizer"]["param_groups"]
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
        trainable = [p for p in task.network.parameters() if p.requires_grad]
        assert len(params) == len(set(params)) == len(trainable) and set(params) == set(trainable)
        assert trained == any(p in set(params) for p in task.network.predictor.parameters())
