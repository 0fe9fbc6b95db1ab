"""Notebook 04's question: the same training with SIM and without, over ten seeds.

    python benchmarks/sim_pairs.py                  all three tasks
    python benchmarks/sim_pairs.py "300 labels" --seeds 3

Two runs of one seed share all weights, the labelled images, their order and the views: SIM draws
from generators of its own. Exceptions are "twice the epochs", and "another processor", which repeats
"none" to show what rounding does: its rows come from a processor with AVX-512, the others from one
with AVX2. On one machine the two are equal; to repeat them, run the script once on each, with the
table of the first.
8,000 training images; 2,000 others are for choosing (validation), the test images report. Writes
notebooks/tables/sim_pairs.csv, a row a run, after every seed (tasks may be given one by one); the
lines that begin with # say how it was made. A row that is there is not made again: remove the file to
begin anew.
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
COMMON = {"augment": "scattered", "precision": "float32", "encoder": "tiny", "threads": 1}
# "skip" leaves the blocks out on which the published code fails, "pool" averages the input of a
# strided block onto its output's positions, "two" also takes two positions where a fifth is fewer
FIRST = {"sim_layers": "blocks.0", "sim_small": "skip"}
FIRST_TWO = {"sim_layers": "blocks.0,blocks.1", "sim_small": "pool"}
LAST = {"sim_layers": "blocks.2", "sim_small": "two"}
ALL = {"sim_layers": "blocks.*", "sim_small": "two"}
NARROW = {"sim_hidden": 64, "sim_dim": 32}  # of the projection; 256 and 128 elsewhere
ARMS = {
    "none": {},
    "first block, beta 0.005": FIRST,
    "first block, beta 0.05": FIRST | {"sim_beta": 0.05},
    "first block, beta 0.5": FIRST | {"sim_beta": 0.5},
    "all blocks, beta 0.0005": ALL | {"sim_beta": 0.0005},
    "all blocks, beta 0.005": ALL,
    "all blocks, beta 0.05": ALL | {"sim_beta": 0.05},
    "all blocks, beta 0.5": ALL | {"sim_beta": 0.5},
    "first two blocks, beta 0.05": FIRST_TWO | {"sim_beta": 0.05},
    "last block, beta 0.05": LAST | {"sim_beta": 0.05},
    "all blocks, all positions, beta 0.05": ALL | {"sim_beta": 0.05, "sim_tokens": 1.0},
    "first two blocks, beta 0.005": FIRST_TWO,
    "all blocks, all positions, beta 0.005": ALL | {"sim_tokens": 1.0},
    "first block, narrow, beta 0.005": FIRST | NARROW,
    "all blocks, narrow, beta 0.005": ALL | NARROW,
    "none, twice the epochs": {},
    "none, another processor": {},  # whose only difference from "none" is rounding
}
MAIN_ARMS = [
    "none",
    "first block, beta 0.005",
    "all blocks, beta 0.005",
    "all blocks, beta 0.05",
    "none, twice the epochs",
    "none, another processor",
]
TASKS = {
    "300 labels": (SupervisedConfig(labels=300, epochs=40, **COMMON), list(ARMS)),
    "3,000 labels": (SupervisedConfig(labels=3000, epochs=6, **COMMON), MAIN_ARMS),
    "SimSiam": (PretrainConfig(epochs=2, monitor_every=2, **COMMON), MAIN_ARMS),
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


def rows_so_far() -> list[dict]:
    """The rows of the table."""
    return pd.read_csv(TABLE, comment="#").to_dict("records") if TABLE.exists() else []


def save(task: str, rows: list[dict]) -> None:
    """Put the rows of a task into the table, whose other tasks may have been trained elsewhere."""
    others = [row for row in rows_so_far() if row["task"] != task]
    table = pd.DataFrame([*others, *rows])
    write_table(NAME, table, ["python benchmarks/sim_pairs.py"], "%.5g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*", help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    for task in options.tasks or list(TASKS):
        rows = [row for row in rows_so_far() if row["task"] == task]
        made = {(row["arm"], row["seed"]) for row in rows}
        for seed in range(options.seeds):
            for arm in TASKS[task][1]:
                if (arm, seed) not in made:
                    rows.append(row_of(task, arm, seed))
                    print(rows[-1], flush=True)
            save(task, rows)


if __name__ == "__main__":
    main()
