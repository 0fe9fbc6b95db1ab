"""How well do features that were learned on clothes serve emoji, and the other way round?

    python benchmarks/transfer.py

For a section of notebook 02. Three seeds, about as many steps on either set, the same network in
colour. Each encoder is used on both sets, frozen under a linear probe and fine-tuned with few labels;
beside them an untrained encoder (fine-tuned, it is one trained from scratch) and raw pixels. Runs are
kept in runs/ and reused. Writes notebooks/tables/transfer.csv; the lines that begin with # say how.
"""

import argparse
from typing import Any

import pandas as pd
from course_tables import write_table

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, load_data
from simlab.evaluate import encode, linear_probe, raw_pixels
from simlab.runs import Run
from simlab.train import pretrain, resolve, train_supervised, untrained

CLOTHES, EMOJI = "clothes", "emoji"
DATA = {CLOTHES: "fashion-scattered", EMOJI: "emoji"}
AUGMENT = {CLOTHES: "auto", EMOJI: "simsiam-cifar"}
EPOCHS = {CLOTHES: 3, EMOJI: 5}  # some 470 steps of 64 images of either
SIMCLR: dict[str, Any] = {
    "method": "simclr temperature=0.2",
    "optimizer": "muon",
    "lr": 0.08,
    "momentum": 0.95,
    "threads": 1,
}
PROBE_LABELS = 100  # of a class
TUNING_LABELS = 20  # of a class
TUNING: dict[str, Any] = {"epochs": 40, "lr": 0.2, "threads": 1}


def pretraining(name: str, seed: int) -> PretrainConfig:
    return PretrainConfig(
        data=DATA[name],
        channels=3,  # clothes as well, so that the network fits both
        augment=AUGMENT[name],
        epochs=EPOCHS[name],
        seed=seed,
        **SIMCLR,
    )


def fine_tuned(init: Run | None, name: str, data: Dataset, seed: int) -> float:
    """Test accuracy of the whole network, trained with few labels from a run's weights."""
    config = SupervisedConfig(
        data=DATA[name],
        channels=3,
        init="" if init is None else str(init.folder),
        labels=TUNING_LABELS * len(data.classes),
        augment=AUGMENT[name],
        seed=seed,
        **TUNING,
    )
    accuracy: float = train_supervised(config, data, progress=False).result["final"][
        "test_accuracy"
    ]
    return accuracy


def rows_of(sets: dict[str, Dataset], seed: int) -> list[dict]:
    """Every encoder on both sets."""
    trained = {name: pretrain(pretraining(name, seed), sets[name], progress=False) for name in DATA}
    start = untrained(resolve(pretraining(CLOTHES, seed), sets[CLOTHES]), sets[CLOTHES])
    runs: dict[str, Run | None] = {**trained, "untrained": None}
    rows = []
    for name, data in sets.items():
        labels = PROBE_LABELS * len(data.classes)
        pixels = linear_probe(encode(raw_pixels, data), labels, seed).accuracy
        rows.append({"encoder": "raw pixels", "used_on": name, "seed": seed, "probe": pixels})
        for source, run in runs.items():
            encoder = start if run is None else run.encoder
            row = {"encoder": source, "used_on": name, "seed": seed}
            row["probe"] = linear_probe(encode(encoder, data), labels, seed).accuracy
            row["fine_tuned"] = fine_tuned(run, name, data, seed)
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    sets = {name: load_data(where, channels=3) for name, where in DATA.items()}
    rows: list[dict] = []
    for seed in range(seeds):
        rows += rows_of(sets, seed)
        how = [
            f"python benchmarks/transfer.py --seeds {seeds}",
            f"{SIMCLR}; epochs {EPOCHS}; augment {AUGMENT}",
            f"probe: {PROBE_LABELS} labels of a class; fine-tuned: {TUNING_LABELS} of a class, {TUNING}",
        ]
        write_table("transfer", pd.DataFrame(rows), how)


if __name__ == "__main__":
    main()
