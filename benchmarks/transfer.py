"""What a view is, and what travels: pairs of drawings as views, and features on other images.

    python benchmarks/transfer.py

Two questions, three seeds each, for notebook 07b. Which pairs should get the same features: two
augmentations of one drawing, or two designers' drawings of one thing? And: how well do features
that were learned on clothes serve emoji, and the other way round? Runs are kept in runs/ and
reused. Writes notebooks/tables/transfer_views.csv and transfer_features.csv; the lines that begin
with # say how.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from simlab.compute.devices import environment, resolve_device
from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, Images, load_data
from simlab.evaluate import encode, features, knn_accuracy, linear_probe, raw_pixels
from simlab.evaluate.features import Encoder
from simlab.runs import Run, write_bytes
from simlab.train import pretrain, resolve, train_supervised, untrained

TABLES = Path(__file__).parent.parent / "notebooks" / "tables"
PAIR = ("noto", "twemoji")  # both have drawn every thing
AUGMENT = "simsiam-cifar"  # of the emoji
TRAINING: dict[str, Any] = {
    "method": "simclr temperature=0.2",
    "optimizer": "muon",
    "lr": 0.08,
    "momentum": 0.95,
}
K = 20  # neighbours that vote
LABELS_OF_A_CLASS = 100  # of the linear probe
TUNING = {"epochs": 40, "lr": 0.2}  # with 20 labels of a class
TUNED_LABELS_OF_A_CLASS = 20


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


def fine_tuned(run: Run | None, data: Dataset, target: str, seed: int) -> float:
    """Test accuracy of the whole encoder, trained with a few labels from a run's weights."""
    config = SupervisedConfig(
        data=target,
        init="" if run is None else str(run.folder),
        labels=TUNED_LABELS_OF_A_CLASS * len(data.classes),
        augment=AUGMENT if target == "emoji" else "auto",
        seed=seed,
        **TUNING,
    )
    return train_supervised(config, data, progress=False).result["final"]["test_accuracy"]


def transfer_rows(sets: dict[str, Dataset], seed: int) -> list[dict]:
    """Every encoder on every set: those trained on clothes and on emoji, and an untrained one."""
    clothes = PretrainConfig(data="fashion-scattered", channels=3, seed=seed, epochs=3, **TRAINING)
    emoji = PretrainConfig(data="emoji", augment=AUGMENT, seed=seed, epochs=5, **TRAINING)
    runs: dict[str, Run | None] = {
        "clothes": pretrain(clothes, sets["clothes"], progress=False),
        "emoji": pretrain(emoji, sets["emoji"], progress=False),
        "nothing": None,
    }
    rows = []
    for source, run in runs.items():
        for target, data in sets.items():
            name = "emoji" if target == "emoji" else "fashion-scattered"
            encoder = untrained(resolve(emoji, data), data) if run is None else run.encoder
            labels = LABELS_OF_A_CLASS * len(data.classes)
            row = {
                "trained_on": source,
                "used_on": target,
                "seed": seed,
                "probe": linear_probe(encode(encoder, data), labels, seed).accuracy,
                "fine_tuned": fine_tuned(run, data, name, seed),
            }
            rows.append(row)
            print(row, flush=True)
    for target, data in sets.items():
        labels = LABELS_OF_A_CLASS * len(data.classes)
        probe = linear_probe(encode(raw_pixels, data), labels, seed).accuracy
        rows.append({"trained_on": "raw pixels", "used_on": target, "seed": seed, "probe": probe})
        print(rows[-1], flush=True)
    return rows


def save(name: str, rows: list[dict], seeds: int, lines: list[str]) -> None:
    """Write a table with its head."""
    head = [f"python benchmarks/transfer.py --seeds {seeds}", *lines]
    head.append(str(environment(resolve_device("auto"))))
    text = "".join(f"# {line}\n" for line in head)
    text += pd.DataFrame(rows).to_csv(index=False, float_format="%.4g")
    write_bytes(TABLES / f"{name}.csv", text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    emoji = load_data("emoji")
    sets = {"clothes": load_data("fashion-scattered", channels=3), "emoji": emoji}
    both = drawn_by_both(emoji)
    views: list[dict] = []
    transfers: list[dict] = []
    what = f"{TRAINING}; emoji: augment {AUGMENT}"
    for seed in range(seeds):
        views += views_rows(both, seed)
        things = f"10 epochs of the drawings by {' and '.join(PAIR)}; kNN k = {K}"
        save("transfer_views", views, seeds, [what, things])
    for seed in range(seeds):
        transfers += transfer_rows(sets, seed)
        tuning = f"{TUNED_LABELS_OF_A_CLASS} labels of a class, {TUNING}"
        how = [
            f"{what}; 3 epochs of clothes, 5 of emoji",
            f"probe: {LABELS_OF_A_CLASS} labels of a class; fine-tuned: {tuning}",
        ]
        save("transfer_features", transfers, seeds, how)


if __name__ == "__main__":
    main()
