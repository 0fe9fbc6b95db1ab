"""What labels are for: from scratch, fine-tuned or a linear probe, with few labels.

    python benchmarks/label_budgets.py

For each seed one pretraining of the default configuration. Then for each label budget, on the same
labelled images: the same network trained from scratch, the pretrained one fine-tuned (both for the
same number of steps, with learning rates fixed in advance), and a linear probe on the frozen
features. At the end the same pretraining on the upright images. Runs are kept in runs/ and reused.
Writes notebooks/tables/label_budgets.csv and upright.csv; the lines that begin with # say how.
"""

import argparse

import pandas as pd
from course_tables import write_table

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, load_data
from simlab.evaluate import Features, encode, linear_probe, raw_pixels
from simlab.runs import Run
from simlab.train import pretrain, train_supervised

BUDGETS = (100, 300, 1000)
STEPS, BATCH = 1000, 50  # of every supervised run, whatever its budget
LR, LR_ENCODER = 0.2, 0.05  # of the classifier; of a pretrained encoder


def budget_rows(run: Run, feats: Features, data: Dataset, seed: int) -> list[dict]:
    """Three ways to use the same labelled images, for every budget."""
    rows = []
    for labels in BUDGETS:
        epochs = STEPS * BATCH // labels
        config = dict(labels=labels, batch_size=BATCH, epochs=epochs, lr=LR, seed=seed)
        scratch = train_supervised(SupervisedConfig(**config), data, progress=False)
        tuned_config = SupervisedConfig(**config, init=run, lr_encoder=LR_ENCODER)
        tuned = train_supervised(tuned_config, data, progress=False)
        accuracies = {
            "from scratch": scratch.result["final"]["test_accuracy"],
            "SimSiam, fine-tuned": tuned.result["final"]["test_accuracy"],
            "SimSiam, linear probe": linear_probe(feats, labels, seed).accuracy,
        }
        for encoder, accuracy in accuracies.items():
            rows.append({"encoder": encoder, "labels": labels, "seed": seed, "accuracy": accuracy})
            print(rows[-1], flush=True)
        print(scratch.result["seconds"], tuned.result["seconds"], flush=True)
    return rows


def upright_rows(seed: int) -> list[dict]:
    """Probes with 1,000 labels on the upright images: pixels, and SimSiam trained on them."""
    data = load_data("fashion")
    run = pretrain(PretrainConfig(data="fashion", seed=seed), data, progress=False)
    rows = []
    for name, encoder in {"raw pixels": raw_pixels, "SimSiam": run.encoder}.items():
        accuracy = linear_probe(encode(encoder, data), 1000, seed).accuracy
        rows.append({"images": "upright", "encoder": name, "seed": seed, "accuracy": accuracy})
        print(rows[-1], flush=True)
    return rows


def save(name: str, rows: list[dict], seeds: int) -> None:
    """Write a table with its head."""
    made = [
        f"python benchmarks/label_budgets.py --seeds {seeds}",
        f"{STEPS} steps of {BATCH} images from scratch and fine-tuned, lr {LR}, encoder {LR_ENCODER}",
    ]
    write_table(name, pd.DataFrame(rows), made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    data = load_data(PretrainConfig.data)
    budgets: list[dict] = []
    upright: list[dict] = []
    for seed in range(seeds):
        config = PretrainConfig(seed=seed)
        run = pretrain(config, data, progress=False)
        print(f"seed {seed}: {run.result['seconds']:.0f} s", flush=True)
        feats = encode(run.encoder, data)
        budgets += budget_rows(run, feats, data, seed)
        save("label_budgets", budgets, seeds)
    for seed in range(seeds):
        upright += upright_rows(seed)
        save("upright", upright, seeds)


if __name__ == "__main__":
    main()
