"""Leave one domain out: train on the others, test on it, for every domain and seed."""

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd
import torch
import torch.nn.functional as F

from simlab.config import SupervisedConfig, TrainConfig
from simlab.data.domains import Domains
from simlab.data.images import Dataset, Images
from simlab.evaluate.features import accuracy, features
from simlab.evaluate.probe import encode, linear_probe
from simlab.runs.run import Run
from simlab.train.run import pretrain, train_supervised


def classify(run: Run, images: Images, data: Dataset) -> torch.Tensor:
    """Outputs [N, classes] of a network that `train_supervised` made, normalised as in `data`."""
    state = run.load_checkpoint()["network"]
    x = features(run.encoder, images, normalize=data.normalize)
    return F.linear(x, *(state[f"classifier.{part}"].to(x) for part in ("weight", "bias")))


def leave_each_out(
    domains: Domains, config: TrainConfig, seeds: Iterable[int] = (0,), **options
) -> pd.DataFrame:
    """Leave out one domain after the other: a row a seed and domain, with accuracies.

    `test` is of the left-out domain, `validation` of the others. A SupervisedConfig trains on
    labels; a PretrainConfig without them, and a linear probe on the frozen features answers.
    options: of `train_supervised` and `pretrain`, such as progress=False.
    """
    rows = []
    for seed in seeds:
        for name in domains.names:
            data, validation = domains.leave_out(name, seed)
            own = replace(config, seed=seed)
            if isinstance(config, SupervisedConfig):
                run = train_supervised(own, data, **options)
                chosen = accuracy(classify(run, validation, data), validation.labels)
                test = run.result["final"]["test_accuracy"]
            else:
                probe = linear_probe(
                    encode(pretrain(own, data, **options).encoder, data), seed=seed
                )
                chosen, test = probe.validation, probe.accuracy
            rows.append({"seed": seed, "domain": name, "validation": chosen, "test": test})
    return pd.DataFrame(rows)


def mean_and_worst(table: pd.DataFrame) -> pd.DataFrame:
    """Of `leave_each_out`'s table: for each seed the mean over the domains, and the worst one."""
    return table.groupby("seed")["test"].agg(mean="mean", worst="min").reset_index()
