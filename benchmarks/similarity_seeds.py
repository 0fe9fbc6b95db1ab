"""The references behind notebook 05: how alike are networks that differ in the seed alone?

    python benchmarks/similarity_seeds.py

Three untrained networks, three seeds of SimSiam, and three networks that were trained with all labels;
all pairs of the nine, layer by layer, by CKA and deconfounded CKA. Runs are kept in runs/ and reused.
Writes notebooks/tables/similarity_seeds.csv (a row a pair, layer and measure) and
similarity_networks.csv (the networks' accuracies); the lines that begin with # say how.
"""

import argparse
import itertools

import pandas as pd
import torch
from course_tables import write_table
from torch import nn

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, load_data
from simlab.evaluate import encode, knn_accuracy, linear_probe
from simlab.similarity import compare
from simlab.train import pretrain, train_supervised, untrained

LAYERS = ["stem", "blocks.*.bn1", "blocks.?", "norm"]  # notebook 05's
MEASURES = ["cka", "deconfounded_cka"]
UNTRAINED = 3  # seeds of networks that learned nothing
IMAGES = 2000  # test images on which everything is compared


def networks_of(data: Dataset, seeds: int) -> dict[tuple[str, int], nn.Module]:
    """The encoders, by what they learned from and by their seed."""
    networks: dict[tuple[str, int], nn.Module] = {}
    for seed in range(UNTRAINED):
        networks["untrained", seed] = untrained(PretrainConfig(encoder="tiny", seed=seed), data)
    for seed in range(seeds):
        config = PretrainConfig(encoder="tiny", seed=seed)
        networks["SimSiam", seed] = pretrain(config, data, progress=False).encoder
    for seed in range(seeds):
        supervised = SupervisedConfig(encoder="tiny", seed=seed)
        networks["supervised", seed] = train_supervised(supervised, data, progress=False).encoder
    return networks


def accuracies(encoder: nn.Module, data: Dataset, seed: int) -> dict[str, float]:
    """kNN accuracy (k = 20) and that of a linear probe with 1,000 labels."""
    feats = encode(encoder, data)
    knn = knn_accuracy(feats.train, feats.train_labels, feats.test, feats.test_labels, k=20)
    return {"knn_20": knn, "probe_1000": linear_probe(feats, 1000, seed).accuracy}


def similarity_rows(networks: dict[tuple[str, int], nn.Module], x: torch.Tensor) -> list[dict]:
    """Every pair of networks, at the same layer of both."""
    models = {f"{name}, seed {seed}": encoder for (name, seed), encoder in networks.items()}
    result = compare(models, x, LAYERS, MEASURES, batch_size=128)
    layers = [layer.name for layer in result.layers_of(next(iter(models)))]
    rows = []
    for (a, seed_a), (b, seed_b) in itertools.combinations(networks, 2):
        for measure in MEASURES:
            block = result.block(f"{a}, seed {seed_a}", f"{b}, seed {seed_b}", measure)
            for layer, value in zip(layers, block.diagonal(), strict=True):
                pair = {"a": a, "seed_a": seed_a, "b": b, "seed_b": seed_b}
                rows.append({**pair, "layer": layer, "measure": measure, "value": value})
    return rows


def save(name: str, rows: list[dict]) -> None:
    """Write a table with its head."""
    write_table(name, pd.DataFrame(rows), ["python benchmarks/similarity_seeds.py"], "%.4f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="of SimSiam and with labels")
    seeds = parser.parse_args().seeds
    data = load_data(PretrainConfig.data)
    networks = networks_of(data, seeds)
    judged = []
    for (name, seed), encoder in networks.items():
        judged.append({"network": name, "seed": seed, **accuracies(encoder, data, seed)})
        print(judged[-1], flush=True)
    assert data.normalize is not None
    x = data.normalize(data.test.subset(torch.arange(IMAGES)).images)
    save("similarity_networks", judged)
    save("similarity_seeds", similarity_rows(networks, x))


if __name__ == "__main__":
    main()
