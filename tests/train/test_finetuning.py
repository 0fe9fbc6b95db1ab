"""Fine-tuning, frozen encoders, and batches that are cut to what divides them."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
import torch.nn as nn
import torchvision

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import from_arrays
from simlab.evaluate import encode, knn, linear_probe
from simlab.runs import load_run
from simlab.train import loop, pretrain, resolve, train_supervised, untrained

pytestmark = pytest.mark.long

COMMON = {"epochs": 2, "batch_size": 8, "encoder": "auto", "device": "cpu", "threads": 1,
          "precision": "float32", "log_every": 0}  # fmt: skip


def pretraining(**changes):
    return PretrainConfig(
        **COMMON | {"method": "simsiam proj_dim=8 pred_dim=4", "monitor_every": 2} | changes
    )


def finetuning(**changes):
    return SupervisedConfig(**COMMON | changes)


@functools.cache
def data_of(n=32, channels=1, size=8, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), np.uint8)
    labels = np.arange(n) % 2
    images[labels == 1, :, :4] //= 2
    return from_arrays(images, labels)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A pretrained run that others start from."""
    folder = str(tmp_path_factory.mktemp("base"))
    return pretrain(pretraining(), data_of(), folder=folder, progress=False)


def state(run):
    return {name: value.clone() for name, value in run.encoder.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


# ---------------------------------------------------------------------------------- frozen encoders


@pytest.mark.parametrize("train", [pretrain, train_supervised])
def test_a_frozen_encoder_stays_as_it_was_running_statistics_included(train, run_options):
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.requires_grad_(False).eval()
    config = pretraining() if train is pretrain else finetuning()
    assert same(before, state(train(config, data_of(), encoder=encoder, **run_options)))


def test_the_trained_part_of_a_half_frozen_encoder_moves_alone(run_options):
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    encoder[:2].requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    after = state(train_supervised(finetuning(), data_of(), encoder=encoder, **run_options))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name[0] for name in moved} == {"2", "3"} and "3.running_mean" in moved


# -------------------------------------------------------------------------------------- fine-tuning


def test_training_starts_from_the_runs_encoder_by_folder_name_or_run(
    base, run_options, monkeypatch
):
    monkeypatch.setenv("SIMLAB_RUNS", str(base.folder.parent))
    wanted = state(base)
    for init in (base, str(base.folder), base.folder, base.folder.name):
        config = finetuning(init=init)
        encoder = untrained(resolve(config, data_of()), data_of())
        assert same(wanted, encoder.state_dict())
    run = train_supervised(finetuning(init=base, lr=0.0), data_of(), **run_options)
    weights = {name for name, _ in run.encoder.named_parameters()}
    assert same({name: wanted[name] for name in weights}, state(run))
    assert run.result["init"] == str(base.folder)


def test_a_run_from_other_weights_is_another_run_and_the_place_of_the_weights_is_none(
    base, run_options, tmp_path
):
    one = train_supervised(finetuning(init=base), data_of(), **run_options)
    moved = base.folder.rename(base.folder.with_name("renamed"))
    try:
        again = train_supervised(finetuning(init=str(moved)), data_of(), **run_options)
    finally:
        moved.rename(base.folder)
    plain = train_supervised(finetuning(), data_of(), **run_options)
    second = pretrain(pretraining(seed=1), data_of(), **run_options)
    other = train_supervised(finetuning(init=second), data_of(), **run_options)
    assert one.folder == again.folder
    assert len({one.folder, plain.folder, other.folder}) == 3
    assert not same(state(one), state(plain))


def test_an_encoder_with_a_learning_rate_of_zero_is_frozen(base, run_options):
    run = train_supervised(finetuning(init=base, lr_encoder=0), data_of(), **run_options)
    assert same(state(base), state(run))
    more = pretrain(pretraining(init=base, lr_encoder=0), data_of(), **run_options)
    assert same(state(base), state(more)), "in pretraining as well"


def test_the_encoders_learning_rate_is_its_own(base, run_options, monkeypatch):
    """With a single step of plain SGD the encoder moves in proportion to lr_encoder."""
    wanted = dict(base.encoder.named_parameters())
    steps = []
    for lr_encoder in (-1.0, 0.05, 0.2):
        config = finetuning(
            init=base, lr=0.2, lr_encoder=lr_encoder, epochs=1, batch_size=24, momentum=0.0,
            weight_decay=0.0, schedule="constant",
        )  # fmt: skip
        run = train_supervised(config, data_of(), **run_options)
        parameters = dict(run.encoder.named_parameters())
        steps.append(torch.cat([(p - wanted[n]).flatten() for n, p in parameters.items()]))
    torch.testing.assert_close(steps[0], steps[2])
    torch.testing.assert_close(steps[1], steps[0] / 4, rtol=1e-3, atol=1e-7)


def test_a_finetuned_run_that_was_stopped_ends_as_one_that_was_not(base, run_options, tmp_path):
    config = finetuning(init=base, epochs=3, lr_encoder=0.02)
    reference = train_supervised(config, data_of(), **run_options)

    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    elsewhere = run_options | {"folder": str(tmp_path / "stopped")}
    with pytest.raises(KeyboardInterrupt):
        train_supervised(config, data_of(), on_epoch=stop, **elsewhere)
    resumed = train_supervised(config, data_of(), **elsewhere)
    assert "resumes after epoch 2" in (resumed.folder / "train.log").read_text()
    assert same(state(reference), state(resumed))


def test_a_finetuned_run_is_opened_and_evaluated_like_any_other(base, run_options):
    run = train_supervised(finetuning(init=base), data_of(), **run_options)
    opened = load_run(run.folder, "cpu")
    assert same(state(run), state(opened))
    assert 0 <= knn(opened.encoder, data_of(), k=5) <= 1
    assert linear_probe(encode(opened.encoder, data_of())).tested == len(data_of().test)


def test_a_module_of_the_users_gets_the_runs_weights(run_options):
    def user_module():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    first = pretrain(pretraining(), data_of(), encoder=user_module(), **run_options)
    with pytest.raises(ValueError, match="its encoder is a module of yours; give it as encoder="):
        train_supervised(finetuning(init=first), data_of(), **run_options)
    frozen = finetuning(init=first, lr_encoder=0)
    run = train_supervised(frozen, data_of(), encoder=user_module(), **run_options)
    assert same(state(first), state(run))


@pytest.mark.parametrize(
    "changes, channels, message",
    [
        ({"encoder": "resnet18"}, 1, "encoder='resnet18', but init=.* has 'tiny': leave it out"),
        ({}, 3, r"init=.* does not fit this encoder: (.|\n)*stem.0.weight"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(
    changes, channels, message, base, run_options, tmp_path
):
    with pytest.raises(ValueError, match=message):
        train_supervised(
            finetuning(init=base, **changes), data_of(channels=channels), **run_options
        )
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_not_there_is_refused(run_options):
    with pytest.raises(FileNotFoundError, match="there is no run pretrain-0"):
        train_supervised(finetuning(init="pretrain-0"), data_of(), **run_options)


def test_learning_rates_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="lr_encoder=-0.5: expected at least 0, or -1"):
        finetuning(lr_encoder=-0.5)
    with pytest.raises(ValueError, match="lr_encoder=0.1 with lr=0"):
        finetuning(lr_encoder=0.1, lr=0)


# ------------------------------------------------------------------------------- what is handed over


def test_an_encoder_by_name_is_that_of_the_configuration(run_options):
    run = pretrain(pretraining(), data_of(), encoder="small", **run_options)
    assert run.config["encoder"] == "small"
    with pytest.raises(ValueError, match="did you mean 'resnet18'"):
        pretrain(pretraining(), data_of(), encoder="resnet-18", **run_options)
    with pytest.raises(ValueError, match="config.encoder='tiny' and encoder='small'"):
        train_supervised(finetuning(encoder="tiny"), data_of(), encoder="small", **run_options)


@pytest.mark.parametrize("train", [pretrain, train_supervised])
def test_a_class_or_a_function_is_no_encoder(train, run_options):
    config = pretraining() if train is pretrain else finetuning()
    with pytest.raises(TypeError, match=r"the class Sequential: did you mean Sequential\(\)"):
        train(config, data_of(), encoder=nn.Sequential, **run_options)
    with pytest.raises(TypeError, match="the function resnet18: expected a torch.nn.Module"):
        train(config, data_of(), encoder=torchvision.models.resnet18, **run_options)


def test_a_network_of_colour_images_is_trained_on_grey_ones(run_options):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.warns(UserWarning, match="grey images are repeated"):
        run = pretrain(pretraining(), data_of(), encoder=encoder, **run_options)
    assert run.encoder[0].in_channels == 3 and 0 <= knn(run.encoder, data_of(), k=5) <= 1
    with pytest.raises(RuntimeError):  # the user's own is as it was
        encoder(torch.zeros(1, 1, 8, 8))


# --------------------------------------------------------------------------- a batch cut to the data


@pytest.mark.parametrize(
    "images, accumulate, world, batch_size",
    [(39, 4, 1, 36), (11, 1, 2, 10), (39, 1, 1, 39), (37, 3, 4, 36), (64, 4, 2, 64)],
)
def test_a_batch_cut_to_the_images_is_cut_to_what_divides(
    images, accumulate, world, batch_size, monkeypatch, recwarn
):
    data = data_of(n=images * 5 // 4 + 1)
    images_seen = dataclasses.replace(data.train, images=data.train.images[:images],
                                      labels=data.train.labels[:images])  # fmt: skip
    data = dataclasses.replace(data, train=images_seen)
    monkeypatch.setattr(loop.distributed, "world", lambda: world)
    config = resolve(pretraining(batch_size=64, accumulate=accumulate), data)
    assert config.batch_size == batch_size
    loop.check_batch_size(config)
    messages = [str(warning.message) for warning in recwarn.list]
    if images >= 64:
        assert not messages
    else:
        assert messages[0].startswith(f"batch_size=64 is more than the {images} images to train on")
        assert f"taking {batch_size}" in messages[0]


def test_too_few_images_for_the_parts_are_refused():
    with pytest.raises(ValueError, match="only 25 images to train on: too few for 16"):
        resolve(pretraining(batch_size=64, accumulate=16), data_of(n=31))


def test_a_batch_that_fits_the_images_and_does_not_divide_is_left_to_the_user():
    with pytest.raises(ValueError, match="batch_size=10 can't be cut into 4"):
        loop.check_batch_size(resolve(pretraining(batch_size=10, accumulate=4), data_of()))
