"""What the default run learns, over seeds: the table behind the README and the notebooks.

    python benchmarks/default_run.py [SEED ...]

For each seed the default pretraining, its kNN accuracy and its linear probe with 1,000 labels, beside
raw pixels and the untrained encoder under the same protocol. Runs are kept in runs/ and found again.
"""

import sys
from pathlib import Path

import pandas as pd

from simlab.config import PretrainConfig, resolve
from simlab.data import load_data
from simlab.evaluate import knn_accuracy, raw_pixels
from simlab.plots import mean_and_interval
from simlab.probe import encode, linear_probe
from simlab.train import pretrain, untrained

RESULTS = Path(__file__).parent / "results"


def main(seeds: list[int]):
    data = load_data("fashion-scattered")
    rows = []
    for seed in seeds:
        config = resolve(PretrainConfig(seed=seed), data)
        run = pretrain(config, data)
        for name, encoder in {
            "SimSiam": run.encoder,
            "untrained encoder": untrained(config, data),
            "raw pixels": raw_pixels,
        }.items():
            f = encode(encoder, data)
            row = {"encoder": name, "seed": seed, "probe_1000": linear_probe(f, 1000, seed).accuracy}
            for k in (200, 20):
                row[f"knn_{k}"] = knn_accuracy(f.train, f.train_labels, f.test, f.test_labels, k)
            rows.append(row)
            print(row, flush=True)
        print(f"seed {seed}: {run.result['seconds']} s", flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS / "default_run.csv", index=False)
    lines = [
        f"`python benchmarks/default_run.py {' '.join(map(str, seeds))}`: {config}", "",
        "Test accuracy, mean and 95 % t-interval over the seeds (which draw weights, views and the",
        "labelled pictures).", "",
        "| encoder | kNN, k = 200 | kNN, k = 20 | linear probe, 1,000 labels |", "|---|---|---|---|",
    ]  # fmt: skip
    for name in table["encoder"].unique():
        own = table[table["encoder"] == name].groupby("encoder")
        cells = []
        for column in ("knn_200", "knn_20", "probe_1000"):
            mean, half = mean_and_interval(own[column])
            cells.append(f"{mean[name]:.3f} ± {half[name]:.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    (RESULTS / "default_run.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 1, 2])
