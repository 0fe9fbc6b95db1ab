"""How often 95 % intervals of the measures hold the true value.

    python benchmarks/bench_intervals.py [--measures cka,rsa] [--draws 1000] [--seed 50000]

writes benchmarks/results/intervals.md, unless only some measures were asked for. The true value is
the mean of the measure over 500 other sets of as many samples: the population's value at this
number of samples.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from simlab import similarity as s  # noqa: E402 - simlab's folder must be on the path first
from simlab.similarity import gram  # noqa: E402 - the same
from simlab.similarity.intervals import (  # noqa: E402 - the same
    groups_left_out,
    interval_of,
    random_halves,
    sums_without_each,
)

SAMPLES = 60
RESAMPLES = 20
BATCHES = ((10, 16), (10, 64), (20, 16), (64, 16))  # number of them, samples of each
TRUTH_DRAWS = 500
FIRST_SEED = 50_000  # of the simulations: none that the intervals were made with
MIXING = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def draw(seed, n=SAMPLES):
    """Related representations [n, 8] and [n, 6]; the confounder is half of what they share."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    return x, x @ MIXING / 8**0.5 + 0.7 * noise


def logits(measure):
    return lambda x, y: measure(3 * x[:, :6], 3 * (x[:, :6] + y))


def deconfounded(x, y):
    return s.deconfounded_cka_similarity(x, y, x[:, :3])


MEASURES = {
    "cka": s.cka_similarity,
    "cka, biased": partial(s.cka_similarity, debiased=False),
    "rbf_cka": s.rbf_cka_similarity,
    "deconfounded_cka": deconfounded,
    "procrustes_distance": s.procrustes_distance,
    "procrustes_angle": partial(s.procrustes_distance, form="angle"),
    "procrustes_complement": partial(s.procrustes_distance, form="complement"),
    "cca": s.cca_similarity,
    "svcca": s.svcca_similarity,
    "pwcca": s.pwcca_similarity,
    "regression": s.regression_similarity,
    "predictivity": s.predictivity,
    "predictivity_pearson": partial(s.predictivity, score="pearson"),
    "rsa": s.rsa_similarity,
    "rsa_correlation": partial(s.rsa_similarity, metric="correlation"),
    "rsa_pearson": partial(s.rsa_similarity, comparison="pearson"),
    "rsa_kendall": partial(s.rsa_similarity, comparison="kendall"),
    "mutual_knn": partial(s.mutual_knn_similarity, k=5),
    "mutual_knn_cosine": partial(s.mutual_knn_similarity, k=5, metric="cosine"),
    "cknna": partial(s.cknna_similarity, k=5),
    "disagreement": logits(s.disagreement),
    "jensen_shannon": logits(s.jensen_shannon_divergence),
}


def coverage_of_set(measure, seeds, jackknifed, correlation):
    """For each set of samples: does its interval hold the truth, how wide is it; and the truth."""
    truth = np.mean([measure(*draw(seed)) for seed in range(10**6, 10**6 + TRUTH_DRAWS)])
    hits = []
    widths = []
    for seed in seeds:
        x, y = draw(seed)
        without = None
        if jackknifed:
            rests = groups_left_out(SAMPLES, RESAMPLES, seed)
            without = np.array([measure(x[rest], y[rest]) for rest in rests])
        cuts = random_halves(SAMPLES, RESAMPLES // 2, seed)
        halves = [[measure(x[half], y[half]) for half in cut] for cut in cuts]
        value = np.array(measure(x, y))
        low, high = interval_of(value, without, np.array(halves), is_correlation=correlation)
        hits.append(low <= truth <= high)
        widths.append(high - low)
    return hits, widths, truth


def batch_sums(seed, batches, size):
    """Sums of inner products of debiased Grams, batch by batch [batches, 2, 2]."""
    sums = []
    x, y = draw(seed, batches * size)
    for a, b in zip(x.split(size), y.split(size), strict=True):
        grams = [gram.centre((v - v.mean(0)) @ (v - v.mean(0)).T) for v in (a, b)]
        sums.append(gram.inner_products(torch.stack(grams)))
    return np.stack(sums)


def coverage_of_batches(batches, size, seeds):
    """The same for minibatch CKA, whose intervals leave out one batch at a time."""
    truth = gram.cosine(batch_sums(10**6, 20000 // size, size).sum(0))[0, 1]
    hits = []
    widths = []
    for seed in seeds:
        sums = batch_sums(seed, batches, size)
        without = np.stack([gram.cosine(rest)[0, 1] for rest in sums_without_each(sums)])
        low, high = interval_of(gram.cosine(sums.sum(0))[0, 1], without)
        hits.append(low <= truth <= high)
        widths.append(high - low)
    return hits, widths, truth


def row(name, setting, hits, widths, truth):
    """One line of the table; the coverage with its own 95 % interval (Wilson 1927)."""
    coverage = stats.binomtest(int(sum(hits)), len(hits)).proportion_ci(method="wilson")
    return (
        f"| {name} | {setting} | {truth:.3f} | {np.mean(hits):.3f} | "
        f"{coverage.low:.3f} to {coverage.high:.3f} | {np.mean(widths):.3f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measures", default=",".join(s.MEASURES))
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    args = parser.parse_args()
    torch.set_num_threads(1)
    asked_for = args.measures.split(",")
    seeds = range(args.seed, args.seed + args.draws)
    lines = [
        "# Intervals: how often do they hold the true value?",
        "",
        f"`python benchmarks/bench_intervals.py --draws {args.draws} --seed {args.seed}`: nominal "
        f"95 %, {args.draws} simulations each, none of them one that the intervals were made with.",
        "",
        f"The true value is the measure's mean over {TRUTH_DRAWS} other sets of as many samples "
        "(over 20,000 samples in such batches for CKA over batches): the population's value at "
        "this number.",
        "",
        "| measure | samples | true value | coverage | its 95 % interval | mean width |",
        "|---|---|---|---|---|---|",
    ]
    for name in MEASURES:
        measure = name.split(",")[0]
        if measure not in asked_for:
            continue
        began = time.perf_counter()
        kind = s.MEASURES[measure]
        coverage = coverage_of_set(MEASURES[name], seeds, kind.jackknifed, kind.correlation)
        lines.append(row(name, f"{SAMPLES}, resamples={RESAMPLES}", *coverage))
        print(lines[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
    for batches, size in BATCHES if "cka" in asked_for else ():
        coverage = coverage_of_batches(batches, size, seeds)
        lines.append(row("cka, batches", f"{batches} batches of {size}", *coverage))
        print(lines[-1], flush=True)
    if set(asked_for) == set(s.MEASURES):
        path = ROOT / "benchmarks" / "results" / "intervals.md"
        path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
