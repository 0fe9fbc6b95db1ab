"""What a pretraining learns, over seeds: the tables behind the README and the notebooks.

    python benchmarks/default_run.py default_run
    python benchmarks/default_run.py cifar10_folder data=path/to/cifar10 epochs=12 encoder=small

For each seed one pretraining, its kNN accuracy and its linear probe with 1,000 labels, beside raw pixels
and the untrained encoder under the same protocol. Fields of `PretrainConfig` may be changed. Runs are
kept in runs/ and reused. Writes notebooks/tables/<name>.md and .csv.
"""

import argparse
import dataclasses
import json
from ast import literal_eval
from pathlib import Path

import pandas as pd

from simlab.config import PretrainConfig, make_config
from simlab.data import load_data
from simlab.evaluate import encode, knn_accuracy, linear_probe, raw_pixels
from simlab.stats import mean_and_interval
from simlab.train import pretrain, resolve, untrained

RESULTS = Path(__file__).parent.parent / "notebooks" / "tables"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", help="of the files in notebooks/tables/")
    parser.add_argument("changes", nargs="*", help="field=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    kinds = {field.name: field.type for field in dataclasses.fields(PretrainConfig)}
    changes = dict(word.split("=", 1) for word in arguments.changes)
    changes = {k: v if kinds.get(k, str) is str else literal_eval(v) for k, v in changes.items()}
    config = make_config(PretrainConfig, **changes)
    data = load_data(config.data, config.data_folder, image_size=config.image_size)
    rows, seconds = [], []
    for seed in arguments.seeds:
        config = resolve(dataclasses.replace(config, seed=seed), data)
        run = pretrain(config, data)
        for name, encoder in {
            "SimSiam": run.encoder,
            "untrained encoder": untrained(config, data),
            "raw pixels": raw_pixels,
        }.items():
            f = encode(encoder, data)
            row = {
                "encoder": name,
                "seed": seed,
                "probe_1000": linear_probe(f, 1000, seed).accuracy,
            }
            for k in (200, 20):
                row[f"knn_{k}"] = knn_accuracy(f.train, f.train_labels, f.test, f.test_labels, k)
            rows.append(row)
            print(row, flush=True)
        seconds.append(run.result["seconds"])
        print(f"seed {seed}: {seconds[-1]} s of training", flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS / f"{arguments.name}.csv", index=False)
    environment = run.result["environment"]
    fields = dataclasses.asdict(config)
    del fields["data_folder"], fields["seed"]
    fields["data"] = Path(fields["data"]).name
    words = [f"{k}={v}" for k, v in changes.items() if k != "data"]
    words += [f"data=path/to/{fields['data']}"] if "data" in changes else []
    lines = [
        f"`python benchmarks/default_run.py {' '.join([arguments.name, *words])} --seeds "
        f"{' '.join(map(str, arguments.seeds))}`", "",
        f"Training took {', '.join(f'{s:.0f}' for s in seconds)} s, with {environment}.", "",
        "Test accuracy, mean and 95 % t-interval over the seeds (which draw weights, views and the",
        "labelled images).", "",
        "| encoder | kNN, k = 200 | kNN, k = 20 | linear probe, 1,000 labels |", "|---|---|---|---|",
    ]  # fmt: skip
    for name in table["encoder"].unique():
        rows_of_encoder = table[table["encoder"] == name].groupby("encoder")
        cells = []
        for column in ("knn_200", "knn_20", "probe_1000"):
            mean, half = mean_and_interval(rows_of_encoder[column])
            cells.append(f"{mean[name]:.3f} ± {half[name]:.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "The configuration:", "", "```json", json.dumps(fields, indent=1), "```"]
    (RESULTS / f"{arguments.name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
