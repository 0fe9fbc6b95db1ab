"""Measure simlab against its peers, and write RESULTS.md; or see what has moved since.

    python benchmarks/all_benchmarks.py              every bench_*.py, then the pairs: half an hour
    python benchmarks/all_benchmarks.py --pairs      the pairs alone, with memory and growth
    python benchmarks/all_benchmarks.py --quick      the pairs at their smaller size, against what
                                                     is committed; nothing is written

`make bench` is the first, `make bench-quick` the last, in less than three minutes. A ratio has
moved if the median of either lies outside of the other's rounds. Times differ between machines,
ratios less so; the machine and the versions are said wherever they differ.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pairs import CASES, Case
from timing import Ratio, machine, memory_of, paired_rounds, versions

HERE = Path(__file__).parent
PAGE = HERE / "RESULTS.md"
STORED = HERE / "results" / "pairs.json"
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "kornia", "lightly")
THREADS = 2
ROUNDS = 7
QUICK_ROUNDS = 5


@dataclass(frozen=True)
class Measured:
    """A case at one size."""

    case: str
    peer: str
    unit: str
    size: int
    ratio: Ratio
    our_memory: float = math.nan  # megabytes at the peak, above what was there before
    peer_memory: float = math.nan

    @property
    def key(self) -> tuple[str, str, int]:
        return self.case, self.peer, self.size


# ----------------------------------------------------------------------------------------- measuring


def measure(case: Case, size: int, rounds: int) -> Measured | None:
    """Time a case at a size; None, and a word, where its peer is not installed."""
    try:
        ours, peers = case.make(size)
    except ImportError as error:
        print(f"left out: {case.name} against {case.peer} ({error})", flush=True)
        return None
    ratio = paired_rounds(ours, peers, rounds)
    return Measured(case.name, case.peer, case.unit, size, ratio)


def with_memory(measured: Measured, index: int) -> Measured:
    """Add the peak memory of each side, each in a process of its own."""
    peaks = []
    for side in ("0", "1"):
        words = [sys.executable, __file__, "--memory", str(index), str(measured.size), side]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.split()[-1]))
    fields = {name: getattr(measured, name) for name in ("case", "peer", "unit", "size", "ratio")}
    return Measured(**fields, our_memory=peaks[0], peer_memory=peaks[1])


def run_scripts() -> list[tuple[str, float, bool]]:
    """Run every bench_*.py, each of which writes or prints its table; their seconds and success."""
    runs = []
    for script in sorted(HERE.glob("bench_*.py")):
        print(f"--- {script.name}", flush=True)
        start = time.monotonic()
        status = subprocess.run([sys.executable, str(script)]).returncode
        runs.append((script.name, time.monotonic() - start, status == 0))
    return runs


# ----------------------------------------------------------------------------------------- the page


def growth(rows: list[Measured]) -> dict[tuple[str, str], tuple[float, float]]:
    """The powers of the size by which both sides' times grow, by case and peer."""
    powers = {}
    for small, large in zip(rows, rows[1:], strict=False):
        if (small.case, small.peer) == (large.case, large.peer):
            more = math.log(large.size / small.size)
            ours = math.log(large.ratio.ours / small.ratio.ours) / more
            theirs = math.log(large.ratio.peers / small.ratio.peers) / more
            powers[small.case, small.peer] = ours, theirs
    return powers


def page(rows: list[Measured], runs: list[tuple[str, float, bool]]) -> str:
    """RESULTS.md: the machine, the pairs, how they grow, and the tables of the scripts."""
    installed = versions(*PACKAGES)
    command = "make bench" if runs else "python benchmarks/all_benchmarks.py --pairs"
    lines = [
        "# simlab measured",
        "",
        f"`{command}` on {machine()}; {', '.join(f'{k} {v}' for k, v in installed.items())}; "
        f"{THREADS} threads, no GPU. Medians of {ROUNDS} paired rounds: both sides in one process, "
        "in turns; the ratio is the median of the rounds' ratios, beside it the lowest and the "
        "highest. Memory: what a call adds at its peak, in a process of its own.",
        "",
        "| work | size | against | simlab, s | peer, s | faster by | rounds | memory, MB "
        "| peer's, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        r = row.ratio
        lines.append(
            f"| {row.case} | {row.size:,} {row.unit} | {row.peer} | {r.ours:.3g} | {r.peers:.3g} "
            f"| {r.median:.2f} | {r.low:.2f} .. {r.high:.2f} | {row.our_memory:.0f} "
            f"| {row.peer_memory:.0f} |"
        )
    lines += [
        "",
        "How the time grows from the smaller to the larger size, as a power of it (1: in "
        "proportion):",
        "",
        "| work | against | simlab | peer |",
        "|---|---|---|---|",
    ]
    for (case, peer), (ours, theirs) in growth(rows).items():
        lines.append(f"| {case} | {peer} | {ours:.2f} | {theirs:.2f} |")
    lines += ["", "More, each by the script that its page names:", ""]
    for result in sorted((HERE / "results").glob("*.md")):
        lines.append(f"- [{result.stem}](results/{result.name})")
    if runs:
        lines += ["", "| script | seconds | |", "|---|---|---|"]
        lines += [f"| {name} | {s:.0f} | {'' if good else 'failed'} |" for name, s, good in runs]
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------- what has moved


def store(rows: list[Measured]) -> None:
    environment = {"machine": machine()} | versions(*PACKAGES)
    stored = {"environment": environment, "pairs": [asdict(row) for row in rows]}
    STORED.write_text(json.dumps(stored, indent=1) + "\n")


def stored_pairs(text: str) -> tuple[dict[str, str], dict[tuple[str, str, int], Measured]]:
    """The environment and the pairs of a file that `store` has written."""
    stored = json.loads(text)
    pairs = {}
    for entry in stored["pairs"]:
        measured = Measured(**entry | {"ratio": Ratio(**entry["ratio"])})
        pairs[measured.key] = measured
    return stored["environment"], pairs


def comparison(now: Measured, before: Measured | None) -> str:
    """One line: what a ratio is, what it was, and whether it has moved."""
    r = now.ratio
    text = f"{now.case}, {now.size:,} {now.unit}, against {now.peer}: {r.median:.2f}"
    text += f" ({r.low:.2f} .. {r.high:.2f})"
    if before is None:
        return f"new    {text}"
    b = before.ratio
    word = "MOVED" if r.moved_from(b) else "same "
    return f"{word}  {text}; committed {b.median:.2f} ({b.low:.2f} .. {b.high:.2f})"


def quick() -> int:
    """Compare with what is committed, and say what moved."""
    if not STORED.exists():
        print(f"{STORED} is missing: `make bench` writes it", file=sys.stderr)
        return 2
    environment, before = stored_pairs(STORED.read_text())
    here = {"machine": machine()} | versions(*PACKAGES)
    for name, value in here.items():
        if environment.get(name) != value:
            print(f"{name}: {value}; committed: {environment.get(name)}")
    lines = []
    for case in CASES:
        now = measure(case, case.sizes[0], QUICK_ROUNDS)
        if now is not None:
            lines.append(comparison(now, before.get(now.key)))
            print(lines[-1], flush=True)
    moved = sum(line.startswith("MOVED") for line in lines)
    print(f"{moved} of {len(lines)} ratios have moved")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="compare with what is committed")
    parser.add_argument("--pairs", action="store_true", help="leave out the scripts bench_*.py")
    parser.add_argument("--memory", nargs=3, metavar=("CASE", "SIZE", "SIDE"), type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    if arguments.memory:
        index, size, side = arguments.memory
        print(memory_of(CASES[index].make(size)[side]))
        return 0
    if arguments.quick:
        return quick()
    runs = [] if arguments.pairs else run_scripts()
    rows = []
    for index, case in enumerate(CASES):
        for size in case.sizes:
            measured = measure(case, size, ROUNDS)
            if measured is not None:
                rows.append(with_memory(measured, index))
                print(comparison(rows[-1], None), flush=True)
    store(rows)
    PAGE.write_text(page(rows, runs))
    print(f"written: {PAGE}")
    return int(not all(good for _, _, good in runs))


if __name__ == "__main__":
    sys.exit(main())
