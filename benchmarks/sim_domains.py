"""SIM on domains that training never saw: each of four domains is left out in turn (leave_each_out).

    python benchmarks/sim_domains.py                  all five shifts
    python benchmarks/sim_domains.py angle colour     these alone; the others' rows stay

Four shifts are synthetic, made of the scattered clothes: four ranges of an angle, of a position, of a
scale, or four colours, without the augmentation that would undo the very shift. The fifth is natural:
emoji by four designers. The runs of a seed share all weights, the labelled images, their order and the views,
and differ in SIM alone. Writes notebooks/tables/sim_domains.csv for notebook 04, a row for each domain
left out; the lines that begin with # say how. Shifts may be trained one by one.
"""

import argparse
from dataclasses import replace

import pandas as pd
from course_tables import TABLES, write_table
from sim_pairs import ARMS, COMMON

from simlab.config import SupervisedConfig
from simlab.data import Domains, by_colour, by_factor, load_data
from simlab.sweeps import leave_each_out

NAME = "sim_domains"
TABLE = TABLES / f"{NAME}.csv"
COMPARED = ["none", "first block, beta 0.005", "all blocks, beta 0.005", "all blocks, beta 0.05"]
# a flip turns angles round, and both a flip and a rotation move a thing to another x
SAME_ANGLE = {"augment": "scattered rotate=0 flip=0"}
SAME_SCALE = {"augment": "scattered crop_min=1 ratio=1"}
SAME_PLACE = {"augment": "scattered rotate=0 flip=0 crop_min=1 ratio=1"}
CLOTHES = SupervisedConfig(**COMMON | {"labels": 600, "epochs": 12})  # 120 steps
EMOJI = SupervisedConfig(  # 60 drawings of each of the nine categories, 117 steps
    **COMMON | {"data": "emoji", "augment": "simsiam-cifar", "labels": 540, "epochs": 13}
)
SHIFTS = {
    "angle": replace(CLOTHES, **SAME_ANGLE),
    "x": replace(CLOTHES, **SAME_PLACE),
    "scale": replace(CLOTHES, **SAME_SCALE),
    "colour": CLOTHES,
    "designer": EMOJI,
}


def domains_of(shift: str) -> Domains:
    """The training images, cut into four domains."""
    images = load_data(SHIFTS[shift].data).train
    return by_colour(images) if shift == "colour" else by_factor(images, shift)


def rows_of(shift: str, seeds: int) -> pd.DataFrame:
    """Train every arm and seed of a shift, leaving out each domain."""
    domains = domains_of(shift)
    tables = []
    for arm in COMPARED:
        config = replace(SHIFTS[shift], **ARMS[arm])
        table = leave_each_out(domains, config, range(seeds), progress=False)
        tables.append(table.assign(shift=shift, arm=arm))
        print(f"{shift}, {arm}: {table['test'].mean():.3f}", flush=True)
    return pd.concat(tables)[["shift", "arm", "seed", "domain", "validation", "test"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shifts", nargs="*", help=", ".join(SHIFTS))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    unknown = [shift for shift in options.shifts if shift not in SHIFTS]
    if unknown:
        parser.error(f"no shift {', '.join(unknown)}: expected some of {', '.join(SHIFTS)}")
    for shift in options.shifts or list(SHIFTS):
        rows = rows_of(shift, options.seeds)
        if TABLE.exists():  # other shifts may have been trained elsewhere
            table = pd.read_csv(TABLE, comment="#")
            rows = pd.concat([table[table["shift"] != shift], rows])
        write_table(NAME, rows, [f"python benchmarks/sim_domains.py --seeds {options.seeds}"])


if __name__ == "__main__":
    main()
