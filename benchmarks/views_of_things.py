"""Which pairs should get the same features: two views of one drawing, or two drawings of a thing?

    python benchmarks/views_of_things.py

The same network, augmentation, loss and number of steps; three seeds. Runs are kept in runs/ and
reused. Writes notebooks/tables/views_of_things.csv, for notebook 07b; the lines that begin with #
say how.
"""

import argparse
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from course_tables import write_table

from simlab.config import PretrainConfig
from simlab.data import Dataset, Images, load_data
from simlab.evaluate import encode, features, knn_accuracy, raw_pixels
from simlab.evaluate.features import Encoder
from simlab.train import pretrain, resolve, untrained

PAIR = ("noto", "twemoji")  # both have drawn every thing
AUGMENT = "simsiam-cifar"  # of the emoji
TRAINING: dict[str, Any] = {
    "method": "simclr temperature=0.2",
    "optimizer": "muon",
    "lr": 0.08,
    "momentum": 0.95,
}
K = 20  # neighbours that vote


def of_designers(images: Images, designers: tuple[str, ...]) -> Images:
    """The drawings by some designers."""
    levels = images.factor_levels["designer"]
    number = images.factors[:, images.factor_names.index("designer")].long()
    wanted = torch.tensor([levels.index(name) for name in designers])
    return images.subset(torch.isin(number, wanted).nonzero()[:, 0])


def drawn_by_both(data: Dataset) -> Dataset:
    """Emoji of the two designers alone."""
    return Dataset(
        "emoji, two designers", *(of_designers(s, PAIR) for s in (data.train, data.test))
    )


def same_thing(encoder: Encoder, images: Images) -> float:
    """How often a drawing's nearest neighbour by the other designer is of the same thing.

    Both ways: from each of the first designer's drawings to the second's, and back.
    """
    directions = []
    by_designer = []
    for name in PAIR:
        drawings = of_designers(images, (name,))
        thing = drawings.factors[:, drawings.factor_names.index("thing")]
        in_order = drawings.subset(thing.argsort())  # the same things, in the same order
        by_designer.append(F.normalize(features(encoder, in_order), dim=1))  # [things, D]
    similarity = by_designer[0] @ by_designer[1].T  # [things, things]
    right = torch.arange(len(similarity))
    for axis in (0, 1):
        directions.append(float((similarity.argmax(axis) == right).float().mean()))
    return sum(directions) / len(directions)


def views_rows(data: Dataset, seed: int) -> list[dict]:
    """Encoders whose views are made in two ways, an untrained one, and raw pixels."""
    base = PretrainConfig(data="emoji", augment=AUGMENT, epochs=10, knn_k=K, seed=seed, **TRAINING)
    encoders: dict[str, Encoder] = {
        "raw pixels": raw_pixels,
        "untrained": untrained(resolve(base, data), data),
    }
    for name, factor in (
        ("augmentations of one drawing", ""),
        ("two designers' drawings", "thing"),
    ):
        config = PretrainConfig(**vars(base) | {"views_from": factor})
        encoders[name] = pretrain(config, data, progress=False).encoder
    rows = []
    for name, encoder in encoders.items():
        feats = encode(encoder, data)
        split = (feats.train, feats.train_labels, feats.test, feats.test_labels)
        row = {"views": name, "seed": seed, "same_thing": same_thing(encoder, data.test)}
        rows.append(row | {"category_knn": knn_accuracy(*split, K)})
        print(rows[-1], flush=True)
    return rows


def save(rows: list[dict], seeds: int) -> None:
    """Write the table with its head."""
    head = [
        f"python benchmarks/views_of_things.py --seeds {seeds}",
        f"{TRAINING}; 10 epochs, augment {AUGMENT}; drawings by {' and '.join(PAIR)}; kNN k = {K}",
    ]
    write_table("views_of_things", pd.DataFrame(rows), head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    both = drawn_by_both(load_data("emoji"))
    rows: list[dict] = []
    for seed in range(seeds):
        rows += views_rows(both, seed)
        save(rows, seeds)


if __name__ == "__main__":
    main()
