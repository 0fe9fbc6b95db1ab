"""What training can be used for: pretraining, and supervised training as its reference.

Both give back a `Run`: loaded where the same configuration was trained before, resumed where it
was stopped half-way. Started by torchrun, several processes do it together.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from simlab.compute import channels_last, distributed, environment, resolve_device
from simlab.config import Config, PretrainConfig, SupervisedConfig, TrainConfig
from simlab.data import Dataset, Images, load_data
from simlab.methods.base import Method, MethodModule
from simlab.models import build_encoder, check_module
from simlab.runs import Run, claim, module_digest
from simlab.sim import LossSimTracker, attach_sim, detach_sim

from .custom import check_augmentation, check_method, check_type, method_digest, source_digest
from .initial import start_from_run, weights_digest, with_initial_encoder
from .loop import Row, Task, fit
from .monitor import Pretraining, SupervisedTraining
from .progress import say
from .resolve import labelled_images, resolve, resolve_method
from .views import Augmentation, ViewMaker


def pretrain(
    config: PretrainConfig,
    data: Dataset | None = None,
    *,
    method: Method | str | None = None,
    augment: Augmentation | str | None = None,
    encoder: nn.Module | str | None = None,
    fresh: bool = False,
    progress: bool = True,
    on_epoch: Callable[[list[Row]], None] | None = None,
    folder: str = "",
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
        on_epoch: Called with the history after every epoch.
        folder: Where runs are kept; empty: see `simlab.runs.runs_folder`.

    Returns:
        The finished run; `run.encoder` holds the final weights, in evaluation mode. The caller's
        random state and number of threads stay what they are.

    Raises:
        FloatingPointError: The loss is NaN or infinite.
        ValueError: A value is wrong.
        TypeError: A value has the wrong type.
    """
    check_type("config", config, PretrainConfig)
    config, encoder = _checked_encoder(config, encoder)
    if isinstance(augment, str):
        config = _replace_field(config, "augment", augment)
        augment = None
    if isinstance(method, str):
        config = _replace_field(config, "method", method)
        method = None
    if augment is not None:
        config = _replace_field(config, "augment", check_augmentation(augment))
    if method is not None:
        check_method(method)
        _replace_field(config, "method", type(method).__name__)
    parts = _Parts(data, method, augment, encoder)
    return _train("pretrain", config, parts, fresh, progress, on_epoch, folder)


def train_supervised(
    config: SupervisedConfig,
    data: Dataset | None = None,
    *,
    encoder: nn.Module | str | None = None,
    fresh: bool = False,
    progress: bool = True,
    on_epoch: Callable[[list[Row]], None] | None = None,
    folder: str = "",
) -> Run:
    """Train the same encoder on the labelled images, with the same augmentation.

    Args:
        config: See `SupervisedConfig`.
        data: As in `pretrain`, and so are the others.
        encoder: In place of config.encoder.
        fresh: Delete what is stored of this run.
        progress: Show a bar.
        on_epoch: Called with the history after every epoch.
        folder: Where runs are kept.

    Returns:
        The finished run, as `pretrain`.

    Raises:
        FloatingPointError: The loss is NaN or infinite.
        ValueError: A value is wrong, or fewer than two classes have labelled images.
        TypeError: A value has the wrong type.
    """
    check_type("config", config, SupervisedConfig)
    config, encoder = _checked_encoder(config, encoder)
    parts = _Parts(data, None, None, encoder)
    return _train("supervised", config, parts, fresh, progress, on_epoch, folder)


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
    images = _training_images(config, data)
    network_encoder, feature_dim = _build_encoder(config, data, encoder)
    sim = _attach_sim(config, data, network_encoder)
    network = method.build(network_encoder, feature_dim)
    check_type(f"what {type(method).__name__}.build returns", network, MethodModule)
    device = resolve_device(config.device)
    data = data.to(device)
    return Task(
        network,
        ViewMaker(config, data, images.to(device), method, augment),
        _monitor(config, data),
        method.loss_at_collapse(config.batch_size // config.accumulate),
        sim,
    )


# --------------------------------------------------------------------------------------- both kinds


@dataclasses.dataclass
class _Parts:
    """What a caller gives in place of what the configuration names."""

    data: Dataset | None
    method: Method | None
    augment: Augmentation | None
    encoder: nn.Module | None


def _train(
    kind: str,
    config: TrainConfig,
    parts: _Parts,
    fresh: bool,
    progress: bool,
    on_epoch: Callable[[list[Row]], None] | None,
    folder: str,
) -> Run:
    distributed.start()
    data = _load(config, parts.data)
    config = _resolve(config, data, parts)
    device = resolve_device(config.device)
    with settled(config, device):  # before the first weight is drawn
        task = build_task(
            config, data, method=parts.method, augment=parts.augment, encoder=parts.encoder
        )
        encoder = task.network.encoder
        identity = {
            "data": data.digest(),
            "encoder": "" if parts.encoder is None else module_digest(parts.encoder),
            "method": method_digest(task.views.method, task.network),
            "augment": "" if parts.augment is None else source_digest(parts.augment),
        }
        identity |= weights_digest(config)
        with claim(kind, config, identity, folder, fresh) as run:
            _fit_unless_finished(task, config, run, device, progress, on_epoch)
            weights: Any = distributed.from_first(run.load_encoder_state)
            encoder.load_state_dict(weights)
    # laid out as in training whether it was trained or loaded: the same bits come out
    run.encoder = channels_last(encoder, device).eval()
    return run


def _fit_unless_finished(
    task: Task,
    config: TrainConfig,
    run: Run,
    device: torch.device,
    progress: bool,
    on_epoch: Callable[[list[Row]], None] | None,
) -> None:
    """Train and store the result; a finished run stays as it is."""
    encoder = task.network.encoder
    where = environment(device) | {"processes": distributed.world()}
    history: list[Row] = []
    if not distributed.from_first(lambda: run.finished):
        run.log(f"starts with {config} on {where}")
        say(run, task.monitor.remark())
        history = fit(task, config, run, device, progress, on_epoch)
    if task.sim is not None:
        detach_sim(encoder)
    if history:
        last = history[-1]
        measured = [row for row in history if "knn" in row] or [last]
        best = max(measured, key=lambda row: row.get("knn", 0.0))
        images = len(task.views.images)
        result = {"final": last, "best": best, "images": images, "environment": where}
        if config.init:
            result["init"] = config.init
        run.finish(encoder.state_dict(), result | {"seconds": round(last["seconds"], 1)})


def _load(config: TrainConfig, data: Dataset | None) -> Dataset:
    if data is None:
        where = (config.data, config.data_folder, config.download, config.image_size)
        loaded: Any = distributed.first_before_others(lambda: load_data(*where))
        data = loaded
    if not isinstance(data, Dataset):
        raise TypeError(f"data is a {type(data).__name__}: expected a Dataset; see from_arrays")
    return data


def _resolve(config: TrainConfig, data: Dataset, parts: _Parts) -> TrainConfig:
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
    return data.train.subset(labelled_images(config, data))


def _build_encoder(
    config: TrainConfig, data: Dataset, encoder: nn.Module | None
) -> tuple[nn.Module, int]:
    """The encoder and its number of features; a copy of the user's where they gave one."""
    chosen = config.encoder if encoder is None else copy.deepcopy(encoder)
    built, dim = build_encoder(chosen, data.train.channels, data.train.size, config.stem)
    start_from_run(config, built)
    return built, dim


def _attach_sim(config: TrainConfig, data: Dataset, encoder: nn.Module) -> LossSimTracker | None:
    """Put SIM on the blocks that are named, before heads and optimizer are built."""
    if not config.sim_layers:
        return None
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    size = config.view_size
    attach_sim(
        encoder,
        config.sim_layers.split(","),
        torch.zeros(1, data.train.channels, size, size, device=device),
        beta=config.sim_beta,
        token_sampling_ratio=config.sim_tokens,
        token_sampling_type=config.sim_sampling,
        loss_type=config.sim_loss,
    )
    return LossSimTracker(encoder)


def _monitor(config: TrainConfig, data: Dataset) -> Pretraining | SupervisedTraining:
    if isinstance(config, PretrainConfig):
        return Pretraining(config, data)
    return SupervisedTraining(config.epochs, data)


def _checked_encoder(
    config: Config, encoder: nn.Module | str | None
) -> tuple[Config, nn.Module | None]:
    """A name goes into the configuration; anything but a module is refused."""
    if isinstance(encoder, str):
        return _replace_field(config, "encoder", encoder), None
    if encoder is not None:
        check_module(encoder)
    return config, encoder


def _replace_field(config: Config, name: str, value: str) -> Config:
    """The configuration with a field replaced, which nobody may have set to something else.

    Raises:
        ValueError: It says something else already.
    """
    default = getattr(type(config), name)
    said = getattr(config, name)
    if said not in (default, value):
        raise ValueError(f"config.{name}={said!r} and {name}={value!r}: give one of them")
    changes: dict[str, Any] = {name: value}
    return dataclasses.replace(config, **changes)
