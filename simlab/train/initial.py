"""Fine-tuning: training that starts from the encoder of a stored run."""

import dataclasses
from typing import TypeVar

from torch import nn

from simlab.config import TrainConfig
from simlab.runs import Run, config_of, find_run

Config = TypeVar("Config", bound=TrainConfig)

# ------------------------------------------------------------------------------ before it is built


def initial_run(config: TrainConfig) -> Run | None:
    """Find the run that training starts from; None where it starts from random weights.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: It is not finished.
    """
    return find_run(config.init) if config.init else None


def with_initial_encoder(config: Config, encoder: nn.Module | None) -> Config:
    """Take the name and the stem of the initial run's encoder, where the configuration has one.

    Args:
        config: The configuration.
        encoder: A module that takes the place of config.encoder, and gets the run's weights.

    Raises:
        ValueError: The configuration says another encoder, or that of the run is a module of the
            user's, which only they can give.
    """
    run = initial_run(config)
    if run is None or encoder is not None:
        return config
    if run.identity.get("encoder"):
        raise ValueError(
            f"init={run.folder}: its encoder is a module of yours; give it as encoder=, and it "
            "gets the run's weights"
        )
    stored = config_of(run)
    changes = {}
    for name in ("encoder", "stem"):
        configured = getattr(config, name)
        trained = getattr(stored, name)
        if configured not in ("auto", trained):
            raise ValueError(
                f"{name}={configured!r}, but init={run.folder} has {trained!r}: leave it out"
            )
        changes[name] = trained
    return dataclasses.replace(config, **changes)


# ------------------------------------------------------------------------------ once it is built


def start_from_run(config: TrainConfig, encoder: nn.Module) -> None:
    """Load the initial run's weights into an encoder, and freeze it where it is not to be trained.

    Raises:
        ValueError: They do not fit.
    """
    run = initial_run(config)
    if run is not None:
        try:
            encoder.load_state_dict(run.load_encoder_state())
        except RuntimeError as error:  # torch's text names the weights and their shapes
            raise ValueError(f"init={run.folder} does not fit this encoder: {error}") from error
    if config.lr_encoder == 0:
        encoder.requires_grad_(False)


def weights_digest(config: TrainConfig) -> dict[str, str]:
    """What a run that starts from another one is told by beside its configuration."""
    run = initial_run(config)
    return {} if run is None else {"init": run.result["encoder_digest"]}
