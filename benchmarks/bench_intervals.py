"""How often 95 % intervals of the measures hold the true value.

    python benchmarks/bench_intervals.py [--measures cka,rsa] [--draws 200]

writes benchmarks/results/intervals.md. The true value is the mean of the measure over 500 other
sets of as many samples: the population's value at this number of samples.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

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
TRUTH_DRAWS = 500
FIRST_SEED = 20_000  # of the simulations: none that the intervals were made with
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
    "cca": s.cca_similarity,
    "svcca": s.svcca_similarity,
    "pwcca": s.pwcca_similarity,
    "regression": s.regression_similarity,
    "predictivity": s.predictivity,
    "predictivity_pearson": partial(s.predictivity, score="pearson"),
    "rsa": s.rsa_similarity,
    "mutual_knn": partial(s.mutual_knn_similarity, k=5),
    "cknna": partial(s.cknna_similarity, k=5),
    "disagreement": logits(s.disagreement),
    "jensen_shannon": logits(s.jensen_shannon_divergence),
}


def coverage_of_set(measure, draws, jackknifed):
    """Share of intervals of one set that hold the truth, their mean width, the truth."""
    truth = np.mean([measure(*draw(seed)) for seed in range(10**6, 10**6 + TRUTH_DRAWS)])
    hits = []
    widths = []
    for seed in range(FIRST_SEED, FIRST_SEED + draws):
        x, y = draw(seed)
        without = None
        if jackknifed:
            rests = groups_left_out(SAMPLES, RESAMPLES, seed)
            without = np.array([measure(x[rest], y[rest]) for rest in rests])
        cuts = random_halves(SAMPLES, RESAMPLES // 2, seed)
        halves = [[measure(x[half], y[half]) for half in cut] for cut in cuts]
        value = np.array(measure(x, y))
        low, high = interval_of(value, without, np.array(halves))
        hits.append(low <= truth <= high)
        widths.append(high - low)
    return np.mean(hits), np.mean(widths), truth


def batch_sums(seed, batches, size):
    """Sums of inner products of debiased Grams, batch by batch [batches, 2, 2]."""
    sums = []
    x, y = draw(seed, batches * size)
    for a, b in zip(x.split(size), y.split(size), strict=True):
        grams = [gram.centre((v - v.mean(0)) @ (v - v.mean(0)).T) for v in (a, b)]
        sums.append(gram.inner_products(torch.stack(grams)))
    return np.stack(sums)


def coverage_of_batches(batches, size, draws):
    """The same for minibatch CKA, whose intervals leave out one batch at a time."""
    truth = gram.cosine(batch_sums(10**6, 20000 // size, size).sum(0))[0, 1]
    hits = []
    widths = []
    for seed in range(FIRST_SEED, FIRST_SEED + draws):
        sums = batch_sums(seed, batches, size)
        without = np.stack([gram.cosine(rest)[0, 1] for rest in sums_without_each(sums)])
        low, high = interval_of(gram.cosine(sums.sum(0))[0, 1], without)
        hits.append(low <= truth <= high)
        widths.append(high - low)
    return np.mean(hits), np.mean(widths), truth


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measures", default=",".join(MEASURES))
    parser.add_argument("--draws", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Intervals: how often do they hold the true value?",
        "",
        f"`python benchmarks/bench_intervals.py --draws {args.draws}`: nominal 95 %, "
        f"{args.draws} simulations each, so that .950 is uncertain by {2 * (0.95 * 0.05 / args.draws) ** 0.5:.3f}.",
        "",
        "The true value is the measure's mean over 500 other sets of as many samples (over 20,000 "
        "samples in such batches for CKA over batches): the population's value at this number.",
        "",
        "| measure | samples | true value | coverage | mean width |",
        "|---|---|---|---|---|",
    ]
    path = ROOT / "benchmarks" / "results" / "intervals.md"
    names = [name for name in MEASURES if name.split(",")[0] in args.measures.split(",")]
    for name in names:
        began = time.perf_counter()
        jackknifed = s.MEASURES[name.split(",")[0]].jackknifed
        coverage, width, truth = coverage_of_set(MEASURES[name], args.draws, jackknifed)
        setting = f"{SAMPLES}, resamples=20"
        lines.append(f"| {name} | {setting} | {truth:.3f} | {coverage:.3f} | {width:.3f} |")
        print(lines[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
        path.write_text("\n".join(lines) + "\n")
    for batches, size in ((10, 16), (10, 64), (20, 16), (64, 16)):
        coverage, width, truth = coverage_of_batches(batches, size, args.draws)
        setting = f"{batches} batches of {size}"
        lines.append(f"| cka, batches | {setting} | {truth:.3f} | {coverage:.3f} | {width:.3f} |")
        print(lines[-1], flush=True)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
