"""Small trained encoders that ship with the course, so that lessons that compare open in seconds.

They are those of the table notebooks/tables/family.md. A file has an encoder's weights, matrices
in half precision; numpy reads it, and nothing in it can run code.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from simlab._checks import near
from simlab.data.fashion import bundled_folder
from simlab.models import build_encoder

CHANNELS = 1
IMAGE_SIZE = 32  # of the scattered clothing


def encoder_index() -> pd.DataFrame:
    """Read what there is: a row an encoder, with its file, name, seed, configuration and kNN."""
    return pd.read_csv(encoder_folder() / "index.csv")


def load_trained_encoder(name: str, seed: int = 1) -> nn.Module:
    """Load an encoder of the scattered clothing, [N, 1, 32, 32] -> [N, D], in evaluation mode.

    Args:
        name: A row of the table: a method's name, or such as "simclr with Muon".
        seed: Of the training; two seeds of some methods ship.

    Raises:
        ValueError: There is no such encoder; the message has the nearest name, or the seeds.
    """
    index = encoder_index()
    rows = index[index["name"] == name]
    if not len(rows):
        raise ValueError(f"there is no trained encoder {name!r}{near(name, set(index['name']))}")
    rows_of_seed = rows[rows["seed"] == seed]
    if not len(rows_of_seed):
        seeds = ", ".join(map(str, rows["seed"]))
        raise ValueError(f"seed={seed}: the trained encoders of {name!r} have seed {seeds}")
    row = rows_of_seed.iloc[0]
    with torch.random.fork_rng():  # initial weights are drawn, and not used
        encoder, _ = build_encoder(row["encoder"], CHANNELS, IMAGE_SIZE)
    with np.load(encoder_folder() / row["file"], allow_pickle=False) as arrays:
        state = {key: torch.from_numpy(array) for key, array in arrays.items()}
    encoder.load_state_dict(state)  # into float32
    return encoder.eval()


def save_encoder(encoder: nn.Module, path: Path) -> None:
    """Write an encoder's weights: matrices in half precision, the rest as it is."""
    arrays = {}
    for key, value in encoder.state_dict().items():
        is_matrix = value.is_floating_point() and value.ndim > 1
        arrays[key] = (value.half() if is_matrix else value).cpu().numpy()
    np.savez_compressed(path, **arrays)


def encoder_folder() -> Path:
    """Where the files are: in a checkout, or in the installed wheel."""
    return bundled_folder() / "encoders"
