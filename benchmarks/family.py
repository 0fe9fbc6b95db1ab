"""Every method on the default images: the learning rate swept, then three seeds, in one table.

    python benchmarks/family.py train runs/family       trains what is missing, a row each
    python benchmarks/family.py train runs/family --only simclr "simclr with Muon"
    python benchmarks/family.py table runs/family       writes notebooks/tables/family*
    python benchmarks/family.py encoders runs/family    writes data/encoders/

`train` may be stopped and started again at any time, and with `--only` run once per core. A
method's learning rate is chosen with seed 0, trained on 8,000 of the training images, by the kNN
accuracy of the other 2,000; where the best rate is the highest or the lowest one, twice or half of
it is tried as well. The table's runs (seeds 1 to 3, all 10,000 images, 3 epochs of 156 steps) are
then evaluated on the test images.
"""

import argparse
import dataclasses
import functools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, load_data
from simlab.evaluate import encode, knn_accuracy, linear_probe, raw_pixels
from simlab.methods import method_names, parse_method
from simlab.runs import Run, load_run
from simlab.stats import mean_and_interval, paired_differences
from simlab.train import pretrain, resolve, train_supervised, untrained
from simlab_course.encoders import save_encoder

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "notebooks" / "tables"
ENCODERS = ROOT / "data" / "encoders"
HELD_OUT = 2000  # training images that choose the learning rate
SEEDS = (1, 2, 3)
EPOCHS = 3
LABELS_OF_PROBE = 1000
LABELS_OF_FINE_TUNING = 200
FINE_TUNING_EPOCHS = 40


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        method: As in a configuration.
        rates: Learning rates for 256 images that are tried.
        changes: What else differs from the default configuration.
    """

    method: str
    rates: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0)
    changes: dict = dataclasses.field(default_factory=dict)


VIT = {"encoder": "vit_tiny", "optimizer": "adamw", "weight_decay": 0.05}
VIT_RATES = (0.001, 0.002, 0.004, 0.008)  # of AdamW
MUON = {"optimizer": "muon", "momentum": 0.95}
ENTRIES = {
    "simclr": Entry("simclr"),
    "simclr with Muon": Entry("simclr", (0.04, 0.08, 0.16), MUON),
    "vicreg": Entry("vicreg"),
    "lejepa": Entry("lejepa"),
    "byol": Entry("byol"),
    "simsiam": Entry("simsiam"),
    "barlow_twins": Entry("barlow_twins"),
    "moco": Entry("moco"),
    "dino": Entry("dino"),
    "swav": Entry("swav"),
    "mae": Entry("mae", VIT_RATES, VIT),
    "simmim": Entry("simmim"),
    "w_mse": Entry("w_mse"),
    "rotation": Entry("rotation"),
    "ijepa": Entry("ijepa", VIT_RATES, VIT),
    "emp_ssl": Entry("emp_ssl"),
    "rotation, upright images": Entry("rotation", changes={"data": "fashion"}),
    "dino on a ViT": Entry("dino", VIT_RATES, VIT),
}
REFERENCES = "references"
RAW_PIXELS = "raw pixels"
REFERENCE_ENCODERS = {"untrained tiny": "tiny", "untrained ViT": "vit_tiny", RAW_PIXELS: ""}
UPRIGHT = ", upright images"
HEALTH = {"std_ratio": 2, "raw_std": 2, "rank": 1, "loss": 3}  # columns and their digits
TWICE = ("simclr", "vicreg", "byol", "lejepa")  # two seeds of these are compared in notebook 07


# --------------------------------------------------------------------------------------- the runs


class Rows:
    """Finished rows, a line of JSON each, so that an interrupted sweep goes on where it was."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "rows.jsonl"
        self.rows = []
        if self.file.exists():
            self.rows = [json.loads(line) for line in self.file.read_text().splitlines()]

    def find(self, **wanted) -> list[dict]:
        return [row for row in self.rows if all(row.get(k) == v for k, v in wanted.items())]

    def add(self, row: dict) -> None:
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(time.strftime("%H:%M:%S"), json.dumps(row), flush=True)


@functools.cache
def load(name: str) -> Dataset:
    return load_data(name)


def data_of(entry: Entry) -> Dataset:
    return load(entry.changes.get("data", PretrainConfig().data))


def without_held_out(data: Dataset) -> Dataset:
    """The dataset without its test images: in their place are 2,000 of the training images."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    return Dataset(
        data.name, data.train.subset(order[HELD_OUT:]), data.train.subset(order[:HELD_OUT])
    )


def configuration(entry: Entry, lr: float, seed: int) -> PretrainConfig:
    changes = {"epochs": EPOCHS, "threads": 1} | entry.changes
    return PretrainConfig(method=entry.method, lr=lr, seed=seed, **changes)


def train_or_none(config: PretrainConfig, data: Dataset, folder: Path) -> Run | None:
    """Train; None where the loss became NaN."""
    try:
        return pretrain(config, data, folder=str(folder), progress=False)
    except FloatingPointError as error:
        print(error, flush=True)
        return None


def try_rate(name: str, lr: float, rows: Rows, folder: Path) -> None:
    entry = ENTRIES[name]
    data = without_held_out(data_of(entry))
    run = train_or_none(configuration(entry, lr, seed=0), data, folder)
    knn = math.nan if run is None else run.result["final"]["knn"]
    rows.add({"kind": "rate", "name": name, "lr": lr, "knn_200": knn})


def best_rate(name: str, rows: Rows) -> float:
    tried = [row for row in rows.find(kind="rate", name=name) if not math.isnan(row["knn_200"])]
    if not tried:
        raise ValueError(f"{name}: no learning rate was tried without a NaN; run `train` first")
    return max(tried, key=lambda row: row["knn_200"])["lr"]


def accuracies(encoder, data: Dataset, seed: int) -> dict[str, float]:
    f = encode(encoder, data)
    row = {"probe_1000": linear_probe(f, LABELS_OF_PROBE, seed).accuracy}
    for k in (200, 20):
        row[f"knn_{k}"] = knn_accuracy(f.train, f.train_labels, f.test, f.test_labels, k)
    return row


def fine_tune(config: PretrainConfig, data: Dataset, folder: Path, init: Run | None) -> float:
    """Train the encoder with 200 labels from a run's weights, or from random ones."""
    is_vit = config.encoder == "vit_tiny"
    tuning = SupervisedConfig(
        data=config.data,
        encoder=config.encoder,
        init="" if init is None else str(init.folder),
        labels=LABELS_OF_FINE_TUNING,
        epochs=FINE_TUNING_EPOCHS,
        optimizer="adamw" if is_vit else "sgd",
        lr=0.004 if is_vit else 0.2,
        seed=config.seed,
        threads=1,
    )
    run = train_supervised(tuning, data, folder=str(folder), progress=False)
    return run.result["final"]["test_accuracy"]


def measured(run: Run | None, config: PretrainConfig, data: Dataset) -> dict:
    """What a run has reached; nothing of one whose loss became NaN."""
    if run is None:
        return {}
    method, last = parse_method(config.method), run.result["final"]
    row = accuracies(run.encoder, data, config.seed)
    row["loss_at_collapse"] = method.loss_at_collapse(config.batch_size)
    for column in (*HEALTH, "knn_teacher", "seconds"):
        row[column] = last.get(column, math.nan)
    return row | {"run": run.folder.name, "environment": run.result["environment"]}


def train_seed(name: str, seed: int, rows: Rows, folder: Path) -> None:
    """Train with the best of the rates that were tried, unless that was done."""
    entry = ENTRIES[name]
    data = data_of(entry)
    config = resolve(configuration(entry, best_rate(name, rows), seed), data)
    if rows.find(kind="seed", name=name, seed=seed, lr=config.lr):
        return
    run = train_or_none(config, data, folder)
    row = {"kind": "seed", "name": name, "seed": seed, "lr": config.lr, "method": config.method}
    rows.add(row | measured(run, config, data))


def fine_tune_seed(name: str, seed: int, rows: Rows, folder: Path) -> None:
    """Fine-tune the run of `train_seed`, unless that was done."""
    entry = ENTRIES[name]
    lr = best_rate(name, rows)
    (trained,) = rows.find(kind="seed", name=name, seed=seed, lr=lr)
    if "run" not in trained or rows.find(kind="fine-tuning", run=trained["run"]):
        return
    data = data_of(entry)
    config = resolve(configuration(entry, lr, seed), data)
    accuracy = fine_tune(config, data, folder, load_run(folder / trained["run"]))
    rows.add({"kind": "fine-tuning", "run": trained["run"], "fine_tuned_200": accuracy})


def references(seed: int, rows: Rows, folder: Path) -> None:
    """Raw pixels, and untrained encoders, under the same protocols."""
    for data_name, where in (("fashion-scattered", ""), ("fashion", UPRIGHT)):
        for name in REFERENCE_ENCODERS:
            row = {"kind": "reference", "name": name + where, "seed": seed}
            if not rows.find(**row):
                config = PretrainConfig(data=data_name, seed=seed, threads=1)
                rows.add(row | reference(name, config, load(data_name), folder))


def reference(name: str, config: PretrainConfig, data: Dataset, folder: Path) -> dict:
    """The accuracies of raw pixels, or of an untrained encoder, fine-tuned as well: from scratch."""
    if name == RAW_PIXELS:
        return accuracies(raw_pixels, data, config.seed)
    config = resolve(dataclasses.replace(config, encoder=REFERENCE_ENCODERS[name]), data)
    row = accuracies(untrained(config, data), data, config.seed)
    return row | {"fine_tuned_200": fine_tune(config, data, folder, None)}


def sweep(name: str, rows: Rows, folder: Path) -> None:
    """Try the entry's rates, and a further one where the best is the last on its side."""
    rates = sorted(ENTRIES[name].rates)
    for lr in rates:
        if not rows.find(kind="rate", name=name, lr=lr):
            try_rate(name, lr, rows, folder)
    beyond = {rates[0]: rates[0] / 2, rates[-1]: rates[-1] * 2}
    best = best_rate(name, rows)
    if best in beyond and not rows.find(kind="rate", name=name, lr=beyond[best]):
        try_rate(name, beyond[best], rows, folder)


def train(folder: Path, names: list[str]) -> None:
    """Train whatever is missing of these entries, and the references."""
    rows = Rows(folder)
    for name in names:
        if name == REFERENCES:
            for seed in SEEDS:
                references(seed, rows, folder)
            continue
        sweep(name, rows, folder)
        for seed in SEEDS:
            train_seed(name, seed, rows, folder)
            fine_tune_seed(name, seed, rows, folder)


# -------------------------------------------------------------------------------------- the table


ABOVE_RAW_PIXELS = ("simclr", "simclr with Muon", "lejepa", "vicreg")  # what is expected of them
WHY = {
    "rotation": "an image and its quarter turn are equally likely here, so there is nothing to tell",
    "mae": "predicting pixels need not separate classes: judge it by fine-tuning",
    "simmim": "predicting pixels need not separate classes: judge it by fine-tuning",
    "ijepa": "3 epochs are few for a transformer that learns from a slow teacher",
    "dino on a ViT": "3 epochs are few for a transformer that learns from a slow teacher",
    "w_mse": "64 images are few to whiten by",
    "vicreg": "one run each does not say which of its rates is best: family_rates.csv is uneven",
}
COLUMNS = {
    "knn_200": "kNN, k = 200", "knn_20": "k = 20", "probe_1000": "probe", "fine_tuned_200": "fine-tuned",
}  # fmt: skip


def seed_rows(rows: Rows) -> pd.DataFrame:
    """The seeds' rows at each method's best rate, with their fine-tuning, and the references'."""
    table = []
    for name in ENTRIES:
        for row in rows.find(kind="seed", name=name, lr=best_rate(name, rows)):
            tuned = rows.find(kind="fine-tuning", run=row.get("run", ""))
            accuracy = tuned[0]["fine_tuned_200"] if tuned else math.nan
            table.append(row | {"fine_tuned_200": accuracy, "rates": rates_tried(name, rows)})
    table += rows.find(kind="reference")
    return pd.DataFrame(table).drop(columns=["kind", "run", "environment"], errors="ignore")


def rates_tried(name: str, rows: Rows) -> int:
    return len(rows.find(kind="rate", name=name))


def remark(name: str, table: pd.DataFrame) -> str:
    """What the row does not reach, and why."""
    entry = ENTRIES[name]
    where = UPRIGHT if entry.changes.get("data") == "fashion" else ""
    encoder = "ViT" if entry.changes.get("encoder") == "vit_tiny" else "tiny"
    if name in ABOVE_RAW_PIXELS:
        reference = RAW_PIXELS + where
    else:
        reference = f"untrained {encoder}{where}"
    both = table[table["name"].isin([name, reference])]
    difference = paired_differences(both, "name", "knn_200", reference).iloc[0]
    if difference["low"] > 0:
        return ""
    relation = "within chance of" if difference["high"] > 0 else "below"
    why = WHY.get(name, "no reason was looked for")
    return f"{relation} {reference} ({difference['base']:.3f}): {why}"


def cell(values: pd.Series, digits: int = 3) -> str:
    """Mean and 95 % t-interval; of one seed the number alone."""
    values = values.dropna()
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    mean, half = mean_and_interval(values.groupby(lambda _: 0))
    return f"{mean[0]:.{digits}f} ± {half[0]:.{digits}f}"


def health_cells(group: pd.DataFrame) -> list[str]:
    """A method's means of std, raw std, rank and loss, its loss at collapse, and its seconds."""
    cells = [f"{group[column].mean():.{digits}f}" for column, digits in HEALTH.items()]
    cells.append(cell(group["loss_at_collapse"].iloc[:1]) or "none")
    return [*cells, f"{group['seconds'].mean():.0f}"]


def write_table(folder: Path) -> None:
    rows = Rows(folder)
    table = seed_rows(rows)
    table.to_csv(TABLES / "family.csv", index=False, float_format="%.4g")
    rates = pd.DataFrame(rows.find(kind="rate")).drop(columns="kind", errors="ignore")
    rates.to_csv(TABLES / "family_rates.csv", index=False, float_format="%.4g")
    knn = table.groupby("name")["knn_200"].mean()
    environment = next(row["environment"] for row in rows.rows if "environment" in row)
    text = [
        "`python benchmarks/family.py train runs/family`, then `table runs/family`; with "
        f"{environment}.", "",
        "Scattered clothing (Fashion-MNIST), 10,000 images, 3 epochs of 156 steps of 64 images, views of 24",
        "pixels, weight decay 1e-3, SGD with momentum .9 and a cosine; encoder `tiny`. Of mae, ijepa and",
        "dino on a ViT: `vit_tiny`, AdamW, weight decay .05. Of simclr with Muon: Muon with momentum .95.",
        "Options are the methods' defaults. Test accuracy: mean and 95 % t-interval where there are several",
        "seeds. Probe: linear, 1,000 labels. Fine-tuned: the whole encoder, 200 labels, 40 epochs. Seconds are",
        "of one core of a busy machine: compare them with care.", "",
        "Learning rates (for 256 images) were chosen by the kNN accuracy of 2,000 held-out training images, of one",
        "run each (seed 0; family_rates.csv): four, and a fifth beyond where the best was the highest or the lowest.", "",
        "std is that of normalised z, 1 when isotropic; raw std that of z itself.", "",
        f"| method | seeds | lr | tried | {' | '.join(COLUMNS.values())} | std | raw std | rank | loss | "
        "loss at collapse | seconds | |",
        "|" + "---|" * (len(COLUMNS) + 11),
    ]  # fmt: skip
    highest_first = knn.sort_values(ascending=False).index
    for name in sorted(highest_first, key=lambda name: UPRIGHT in name):  # they are no peers
        group = table[table["name"] == name]
        accuracies_of_name = [cell(group[column]) for column in COLUMNS]
        cells = [name, str(len(group))]
        if name in ENTRIES:
            cells += [f"{group['lr'].iloc[0]:g}", f"{group['rates'].iloc[0]:.0f}"]
            cells += accuracies_of_name
            cells += [*health_cells(group), remark(name, table)]
        else:
            cells += ["", "", *accuracies_of_name, *[""] * 7]
        text.append(f"| {' | '.join(cells)} |")
    (TABLES / "family.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))
    write_readme(table)


def write_readme(table: pd.DataFrame) -> None:
    """Put each method's accuracies into the last two columns of the README's table."""
    path = ROOT / "README.md"
    means = table.groupby("name")[["knn_200", "fine_tuned_200"]].mean()
    lines = path.read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        name = cells[0].strip("`") if cells else ""
        if name in ENTRIES and name in method_names() and len(cells) >= 4:
            values = [f"{value:.3f}" for value in means.loc[name]]
            lines[i] = f"| {' | '.join([*cells[:4], *values])} |"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# ----------------------------------------------------------------------------------- the encoders


def write_encoders(folder: Path) -> None:
    """The encoders of the first seed, and of the second where notebook 07 compares two."""
    ENCODERS.mkdir(exist_ok=True)
    for old in ENCODERS.glob("*.npz"):
        old.unlink()
    rows = Rows(folder)
    index = []
    for name in ENTRIES:
        if "upright" in name:
            continue
        for seed in SEEDS[:2] if name in TWICE else SEEDS[:1]:
            for row in rows.find(kind="seed", name=name, seed=seed, lr=best_rate(name, rows)):
                file = f"{name.replace(' ', '_').lower()}-{seed}.npz"
                run = load_run(folder / row["run"])
                save_encoder(run.encoder, ENCODERS / file)
                columns = ("name", "seed", "lr", "method", "knn_200")
                index.append(
                    {"file": file, "encoder": run.config["encoder"]} | {k: row[k] for k in columns}
                )
    pd.DataFrame(index).to_csv(ENCODERS / "index.csv", index=False, float_format="%.4g")
    size = sum(path.stat().st_size for path in ENCODERS.iterdir())
    print(f"{len(index)} encoders, {size / 1e6:.1f} MB in {ENCODERS}")


COMMANDS = {"table": write_table, "encoders": write_encoders}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["train", *COMMANDS])
    parser.add_argument("folder", type=Path)
    everything = [*ENTRIES, REFERENCES]
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "train":
        train(arguments.folder, arguments.only)
    else:
        COMMANDS[arguments.command](arguments.folder)
