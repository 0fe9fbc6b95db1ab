"""SIM in a run: on the blocks that the configuration names, with random numbers of its own."""

import contextlib
import warnings

import torch
from torch import nn

from simlab.compute import distributed
from simlab.config import TrainConfig
from simlab.data import Dataset
from simlab.sim import LossSimTracker, attach_sim

from .seeds import derived_seed


def with_sim(config: TrainConfig, data: Dataset, encoder: nn.Module) -> LossSimTracker | None:
    """Put SIM on the blocks that are named, before heads and optimizer are built.

    It draws from generators of its own: all else of the run is as it would be without SIM.

    Raises:
        ValueError: The encoder is frozen, or SIM cannot be put on the blocks.
    """
    if not config.sim_layers:
        return None
    if config.lr_encoder == 0:
        raise ValueError(
            f"sim_layers={config.sim_layers!r} and lr_encoder=0: a frozen encoder learns nothing "
            "from SIM; leave one of them out"
        )
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    size = config.view_size
    with contextlib.ExitStack() as undo:
        undo.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if distributed.rank() > 0:  # the first process says what is left out
            undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        attach_sim(
            encoder,
            config.sim_layers.split(","),
            torch.zeros(1, data.train.channels, size, size, device=device),
            beta=config.sim_beta,
            token_sampling_ratio=config.sim_tokens,
            token_sampling_type=config.sim_sampling,
            loss_type=config.sim_loss,
            proj_hidden=config.sim_hidden,
            proj_dim=config.sim_dim,
            small=config.sim_small,
            generator=torch.Generator().manual_seed(derived_seed(config, 0, "weights of sim")),
        )
    return LossSimTracker(encoder)
