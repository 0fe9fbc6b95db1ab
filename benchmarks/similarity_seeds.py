"""The references behind notebook 05: how alike are networks that differ in the seed alone?

    python benchmarks/similarity_seeds.py

Three seeds of SimSiam and of untrained networks, and one network that was trained with all labels; all
pairs of the seven, layer by layer, by CKA and deconfounded CKA. Runs are kept in runs/ and reused.
Writes notebooks/tables/similarity_seeds.csv (a row a pair, layer and measure) and
similarity_networks.csv (the networks' accuracies); the lines that begin with # say how.
"""

import argparse
import itertools
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from simlab.compute.devices import environment, resolve_device
from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, load_data
from simlab.evaluate import encode, knn_accuracy, linear_probe
from simlab.runs import write_bytes
from simlab.similarity import compare
from simlab.train import pretrain, train_supervised, untrained

TABLES = Path(__file__).parent.parent / "notebooks" / "tables"
LAYERS = ["stem", "blocks.*.bn1", "blocks.?", "norm"]  # notebook 05's
MEASURES = ["cka", "deconfounded_cka"]
IMAGES = 2000  # test images on which everything is compared


def networks_of(seed: int, data: Dataset, with_labels: bool) -> dict[str, nn.Module]:
    """The encoders of a seed, by the name of what they learned from."""
    config = PretrainConfig(encoder="tiny", seed=seed)
    networks = {
        "untrained": untrained(config, data),
        "SimSiam": pretrain(config, data, progress=False).encoder,
    }
    if with_labels:
        supervised = SupervisedConfig(encoder="tiny", seed=seed)
        networks["supervised"] = train_supervised(supervised, data, progress=False).encoder
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
    head = ["python benchmarks/similarity_seeds.py", str(environment(resolve_device("auto")))]
    text = "".join(f"# {line}\n" for line in head)
    text += pd.DataFrame(rows).to_csv(index=False, float_format="%.4f")
    write_bytes(TABLES / f"{name}.csv", text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--supervised", type=int, default=1, help="seeds with labels as well")
    options = parser.parse_args()
    data = load_data(PretrainConfig.data)
    networks: dict[tuple[str, int], nn.Module] = {}
    judged = []
    for seed in range(options.seeds):
        for name, encoder in networks_of(seed, data, seed < options.supervised).items():
            networks[name, seed] = encoder
            judged.append({"network": name, "seed": seed, **accuracies(encoder, data, seed)})
            print(judged[-1], flush=True)
    assert data.normalize is not None
    x = data.normalize(data.test.subset(torch.arange(IMAGES)).images)
    save("similarity_networks", judged)
    save("similarity_seeds", similarity_rows(networks, x))


if __name__ == "__main__":
    main()
