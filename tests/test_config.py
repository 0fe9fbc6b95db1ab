"""A configuration holds what it says, refuses what it does not know, and is resolved before use."""

import dataclasses
import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simlab._checks import descriptions, kinds
from simlab.config import (
    NOT_IDENTITY,
    PretrainConfig,
    SupervisedConfig,
    make_config,
    milestones,
)
from simlab.data import Dataset, Images, from_arrays
from simlab.methods import SimSiam
from simlab.sim import LOSS_TYPES, SAMPLING_TYPES, SMALL_MAPS, SimOptions
from simlab.train import resolve

CLASSES = (PretrainConfig, SupervisedConfig)
FIELDS = [(PretrainConfig, field) for field in dataclasses.fields(PretrainConfig)]
FIELDS += [(SupervisedConfig, f) for f in dataclasses.fields(SupervisedConfig)[-1:]]
IDS = [field.name for _, field in FIELDS]
KINDS = kinds(PretrainConfig) | kinds(SupervisedConfig)
few_examples = settings(max_examples=12, derandomize=True, deadline=None, database=None)
VALUES = {
    int: st.integers(),
    float: st.floats(),
    bool: st.booleans(),
    str: st.text(max_size=8),
    "other": st.none() | st.binary(max_size=3) | st.lists(st.integers(), max_size=2),
}


def data_of(number=10, channels=1, size=8, test=4, name="some"):
    """Images of zeros, in two classes."""

    def images(n):
        return Images(
            torch.zeros(n, channels, size, size, dtype=torch.uint8), torch.arange(n) % 2, ("a", "b")
        )

    return Dataset(name, images(number), images(test))


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=IDS)
@few_examples
@given(draw=st.data())
def test_a_value_of_another_type_is_refused_by_its_name(cls, field, draw):
    expected = KINDS[field.name].type
    wrong = [kind for kind in VALUES if kind is not expected]
    if expected is float:
        wrong.remove(int)  # an int may stand for a float
    value = draw.draw(VALUES[draw.draw(st.sampled_from(wrong))])
    with pytest.raises(TypeError, match=rf"^{field.name}=.*expected {expected.__name__}"):
        cls(**{field.name: value})


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=IDS)
@few_examples
@given(draw=st.data())
def test_any_value_of_the_right_type_is_kept_as_it_is_or_refused_by_its_name(cls, field, draw):
    value = draw.draw(VALUES[KINDS[field.name].type])
    try:
        config = cls(**{field.name: value})
    except ValueError as error:
        assert str(error).startswith(f"{field.name}=")
    else:
        assert getattr(config, field.name) == value


@pytest.mark.parametrize("cls", CLASSES)
@few_examples
@given(value=st.integers(0, 2**53))
def test_an_int_stands_for_the_float_of_the_same_value(cls, value):
    lr = cls(lr=value).lr
    assert type(lr) is float and lr == value


@pytest.mark.parametrize(
    ("cls", "name"), [(cls, f.name) for cls, f in FIELDS if KINDS[f.name].type is float]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_a_float_that_is_no_number_is_refused(cls, name, value):
    with pytest.raises((ValueError, TypeError), match=f"^{name}="):
        cls(**{name: value})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"schedule": "multi-step"}, "did you mean 'multistep'"),
        ({"stem": "smal"}, "did you mean 'small'"),
        ({"precision": "float61"}, "did you mean 'float16'"),
        ({"batch_size": 1}, "batch_size=1: expected at least 2"),
        ({"channels": 2}, "channels"),
        ({"epochs": 0}, "epochs=0: expected at least 1"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"decay": -0.5}, "decay=-0.5"),
        ({"milestones": "60"}, "milestones='60'"),
        ({"milestones": ""}, "milestones=''"),
        ({"knn_temperature": 0.0}, "knn_temperature=0.0"),
    ],
)
def test_a_value_that_can_not_be_meant_is_refused_with_what_was_expected(changes, says):
    with pytest.raises(ValueError, match=says):
        PretrainConfig(**changes)


def test_a_negative_label_budget_is_refused():
    with pytest.raises(ValueError, match="labels=-10"):
        SupervisedConfig(labels=-10)


@pytest.mark.parametrize(("wrong", "right"), [("epoch", "epochs"), ("batchsize", "batch_size")])
def test_an_unknown_name_is_refused_with_the_nearest_right_one(wrong, right):
    with pytest.raises(ValueError, match=f"no field '{wrong}'; did you mean '{right}'"):
        make_config(PretrainConfig, **{wrong: 3})


def test_a_configuration_can_not_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PretrainConfig().lr = 1.0


def test_fields_left_out_of_the_identity_exist():
    assert {field.name for cls in CLASSES for field in dataclasses.fields(cls)} >= NOT_IDENTITY


def test_milestones_are_read_as_shares():
    assert milestones(PretrainConfig(milestones="0.25, .5,0.75")) == [0.25, 0.5, 0.75]


def test_every_field_is_described_below_its_declaration_and_in_the_docstring():
    for cls in CLASSES:
        texts = descriptions(cls)
        for field in dataclasses.fields(cls):
            assert len(texts[field.name]) > 10
            assert f"{field.name}: {texts[field.name]}" in cls.__doc__


def test_sims_choices_are_those_of_the_package():
    assert KINDS["sim_loss"].choices == LOSS_TYPES
    assert KINDS["sim_sampling"].choices == SAMPLING_TYPES
    assert KINDS["sim_small"].choices == SMALL_MAPS
    options = SimOptions()
    assert (KINDS["sim_hidden"].type, KINDS["sim_dim"].type) == (int, int)
    defaults = SupervisedConfig()
    assert (defaults.sim_hidden, defaults.sim_dim) == (options.proj_hidden, options.proj_dim)


def test_configuration_and_registry_import_no_torch():
    code = (
        "import sys, simlab.config, simlab.methods\n"
        "simlab.methods.method_names()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------- resolving


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("size", [8, 40, 64, 96])
@pytest.mark.parametrize("channels", [1, 3])
def test_resolving_leaves_nothing_open_and_resolves_only_once(cls, size, channels):
    data = data_of(channels=channels, size=size)
    config = resolve(cls(), data)
    open_choices = {
        "device",
        "threads",
        "data_folder",
        "decoding_threads",
        "channels",
        "init",
        "labels",
        "seed",
        "warmup_epochs",
        "sim_layers",
        "views_from",
    }
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if type(value) is not bool and field.name not in open_choices:
            assert value not in ("auto", "", 0), field.name
    assert resolve(config, data) == config


@pytest.mark.parametrize(
    ("size", "channels", "chosen"),
    [
        (
            32,
            1,
            {"encoder": "tiny", "stem": "small", "augment": "scattered-light"},
        ),
        (32, 3, {"encoder": "tiny", "stem": "small", "augment": "simsiam-cifar"}),
        (64, 3, {"encoder": "resnet18", "stem": "small", "augment": "simsiam-imagenet"}),
        (96, 3, {"encoder": "resnet18", "stem": "large", "view_size": 72}),
    ],
)
def test_auto_is_chosen_by_the_images_size_and_colour(size, channels, chosen):
    config = dataclasses.asdict(resolve(PretrainConfig(), data_of(channels=channels, size=size)))
    assert {name: config[name] for name in chosen} == chosen


def test_what_is_said_is_not_chosen():
    said = {
        "encoder": "small", "stem": "large", "augment": "simclr blur=0",
        "view_size": 6, "precision": "bfloat16", "batch_size": 4,
    }  # fmt: skip
    config = dataclasses.asdict(resolve(PretrainConfig(**said), data_of()))
    assert {name: config[name] for name in said} == said


def test_auto_augmentation_keeps_the_changes_behind_it():
    config = resolve(PretrainConfig(augment="auto blur=0.5"), data_of(channels=3))
    assert config.augment == "simsiam-cifar blur=0.5"


def test_the_batch_is_never_larger_than_the_images_trained_on():
    assert resolve(PretrainConfig(batch_size=512), data_of(10)).batch_size == 10
    assert resolve(SupervisedConfig(batch_size=512, labels=4), data_of(10)).batch_size == 4
    unlabeled = data_of(10)
    unlabeled.unlabeled = data_of(30).train
    assert resolve(PretrainConfig(batch_size=512), unlabeled).batch_size == 30
    assert resolve(SupervisedConfig(batch_size=512), unlabeled).batch_size == 10


def test_the_record_names_the_data_and_the_encoder_that_were_given():
    config = resolve(PretrainConfig(data="fashion"), data_of(name="mine"), torch.nn.Flatten())
    assert (config.data, config.encoder, config.image_size) == ("mine", "Flatten", 8)
    assert config.view_size == 8  # a module may take images of one size alone


def test_one_image_is_refused():
    with pytest.raises(ValueError, match="only 1 image to train"):
        resolve(PretrainConfig(), data_of(1))
    with pytest.raises(ValueError, match="1 image to test"):
        resolve(PretrainConfig(), from_arrays(torch.zeros(5, 8, 8, dtype=torch.uint8)))


def test_an_unknown_precision_and_device_are_refused():
    with pytest.raises(ValueError, match="precision='float8'"):
        PretrainConfig(precision="float8")
    with pytest.raises(ValueError, match="device='gpu'"):
        resolve(PretrainConfig(device="gpu"), data_of())


@pytest.mark.parametrize(("size", "layers"), [(32, 2), (64, 2), (96, 3)])
@pytest.mark.parametrize("method", ["simsiam", "simclr"])
def test_the_projectors_layers_are_chosen_by_the_images_size_unless_said(method, size, layers):
    data = data_of(channels=3, size=size)
    assert f"proj_layers={layers} " in resolve(PretrainConfig(method=method), data).method
    said = resolve(PretrainConfig(method=f"{method} proj_layers=4"), data)
    assert "proj_layers=4 " in said.method


def test_a_field_that_is_not_there_is_answered_with_the_nearest_by_the_class_itself():
    for cls, wrong, right in (
        (PretrainConfig, "epoch", "epochs"),
        (SupervisedConfig, "label", "labels"),
        (SimSiam, "pred_dims", "pred_dim"),
    ):
        with pytest.raises(TypeError, match=f"{cls.__name__} has no field '{wrong}'.*'{right}'"):
            cls(**{wrong: 3})
    assert inspect.signature(PretrainConfig).parameters["epochs"].default == 20


def test_scalars_of_numpy_are_taken_as_pythons():
    config = PretrainConfig(
        lr=np.float64(0.5), epochs=np.int64(3), download=np.bool_(True), data=np.str_("fashion"),
        momentum=np.float32(0.5), seed=np.array(2),
    )  # fmt: skip
    assert config == PretrainConfig(
        lr=0.5, epochs=3, download=True, data="fashion", momentum=0.5, seed=2
    )
    assert {type(value) for value in vars(config).values()} == {float, int, bool, str}
    for wrong in (np.float64("nan"), np.int64(-1)):
        with pytest.raises(ValueError, match="lr="):
            PretrainConfig(lr=wrong)
    with pytest.raises(TypeError, match="epochs=3.0 is float: expected int"):
        PretrainConfig(epochs=np.float32(3))
    with pytest.raises(TypeError, match="lr=array"):
        PretrainConfig(lr=np.ones(2))
