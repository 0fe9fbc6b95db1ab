"""The family on colour photographs: 10,000 images of a folder such as CIFAR-10's, three seeds.

    python benchmarks/family_folder.py train runs/family --data FOLDER
    python benchmarks/family_folder.py train runs/family --data FOLDER --only simclr byol
    python benchmarks/family_folder.py table runs/family      writes notebooks/tables/family_cifar10*

`family.py train` comes first: its learning rates, which were chosen on scattered clothing, are taken
as they are. 10,000 training images and 2,000 test images, as many as clothing has, and the same 3
epochs of 156 steps. `train` may be stopped and started again.
"""

import argparse
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from family import (
    COLUMNS,
    ENTRIES,
    REFERENCE_ENCODERS,
    REFERENCES,
    SEEDS,
    TABLES,
    Rows,
    best_rate,
    cell,
    configuration,
    fine_tune,
    health_cells,
    measured,
    reference,
    train_or_none,
)

from simlab.config import PretrainConfig
from simlab.data import Dataset, load_data
from simlab.runs import load_run
from simlab.train import resolve

IMAGES = 10_000  # of the training images, the same for every seed
TEST_IMAGES = 2000  # as many as clothing has
RECIPE: dict[str, Any] = {"augment": "simsiam-cifar", "view_size": 24}
KIND = "folder"
NAMES = [name for name in ENTRIES if name not in ("rotation, upright images", "dino on a ViT")]
TABLE_NAME = "family_cifar10"


@functools.cache
def load(folder: str) -> Dataset:
    data = load_data(folder)
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randperm(len(s), generator=generator) for s in (data.train, data.test))
    return Dataset(
        "ten thousand photographs",
        data.train.subset(train[:IMAGES]),
        data.test.subset(test[:TEST_IMAGES]),
    )


def folder_configuration(name: str, seed: int, rows: Rows, folder: str) -> PretrainConfig:
    """That of the method on clothing, with a recipe for colour photographs."""
    on_clothing = configuration(ENTRIES[name], best_rate(name, rows), seed)
    return resolve(replace(on_clothing, data=folder, **RECIPE), load(folder))


def train_seed(name: str, seed: int, rows: Rows, runs: Path, folder: str) -> None:
    """Train, evaluate and fine-tune, unless that was done at this learning rate."""
    data = load(folder)
    config = folder_configuration(name, seed, rows, folder)
    if rows.find(kind=KIND, name=name, seed=seed, lr=config.lr):
        return
    run = train_or_none(config, data, runs)
    row = {"kind": KIND, "name": name, "seed": seed, "lr": config.lr, "method": config.method}
    row |= measured(run, config, data)
    if run is not None:
        row["fine_tuned_200"] = fine_tune(config, data, runs, load_run(run.folder))
    rows.add(row)


def references(seed: int, rows: Rows, runs: Path, folder: str) -> None:
    """Raw pixels and untrained encoders, under the same protocols."""
    for name in REFERENCE_ENCODERS:
        row = {"kind": KIND, "name": name, "seed": seed}
        if not rows.find(**row):
            config = PretrainConfig(data=folder, seed=seed, threads=1, **RECIPE)
            rows.add(row | reference(name, config, load(folder), runs))


def train(runs: Path, names: list[str], folder: str) -> None:
    rows = Rows(runs)
    for name in names:
        for seed in SEEDS:
            if name == REFERENCES:
                references(seed, rows, runs, folder)
            else:
                train_seed(name, seed, rows, runs, folder)


def rows_of_table(rows: Rows) -> pd.DataFrame:
    """The rows at the learning rates that the sweep on clothing ended with."""
    table = [
        row
        for row in rows.find(kind=KIND)
        if row["name"] not in ENTRIES or row["lr"] == best_rate(row["name"], rows)
    ]
    return pd.DataFrame(table)


def write_table(runs: Path) -> None:
    table = rows_of_table(Rows(runs))
    environment = table["environment"].dropna().iloc[0]
    table = table.drop(columns=["kind", "environment", "run", "knn_teacher"], errors="ignore")
    table.to_csv(TABLES / f"{TABLE_NAME}.csv", index=False, float_format="%.4g")
    text = [
        "`python benchmarks/family_folder.py train runs/family --data FOLDER`, then `table runs/family`; with "
        f"{environment}.", "",
        "CIFAR-10 (JPEG copy: its images encoded again), 10,000 of the training images, 3 epochs of 156 steps of 64",
        "images, views of 24 pixels by the recipe simsiam-cifar, 2,000 of the test images. Encoders, optimizers and",
        "learning rates are those of [family.md](family.md): the rates were chosen on scattered clothing, not here. Mean",
        "and 95 % t-interval of three seeds. Probe: linear, 1,000 labels. Fine-tuned: the whole encoder, 200 labels.",
        "Seconds are of one core of a busy machine.", "",
        f"| method | seeds | lr | {' | '.join(COLUMNS.values())} | std | raw std | rank | loss | loss at collapse | seconds |",
        "|" + "---|" * (len(COLUMNS) + 9),
    ]  # fmt: skip
    means = table.groupby("name")["knn_200"].mean().sort_values(ascending=False)
    for name in means.index:
        group = table[table["name"] == name]
        cells = [name, str(len(group))]
        cells.append(f"{group['lr'].iloc[0]:g}" if name in ENTRIES else "")
        cells += [cell(group[column]) for column in COLUMNS]
        if name in ENTRIES:
            cells += health_cells(group)
        else:
            cells += [""] * 6
        text.append(f"| {' | '.join(cells)} |")
    (TABLES / f"{TABLE_NAME}.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["train", "table"])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", default="", help="train/<class>/ and test/<class>/")
    everything = [*NAMES, REFERENCES]
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "table":
        write_table(arguments.runs)
    elif not arguments.data:
        parser.error("train needs --data FOLDER")
    else:
        train(arguments.runs, arguments.only, arguments.data)
