"""Leave one domain out: train on the others, test on it, for every domain and seed.

The protocol is DomainBed's (Gulrajani & Lopez-Paz, arXiv 2007.01434).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from simlab.config import PretrainConfig, SupervisedConfig, TrainConfig
from simlab.data import Dataset, Domains, Images
from simlab.evaluate import accuracy, encode, features, linear_probe
from simlab.runs import Run
from simlab.train import pretrain, train_supervised


def leave_each_out(
    domains: Domains,
    config: TrainConfig,
    seeds: Iterable[int] = (0,),
    progress: bool = True,
    folder: str = "",
) -> pd.DataFrame:
    """Leave out one domain after the other.

    Args:
        domains: The images and their domains.
        config: A SupervisedConfig trains on labels; a PretrainConfig without them, and a linear
            probe classifies the frozen features.
        seeds: Seeds of the training and of the validation split.
        progress: Show a bar for each run.
        folder: Where runs are kept.

    Returns:
        A row for each seed and domain: `test` is the accuracy on the domain left out,
        `validation` that on held-out images of the others.
    """
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for name in domains.names:
            data, validation = domains.leave_out(name, seed)
            seeded = replace(config, seed=seed)
            if isinstance(seeded, SupervisedConfig):
                run = train_supervised(seeded, data, progress=progress, folder=folder)
                labelled = validation.subset((validation.labels >= 0).nonzero()[:, 0])
                validated = accuracy(classify(run, labelled, data), labelled.labels)
                tested = run.result["final"]["test_accuracy"]
            else:
                assert isinstance(seeded, PretrainConfig)
                run = pretrain(seeded, data, progress=progress, folder=folder)
                probe = linear_probe(encode(run.encoder, data), seed=seed)
                validated, tested = probe.validation, probe.accuracy
            rows.append({"seed": seed, "domain": name, "validation": validated, "test": tested})
    return pd.DataFrame(rows)


def classify(run: Run, images: Images, data: Dataset) -> Tensor:
    """Return the outputs [N, classes] of a network that `train_supervised` trained on `data`."""
    checkpoint = run.load_checkpoint()
    if checkpoint is None:
        raise ValueError(f"{run.folder} has no checkpoint: the classifier's weights are in it")
    state = checkpoint["network"]
    x = features(run.encoder, images, normalize=data.normalize)  # [N, D]
    weight = state["classifier.weight"].to(x)
    bias = state["classifier.bias"].to(x)
    return F.linear(x, weight, bias)


def mean_and_worst(table: pd.DataFrame) -> pd.DataFrame:
    """Reduce `leave_each_out`'s table: for each seed the mean over the domains, and the worst."""
    return table.groupby("seed")["test"].agg(mean="mean", worst="min").reset_index()
