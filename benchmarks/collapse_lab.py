"""The sweeps behind notebook 03: what makes SimSiam collapse, what its features keep, and SimCLR.

    python benchmarks/collapse_lab.py switches recipe augment coloured methods --seeds 5
    python benchmarks/collapse_lab.py cifar --seeds 5 --folder PATH     a folder of CIFAR-10's images
    python benchmarks/collapse_lab.py others --seeds 1                  for tests of the diagnosis

Each sweep trains its settings over the seeds and writes notebooks/tables/collapse_SWEEP.csv: a row an
epoch, the last one with what the finished encoder's features hold. The lines that begin with # say
how the table was made. Runs are kept in runs/ and reused; one takes 16 seconds on one core.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from course_tables import write_table

from simlab.config import PretrainConfig
from simlab.data import Dataset, Images, load_data
from simlab.evaluate import collapse_metrics, factor_scores, features, knn
from simlab.methods import parse_method, with_method_option
from simlab.train import pretrain, resolve, untrained

IMAGES, EPOCHS = 3000, 6  # small enough for seconds
K = 20  # neighbours of the kNN vote: of 3,000 images, 300 are of one class
COLOURS = "simsiam-cifar rotate=180 crop_min=0.4"
METHODS = {"SimSiam": {"method": "simsiam"}, "SimCLR": {"method": "simclr"}}
# "method.NAME" is an option of the method, as in a sweep
SWEEPS = {
    "switches": {
        f"{method}, {bn}": {
            "method.stop_gradient": stop, "method.predictor": predictor, "method.head_bn": head_bn,
        }
        for head_bn, bn in (("all", "BatchNorm"), ("none", "no BatchNorm"))
        for method, stop, predictor in (
            ("SimSiam", True, "mlp"), ("no predictor", True, "none"),
            ("fixed predictor", True, "fixed"), ("no stop-gradient", False, "mlp"),
        )
    } | {
        "no stop-gradient, no BatchNorm, weight decay x20": {
            "method.stop_gradient": False, "method.head_bn": "none", "weight_decay": 2e-2},
    },
    "recipe": {
        "default": {},
        "predictor's learning rate x1, decaying": {"method.pred_lr": 1.0, "method.fix_pred_lr": False},
        "batch 256": {"batch_size": 256},
        "weight decay x10": {"weight_decay": 1e-2},
    },
    "augment": {
        "all": {"augment": "scattered"},
        "no rotation": {"augment": "scattered rotate=0"},
        "none": {"augment": "none"},
    },
    "coloured": {
        "the usual colours": {"augment": COLOURS},
        "any hue, half grey": {
            "augment": f"{COLOURS} jitter=1 hue=0.5 grey=0.5 "
            "brightness=0.8 contrast=0.8 saturation=0.8"
        },
    },
    "methods": METHODS, "cifar": METHODS,
    # one of a kind, for tests of the diagnosis; neither: no stop-gradient and no predictor
    "others": {
        "batch 16": {"batch_size": 16},
        "learning rate x4": {"lr": 2.0},
        "narrow z": {"method.proj_dim": 32, "method.pred_dim": 16},
        "no stop-gradient, no BatchNorm, weight decay x10": {
            "method.stop_gradient": False, "method.head_bn": "none", "weight_decay": 1e-2},
        "neither": {
            "method.stop_gradient": False, "method.predictor": "none", "method.head_bn": "hidden",
        },
    },
}  # fmt: skip
DATA = {"coloured": "fashion-coloured"}  # else fashion-scattered, or the folder


def lab_data(name: str = "fashion-scattered", images: int = IMAGES) -> Dataset:
    """A dataset of that many training images, evenly spread over the split, and 1500 to test on."""
    data = load_data(name)
    train = evenly_spaced(data.train, images)
    test = evenly_spaced(data.test, IMAGES // 2)
    title = "CIFAR-10 (JPEG copy)" if Path(name).is_dir() else name
    return Dataset(f"{title}, {len(train)}", train, test)


def evenly_spaced(split: Images, number: int) -> Images:
    """A subset of that many images, from the first to the last."""
    return split.subset(torch.linspace(0, len(split) - 1, min(number, len(split))).long())


def lab_config(data: Dataset, **changes) -> PretrainConfig:
    """The default configuration, shorter, with `changes`, and for grey images a recipe of its own:
    the one that was the default when the tables began."""
    fields = {
        "epochs": EPOCHS, "monitor_every": 2, "method": PretrainConfig.method, "knn_k": K,
    }  # fmt: skip
    if data.train.channels == 1:
        fields["augment"] = "scattered"
    for name, value in changes.items():
        if name.startswith("method."):
            option = name.removeprefix("method.")
            fields["method"] = with_method_option(fields["method"], option, value)
        else:
            fields[name] = value
    return PretrainConfig(**fields)


def value_of(config: PretrainConfig, name: str) -> object:
    """A field's value, or that of an option of the method."""
    if name.startswith("method."):
        return getattr(parse_method(config.method), name.removeprefix("method."))
    return getattr(config, name)


def measured(config: PretrainConfig, data: Dataset) -> pd.DataFrame:
    """A run's history; the last row has measures of the backbone (h_...) and scores of factors."""
    run = pretrain(config, data, progress=False)
    table = run.history.drop(columns=["lr", "knn_k", "knn_temperature"])
    h = collapse_metrics(features(run.encoder, data.test))
    measures = {f"h_{name}": value for name, value in h.items()}
    if data.train.factor_names:
        measures |= {f"R2 {name}": r2 for name, r2 in factor_scores(run.encoder, data).items()}
    measures["knn_200"] = knn(run.encoder, data, 200)
    measures["knn_random"] = knn(untrained(resolve(config, data), data), data, config.knn_k)
    for name, value in measures.items():
        table.loc[table.index[-1], name] = value
    return table


def sweep(name: str, seeds: int, folder: str):
    if name == "cifar" and not folder:
        raise SystemExit("cifar needs --folder, with CIFAR-10's images as train/<class>/*.jpg")
    data = lab_data(folder if name == "cifar" else DATA.get(name, "fashion-scattered"))
    varied = list(dict.fromkeys(field for changes in SWEEPS[name].values() for field in changes))
    tables = []
    for setting, changes in SWEEPS[name].items():
        for seed in range(seeds):
            config = lab_config(data, seed=seed, **changes)
            table = measured(config, data)
            last = table.iloc[-1]
            print(
                f"{setting}, {seed}: kNN {last['knn']:.3f}, std {last['std_ratio']:.3f}", flush=True
            )
            values = {field.removeprefix("method."): value_of(config, field) for field in varied}
            tables.append(table.assign(setting=setting, **values, seed=seed))
    head = ["setting", *[field.removeprefix("method.") for field in varied], "seed"]
    table = pd.concat(tables)
    table = table[[*head, *[column for column in table if column not in head]]]
    command = f"python benchmarks/collapse_lab.py {name} --seeds {seeds}"
    if folder:
        command += " --folder PATH"
    made = [
        command,
        f"data: {data.name} training images, {len(data.test)} for testing",
        str(resolve(lab_config(data), data)),
    ]
    write_table(f"collapse_{name}", table, made)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sweeps", nargs="+", choices=SWEEPS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--folder", default="", help="of CIFAR-10 as JPEG files: train/<class>/*.jpg"
    )
    options = parser.parse_args()
    for name in options.sweeps:
        sweep(name, options.seeds, options.folder)
