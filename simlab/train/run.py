"""What training can be used for: pretraining, and supervised training as its reference.

Both give back a `Run`: loaded where the same configuration was trained before, resumed where it
was stopped half-way. Started by torchrun, several processes do it together.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from simlab.compute import channels_last, distributed, environment, resolve_device, small_maps
from simlab.config import PretrainConfig, SupervisedConfig, TrainConfig
from simlab.data import Dataset, Images
from simlab.methods.base import Method, MethodModule
from simlab.models import build_encoder, copy_module
from simlab.runs import Run, claim, describe_encoder
from simlab.sim import detach_sim

from .callbacks import Callback, OnEpoch, Watchers, make_callbacks
from .custom import (
    Parts,
    Stored,
    check_augmentation,
    check_method,
    check_type,
    checked_encoder,
    replace_field,
)
from .initial import start_from_run, weights_digest, with_initial_encoder
from .loading import checked_dataset, load_once
from .loop import Row, Task, fit
from .monitor import Pretraining, SupervisedTraining
from .progress import say
from .resolve import labelled_images, resolve, resolve_method
from .views import Augmentation, ViewMaker
from .with_sim import with_sim


def pretrain(
    config: PretrainConfig,
    data: Dataset | None = None,
    *,
    method: Method | str | None = None,
    augment: Augmentation | str | None = None,
    encoder: nn.Module | str | None = None,
    fresh: bool = False,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
    callbacks: Sequence[Callback | str] = (),
    folder: str = "",
    reuse: str = "",
    name: str = "",
) -> Run:
    """Pretrain an encoder without labels, or load the stored run of the same configuration.

    Args:
        config: See `PretrainConfig`.
        data: In place of the dataset that config.data names.
        method: In place of config.method: options such as SimSiam(stop_gradient=False), a method of
            your own, or text.
        augment: In place of config.augment: a recipe's text, or a callable of (uint8 images
            [N, C, H, W], generator) that returns as many views [N, C, S, S] as the method takes,
            uint8 or floating point in 0 .. 1. It gets the batch of all processes.
        encoder: In place of config.encoder: a module [N, C, H, W] -> [N, D], or a name.
        fresh: Delete what is stored of this run, and start anew.
        progress: Show a bar.
        on_epoch: Called with the history after every epoch that is trained now.
        callbacks: What looks on, also at a stored run: see `Callback`. By name: "tensorboard", or
            "module:Class" of yours.
        folder: Where runs are kept; empty: see `simlab.runs.runs_folder`.
        reuse: A stored run, by folder or name, from which a new one goes on: it may have been
            trained by another simlab, or (schedules "constant" and "step") for fewer epochs.
        name: Stands for what can't be digested in a method, an augmentation or an encoder of yours,
            such as an open file; change it whenever that changes.

    Returns:
        The finished run; `run.encoder` holds the final weights, in evaluation mode. The caller's
        random state and number of threads stay what they are.

    Raises:
        FloatingPointError: The loss is NaN or infinite.
        ValueError: A value is wrong.
        TypeError: A value has the wrong type.
    """
    check_type("config", config, PretrainConfig)
    config, encoder = checked_encoder(config, encoder)
    if isinstance(augment, str):
        config = replace_field(config, "augment", augment)
        augment = None
    if isinstance(method, str):
        config = replace_field(config, "method", method)
        method = None
    if augment is not None:
        config = replace_field(config, "augment", check_augmentation(augment))
    if method is not None:
        check_method(method)
        replace_field(config, "method", type(method).__name__)
    parts = Parts(data, method, augment, encoder, name)
    stored = Stored(folder, fresh, reuse)
    return _train("pretrain", config, parts, stored, progress, make_callbacks(callbacks), on_epoch)


def train_supervised(
    config: SupervisedConfig,
    data: Dataset | None = None,
    *,
    encoder: nn.Module | str | None = None,
    fresh: bool = False,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
    callbacks: Sequence[Callback | str] = (),
    folder: str = "",
    reuse: str = "",
    name: str = "",
) -> Run:
    """Train the same encoder on the labelled images, with the same augmentation.

    Args:
        config: See `SupervisedConfig`.
        data: As in `pretrain`, and so are the others.
        encoder: In place of config.encoder.
        fresh: Delete what is stored of this run.
        progress: Show a bar.
        on_epoch: Called with the history after every epoch that is trained now.
        callbacks: What looks on, as in `pretrain`.
        folder: Where runs are kept.
        reuse: A stored run from which a new one goes on.
        name: Stands for what can't be digested in an encoder of yours.

    Returns:
        The finished run, as `pretrain`.

    Raises:
        FloatingPointError: The loss is NaN or infinite.
        ValueError: A value is wrong, or fewer than two classes have labelled images.
        TypeError: A value has the wrong type.
    """
    check_type("config", config, SupervisedConfig)
    config, encoder = checked_encoder(config, encoder)
    parts = Parts(data, None, None, encoder, name)
    stored = Stored(folder, fresh, reuse)
    return _train(
        "supervised", config, parts, stored, progress, make_callbacks(callbacks), on_epoch
    )


def untrained(config: TrainConfig, data: Dataset) -> nn.Module:
    """Build the encoder as training finds it, with its initial weights: a baseline."""
    device = resolve_device(config.device)
    config = with_initial_encoder(config, None)
    with settled(config, device):
        encoder, _ = _build_encoder(config, data, None)
    return channels_last(encoder, device).eval()


@contextlib.contextmanager
def settled(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Set the configuration's seed and threads; afterwards the caller's are restored."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def build_task(
    config: TrainConfig,
    data: Dataset,
    *,
    method: Method | None = None,
    augment: Augmentation | None = None,
    encoder: nn.Module | None = None,
) -> Task:
    """Build what `fit` trains; call it within `settled`, from which the initial weights come.

    Args:
        config: Resolved.
        data: The dataset; a copy goes to config.device.
        method: In place of config.method.
        augment: In place of config.augment.
        encoder: In place of config.encoder; it is copied.

    Returns:
        The network on the CPU, and its images on the device.
    """
    method = resolve_method(config, data, method)
    if config.decoding_threads:
        data = data.with_threads(config.decoding_threads)
    images = _training_images(config, data)
    network_encoder, feature_dim = _build_encoder(config, data, encoder)
    sim = with_sim(config, data, network_encoder)
    network = method.build(network_encoder, feature_dim)
    check_type(f"what {type(method).__name__}.build returns", network, MethodModule)
    device = resolve_device(config.device)
    data = data.to(device)
    return Task(
        network,
        ViewMaker(config, data, images.to(device), method, augment),
        _monitor(config, data),
        method.loss_at_collapse(config.batch_size // config.accumulate),
        method.embedding_std,
        sim,
    )


# --------------------------------------------------------------------------------------- both kinds


def _train(
    kind: str,
    config: TrainConfig,
    parts: Parts,
    stored: Stored,
    progress: bool,
    callbacks: list[Callback],
    on_epoch: OnEpoch | None,
) -> Run:
    distributed.start()
    data = load_once(config) if parts.data is None else checked_dataset(parts.data)
    config = _resolve(config, data, parts)
    device = resolve_device(config.device)
    with settled(config, device):  # before the first weight is drawn
        task = build_task(
            config, data, method=parts.method, augment=parts.augment, encoder=parts.encoder
        )
        encoder = task.network.encoder
        # one process digests and tells the others
        identity: Any = distributed.from_first(
            lambda: (
                parts.digests(data, task.views.method, task.views.groups) | weights_digest(config)
            )
        )
        with claim(kind, config, identity, stored.folder, stored.fresh, stored.reuse) as run:
            run.describe(describe_encoder(config, data, parts.encoder))
            watchers = Watchers(run, callbacks, on_epoch)
            watchers.start()
            _fit_unless_finished(task, config, run, device, progress, watchers)
            weights: Any = distributed.from_first(run.load_encoder_state)
            encoder.load_state_dict(weights)
    # laid out as in training whether it was trained or loaded: the same bits come out
    run.encoder = channels_last(encoder, device).eval()
    watchers.end()
    return run


def _fit_unless_finished(
    task: Task,
    config: TrainConfig,
    run: Run,
    device: torch.device,
    progress: bool,
    watchers: Watchers,
) -> None:
    """Train and store the result; a finished run stays as it is."""
    encoder = task.network.encoder
    where = environment(device) | {"processes": distributed.world()}
    history: list[Row] = []
    if not distributed.from_first(lambda: run.finished):
        run.log(f"starts with {config} on {where}")
        if task.sim is not None:
            run.log(f"SIM is on {', '.join(name for name, _ in task.sim.holders)}")
        say(run, task.monitor.remark())
        with small_maps.in_float32(task.network, device):
            history = fit(task, config, run, device, watchers, progress)
    else:
        watchers.replay_stored()
    if task.sim is not None:
        detach_sim(encoder)
    if history:
        last = history[-1]
        measured = [row for row in history if "knn" in row] or [last]
        best = max(measured, key=lambda row: row.get("knn", 0.0))
        images = len(task.views.images)
        result: dict[str, Any] = {
            "final": last,
            "best": best,
            "images": images,
            "environment": where,
        }
        if config.init:
            result["init"] = config.init
        result["seconds"] = round(last["seconds"], 1)
        result["finished"] = time.strftime("%Y-%m-%d %H:%M")
        run.finish(encoder.state_dict(), result)


def _resolve(config: TrainConfig, data: Dataset, parts: Parts) -> TrainConfig:
    """Resolve all but the name of an augmentation of the user's, which stays."""
    if parts.augment is None:
        return resolve(config, data, parts.encoder, parts.method)
    with_recipe = dataclasses.replace(config, augment="none")
    resolved = resolve(with_recipe, data, parts.encoder, parts.method)
    return dataclasses.replace(resolved, augment=config.augment)


def _training_images(config: TrainConfig, data: Dataset) -> Images:
    """What is trained on: all images that pretraining may see, or as many labelled ones as asked.

    Raises:
        ValueError: Supervised training finds too few images with a label.
    """
    if not isinstance(config, SupervisedConfig):
        return data.pretrain
    return data.train.select(labelled_images(config, data))


def _build_encoder(
    config: TrainConfig, data: Dataset, encoder: nn.Module | None
) -> tuple[nn.Module, int]:
    """The encoder and its number of features; a copy of the user's where they gave one."""
    chosen = config.encoder if encoder is None else copy_module(encoder)
    built, dim = build_encoder(chosen, data.train.channels, data.train.size, config.stem)
    start_from_run(config, built)
    return built, dim


def _monitor(config: TrainConfig, data: Dataset) -> Pretraining | SupervisedTraining:
    if isinstance(config, PretrainConfig):
        return Pretraining(config, data)
    return SupervisedTraining(config.epochs, data)
