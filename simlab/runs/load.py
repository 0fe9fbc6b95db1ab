"""Open a finished run: its configuration, its encoder, and the dataset it learned from."""

import dataclasses
import warnings
from pathlib import Path

import torch
from torch import nn

from simlab.compute import channels_last, resolve_device
from simlab.config import PretrainConfig, SupervisedConfig, TrainConfig, images_of, make_config
from simlab.data import DATASETS, Dataset, load_data

from .description import build_described
from .files import read_json
from .run import Run
from .store import find_folder


def load_run(name: str | Path, device: str = "auto", *, encoder: nn.Module | None = None) -> Run:
    """Open a finished run with its encoder; its dataset is not needed, nor the same simlab.

    Args:
        name: The run's folder, or its name in the runs folder.
        device: Where the encoder shall be: cpu, cuda, cuda:1, mps or auto.
        encoder: The module that was trained, where it was one of yours; it is filled with the
            run's weights.

    Returns:
        The run; `run.encoder` holds the final weights, in evaluation mode, and `run.encode` makes
        features of any images.

    Raises:
        FileNotFoundError: There is no such run; the message names the nearest one.
        ValueError: It is not finished, is damaged, or its encoder is a module of the user's that
            is not given or does not fit.
    """
    run = find_run(name)
    filled = build_described(run, run.load_encoder_state(), encoder)
    run.encoder = channels_last(filled, resolve_device(device)).eval()
    return run


def load_data_of(run: Run, folder: str = "", device: str = "auto", other: str = "") -> Dataset:
    """Load the dataset that a run learned from, or other images for its encoder.

    Args:
        run: The run.
        folder: Where the dataset's files are, if not where they are looked for by default; of a
            folder of images, where it is now.
        device: Where the images shall be.
        other: A dataset's name or a folder's path: these images instead, in the size and with the
            normalisation that the encoder expects.

    Raises:
        ValueError: The dataset of that name holds other images now, or the run learned from
            arrays in memory.
    """
    where = resolve_device(device)
    if other:
        return _other_data(run, other, folder, where)
    config = config_of(run)
    is_folder = config.data not in DATASETS
    name = _folder_of_images(run, folder) if is_folder else config.data
    arguments = images_of(config) | {"name": name, "download": False}
    arguments["folder"] = "" if is_folder else folder
    arguments["channels"] = run.description.get("preprocessing", {}).get("channels", 0)
    if is_folder:
        arguments["on_error"] = "skip"  # as perhaps then: the digest tells whether all are there
    data = load_data(**arguments, device=where)
    if data.digest() != run.identity.get("data"):
        raise ValueError(
            f"{name} is not the dataset that {run.folder} learned from: its images differ. Other "
            "images are given as data (--data PATH)"
        )
    return data


def _folder_of_images(run: Run, folder: str) -> str:
    """Where the images of a run are that learned from a folder.

    Raises:
        ValueError: They are not there any more, or never were in a folder.
    """
    stored = run.description.get("data_path", "") or run.config["data"]
    place = Path(folder or stored).expanduser()
    if place.is_dir():
        return str(place)
    if folder:
        raise FileNotFoundError(f"there is no folder {folder}")
    raise ValueError(
        f"{run.folder} learned from {stored!r}, which is not here: say where the same images are "
        "(--data-folder), or give other ones (--data PATH)"
    )


def _other_data(run: Run, name: str, folder: str, device: torch.device) -> Dataset:
    """Other images, as the run's encoder expects them."""
    expected = run.preprocessing
    if name in DATASETS:
        data = load_data(name, folder, device=device)
    else:
        data = load_data(name, folder, image_size=expected.size, device=device, fit=expected.fit)
    train, test = expected.split(data.train), expected.split(data.test)
    normalize = expected.normalize
    return Dataset(data.name, train, test, normalize=normalize, fit=expected.fit).to(device)


def config_of(run: Run) -> TrainConfig:
    """Return the configuration of a stored run as a dataclass.

    Fields that this simlab lacks are left out, and named in a warning.
    """
    cls = PretrainConfig if run.identity.get("kind") == "pretrain" else SupervisedConfig
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(run.config.keys() - names)
    if unknown:
        warnings.warn(
            f"{run.folder} was configured by another simlab: {', '.join(unknown)} left out",
            stacklevel=2,
        )
    return make_config(cls, **{k: v for k, v in run.config.items() if k in names})


def find_run(name: str | Path) -> Run:
    """Find a finished run by its folder, or its name in the runs folder; nothing is loaded.

    Raises:
        FileNotFoundError: There is no such run; the message names the nearest one.
        ValueError: It is not finished, or its config.json is damaged.
    """
    run = _find(name)
    if not run.finished:
        raise ValueError(f"{run.folder} is not finished: run its own command again first")
    return run


def _find(name: str | Path) -> Run:
    folder = find_folder(name)
    identity = read_json(folder / "config.json")
    if not isinstance(identity, dict) or not isinstance(identity.get("config"), dict):
        raise ValueError(
            f"{folder / 'config.json'} is not a valid run configuration (was it modified?)"
        )
    return Run(folder, identity)
