"""SIM on a designer that training never saw: emoji, one of four designers left out after the other.

    python benchmarks/sim_designers.py

For notebook 04, beside its made domains; nothing reads its table yet. Five seeds; the runs of a seed
share all weights, the labelled drawings, their order and the views, and differ in SIM alone. Writes
notebooks/tables/sim_designers.csv, a row a run; the lines that begin with # say how.
"""

import argparse
from dataclasses import replace

import pandas as pd
from course_tables import write_table

from simlab.config import SupervisedConfig
from simlab.data import by_factor, load_data
from simlab.sweeps import leave_each_out

CONFIG = SupervisedConfig(
    data="emoji",
    encoder="tiny",
    augment="simsiam-cifar",
    labels=540,  # 60 of each of the nine categories
    epochs=13,  # 117 steps
    precision="float32",
    threads=1,
)
FIRST, ALL = {"sim_layers": "blocks.0"}, {"sim_layers": "blocks.*", "sim_small": "two"}
ARMS = {
    "none": {},
    "first block, beta 0.005": FIRST | {"sim_beta": 0.005},
    "all blocks, beta 0.005": ALL | {"sim_beta": 0.005},
    "all blocks, beta 0.05": ALL | {"sim_beta": 0.05},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    designers = by_factor(load_data("emoji").train, "designer")
    rows = []
    for name, changes in ARMS.items():
        table = leave_each_out(designers, replace(CONFIG, **changes), range(seeds), progress=False)
        rows.append(table.assign(arm=name))
        print(rows[-1].to_string(), flush=True)
    how = [f"python benchmarks/sim_designers.py --seeds {seeds}", str(CONFIG)]
    write_table("sim_designers", pd.concat(rows), how)


if __name__ == "__main__":
    main()
