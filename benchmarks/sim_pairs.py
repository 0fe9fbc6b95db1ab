"""Notebook 04's question anew: the same training with SIM and without, over ten seeds.

    python benchmarks/sim_pairs.py                  all three tasks
    python benchmarks/sim_pairs.py "300 labels" --seeds 3

Two runs of one seed share all weights, the labelled images, their order and the views: SIM draws
from generators of its own. (The pairs of the notebook's committed tables do not share their heads.)
8,000 training images; 2,000 others are for choosing (validation), the test images report. Runs are
kept in runs/ and reused. Writes notebooks/tables/sim_pairs.csv, a row a run, after every seed; the
lines that begin with # say how it was made.
"""

import argparse
import math
import time
from dataclasses import replace

import pandas as pd
import torch
from course_tables import TABLES, write_table

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, Images, load_data
from simlab.evaluate import accuracy, effective_rank, encode, features, linear_probe
from simlab.runs import Run
from simlab.sweeps import classify
from simlab.train import pretrain, train_supervised

NAME = "sim_pairs"
TABLE = TABLES / f"{NAME}.csv"
HELD_OUT = 2000  # training images that choose
PROBE_LABELS = 1000
COMMON = {"augment": "scattered", "precision": "float32", "encoder": "tiny"}
# "skip" leaves the blocks out on which the published code fails, "pool" averages the input of a
# strided block onto its output's positions, "two" also takes two positions where a fifth is fewer
PUBLISHED = {"sim_layers": "blocks.0", "sim_small": "skip"}
TWO_BLOCKS = {"sim_layers": "blocks.0,blocks.1", "sim_small": "pool"}
ALL_BLOCKS = {"sim_layers": "blocks.*", "sim_small": "two"}
NARROW = {"sim_hidden": 64, "sim_dim": 32}
ARMS = {
    "none": {},
    "first block": PUBLISHED,
    "first two blocks": TWO_BLOCKS,
    "all blocks": ALL_BLOCKS,
    "all blocks, narrow projection": ALL_BLOCKS | NARROW,
    "first block, beta 0.05": PUBLISHED | {"sim_beta": 0.05},
    "all blocks, beta 0.05": ALL_BLOCKS | {"sim_beta": 0.05},
    "none, twice the epochs": {},
}
TASKS = {
    "300 labels": (SupervisedConfig(labels=300, epochs=40, **COMMON), list(ARMS)),
    "3,000 labels": (
        SupervisedConfig(labels=3000, epochs=6, **COMMON),
        ["none", "first block", "all blocks", "none, twice the epochs"],
    ),
    "SimSiam": (
        PretrainConfig(epochs=2, monitor_every=2, **COMMON),
        ["none", "first block", "all blocks", "none, twice the epochs"],
    ),
}


def split(seed: int) -> tuple[Dataset, Images]:
    """The data of a seed: 8,000 training images with the test images, and 2,000 that choose."""
    data = load_data("fashion-scattered")
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order[:HELD_OUT], order[HELD_OUT:]
    training = Dataset("fashion-scattered-8000", data.train.subset(rest), data.test)
    return training, data.train.subset(held_out)


def row_of(task: str, arm: str, seed: int) -> dict:
    """Train one run and measure it."""
    config, _ = TASKS[task]
    data, held_out = split(seed)
    config = replace(config, seed=seed, **ARMS[arm])
    if arm.endswith("twice the epochs"):
        config = replace(config, epochs=2 * config.epochs)
    started = time.process_time()
    train = train_supervised if isinstance(config, SupervisedConfig) else pretrain
    run = train(config, data, progress=False)
    seconds = time.process_time() - started  # of the processor: the machine has other work as well
    row = {"task": task, "arm": arm, "seed": seed, **accuracies(run, data, held_out, seed)}
    row["cpu_seconds"] = round(seconds, 1)
    final = run.result["final"]
    distance = final["sim_loss"] / config.sim_beta if "sim_loss" in final else math.nan
    row["sim_distance"] = distance  # mean over the blocks, without beta
    row["rank"] = effective_rank(features(run.encoder, data.test))
    return row


def accuracies(run: Run, data: Dataset, held_out: Images, seed: int) -> dict[str, float]:
    """Accuracy on the held-out and on the test images: of the classifier, or of a linear probe."""
    if run.result["final"].get("test_accuracy") is not None:
        validation = accuracy(classify(run, held_out, data), held_out.labels)
        return {"validation": validation, "test": run.result["final"]["test_accuracy"]}
    numbers = {}
    for name, images in (("validation", held_out), ("test", data.test)):
        encoded = encode(run.encoder, replace(data, test=images))
        numbers[name] = linear_probe(encoded, PROBE_LABELS, seed).accuracy
    return numbers


def save(rows: list[dict]) -> None:
    """Write the table with its head."""
    write_table(NAME, pd.DataFrame(rows), ["python benchmarks/sim_pairs.py"], "%.5g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*", help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    tasks = options.tasks or list(TASKS)
    rows: list[dict] = []
    if TABLE.exists():
        rows = pd.read_csv(TABLE, comment="#").to_dict("records")
        rows = [row for row in rows if row["task"] not in tasks]
    for task in tasks:
        for seed in range(options.seeds):
            for arm in TASKS[task][1]:
                rows.append(row_of(task, arm, seed))
                print(rows[-1], flush=True)
            save(rows)


if __name__ == "__main__":
    main()
