"""What SIM leaves in the features: ten seeds of 300 labels, SIM on all blocks at several weights.

    python benchmarks/sim_kept.py

The trainings are those of `sim_pairs.py`, on the processor of its arm "none, another processor". Writes notebooks/tables/sim_kept.csv for notebook 04, a row
for each depth of each run: `what_is_kept` there, and the test accuracy of the run; the lines that begin
with # say how.
"""

import argparse
from dataclasses import replace

import pandas as pd
from course_tables import write_table
from sim_pairs import ARMS, TASKS, split

from simlab.evaluate import what_is_kept
from simlab.train import train_supervised

DEPTHS = ["stem", "blocks.0", "blocks.1", "blocks.2"]
COMPARED = ["none", "all blocks, beta 0.005", "all blocks, beta 0.05", "all blocks, beta 0.5"]


def rows_of(arm: str, seed: int) -> pd.DataFrame:
    """Train one run and read its features at every depth."""
    config, _ = TASKS["300 labels"]
    data, _ = split(seed)
    run = train_supervised(replace(config, seed=seed, **ARMS[arm]), data, progress=False)
    table = what_is_kept(run.encoder, data, DEPTHS)
    table = table.assign(arm=arm, seed=seed, test=run.result["final"]["test_accuracy"])
    print(table.round(3).to_string(), flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    table = pd.concat(rows_of(arm, seed) for arm in COMPARED for seed in range(seeds))
    write_table("sim_kept", table, [f"python benchmarks/sim_kept.py --seeds {seeds}"])


if __name__ == "__main__":
    main()
