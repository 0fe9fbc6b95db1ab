"""Open a finished run: its configuration, its encoder, and the dataset it learned from."""

from pathlib import Path
from typing import Any

from simlab._checks import near
from simlab.compute import channels_last, resolve_device
from simlab.config import PretrainConfig, SupervisedConfig, TrainConfig, make_config
from simlab.data import Dataset, load_data
from simlab.models import build_encoder

from .files import read_json
from .run import Run
from .store import runs_folder


def load_run(name: str | Path, device: str = "auto") -> Run:
    """Open a finished run with its encoder.

    Args:
        name: The run's folder, or its name in the runs folder.
        device: Where the encoder shall be: cpu, cuda, cuda:1, mps or auto.

    Returns:
        The run; `run.encoder` holds the final weights, in evaluation mode.

    Raises:
        FileNotFoundError: There is no such run; the message names the nearest one.
        ValueError: It is not finished, is damaged, or its encoder is a module of the user's.
    """
    run = find_run(name)
    if run.identity.get("encoder"):
        raise ValueError(
            f"{run.folder} was trained with a custom encoder: make that module and load "
            "run.load_encoder_state() into it"
        )
    config = config_of(run)
    state = run.load_encoder_state()
    encoder, _ = build_encoder(config.encoder, channels_of(state), config.image_size, config.stem)
    encoder.load_state_dict(state)
    run.encoder = channels_last(encoder, resolve_device(device)).eval()
    return run


def load_data_of(run: Run, folder: str = "", device: str = "auto") -> Dataset:
    """Load the dataset that a run learned from.

    Args:
        run: The run.
        folder: Where the dataset's files are, if not where they are looked for by default.
        device: Where the images shall be.

    Raises:
        ValueError: The dataset of that name holds other images now.
    """
    config = config_of(run)
    where = resolve_device(device)
    data = load_data(config.data, folder, image_size=config.image_size, device=where)
    if data.digest() != run.identity.get("data"):
        raise ValueError(
            f"{config.data} is not the dataset that {run.folder} learned from: its images differ"
        )
    return data


def config_of(run: Run) -> TrainConfig:
    """Return the configuration of a stored run as a dataclass."""
    cls = PretrainConfig if run.identity.get("kind") == "pretrain" else SupervisedConfig
    return make_config(cls, **run.config)


def channels_of(encoder_state: dict[str, Any]) -> int:
    """Read the number of image channels off an encoder's first convolution [out, in, k, k]."""
    kernels = [weight for weight in encoder_state.values() if weight.dim() == 4]
    return int(kernels[0].shape[1])


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
    places = [Path(name), runs_folder() / name]
    folder = next((place for place in places if (place / "config.json").exists()), None)
    if folder is None:
        names = [path.parent.name for path in runs_folder().glob("*/config.json")]
        raise FileNotFoundError(
            f"there is no run {name}, neither here nor in {runs_folder()}{near(name, names)}"
        )
    identity = read_json(folder / "config.json")
    if not isinstance(identity, dict) or not isinstance(identity.get("config"), dict):
        raise ValueError(
            f"{folder / 'config.json'} is not a valid run configuration (was it modified?)"
        )
    return Run(folder, identity)
