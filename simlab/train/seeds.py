"""Random numbers of an epoch: generators of their own, seeded by the run's seed and the epoch.

So an epoch draws the same whether or not the run was stopped before it, and what is drawn for one
purpose never shifts what is drawn for another.
"""

import hashlib
from dataclasses import dataclass

import torch

from simlab.compute import distributed
from simlab.config import TrainConfig


@dataclass
class EpochGenerators:
    """What the random numbers of one epoch come from; the same in all processes.

    Attributes:
        order: The order of the images, on the CPU.
        partners: Which other image a view is taken of, on the CPU.
        views: The augmentation, one for each group of crops: they are made ahead of their use, and
            how far ahead depends on the number of processes.
        masks: The masks that a method asks for.
        loss: The loss of the method.
        sim: The positions that SIM compares.
    """

    order: torch.Generator
    partners: torch.Generator
    views: list[torch.Generator]
    masks: torch.Generator
    loss: torch.Generator
    sim: torch.Generator


def seed_epoch(
    config: TrainConfig, epoch: int, crop_groups: int, device: torch.device
) -> EpochGenerators:
    """Seed torch's global generator for an epoch, and make the epoch's own ones.

    Args:
        config: Of the run: its seed counts.
        epoch: From 0.
        crop_groups: How many groups of views are drawn.
        device: Where views, masks and losses are computed.
    """
    first = 3 * (config.seed * 100_003 + epoch)
    _seed_global_generator(config, epoch, first + 2)
    # the first group has the seed that it had when there was one group alone
    view_seeds = [first + 1]
    view_seeds += [derived_seed(config, epoch, f"views {k}") for k in range(1, crop_groups)]
    return EpochGenerators(
        order=torch.Generator().manual_seed(first),
        partners=torch.Generator().manual_seed(derived_seed(config, epoch, "partners")),
        views=[torch.Generator(device).manual_seed(seed) for seed in view_seeds],
        masks=torch.Generator(device).manual_seed(derived_seed(config, epoch, "masks")),
        loss=torch.Generator(device).manual_seed(derived_seed(config, epoch, "loss")),
        sim=torch.Generator(device).manual_seed(derived_seed(config, epoch, "sim")),
    )


def _seed_global_generator(config: TrainConfig, epoch: int, seed: int) -> None:
    """Seed what dropout draws from; it differs between the processes."""
    rank = distributed.rank()
    if rank > 0:
        seed = derived_seed(config, epoch, f"process {rank}")
    torch.manual_seed(seed)


def derived_seed(config: TrainConfig, epoch: int, purpose: str) -> int:
    """Mix seed, epoch and purpose; a CPU's generator takes no more than the lowest 32 bits."""
    text = f"{config.seed} {epoch} {purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
