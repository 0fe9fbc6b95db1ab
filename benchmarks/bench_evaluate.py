"""kNN and linear probe against scikit-learn, on 50,000 x 512 features of ten classes.

    python benchmarks/bench_evaluate.py [--rounds 3] [--train 50000] [--dim 512]

Both answer the same question: kNN by cosine with k = 200 and votes exp(s / 0.1) for 10,000 queries;
one fit against one fit of multinomial logistic regression at the same regulariser, on standardised
features, scikit-learn's at its own tolerance. scikit-learn's kNN is asked in both ways that a user may
write: metric="cosine", and Euclidean on normalised features. In one process and in turn, on two
threads; the ratio is the median of each round's.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from simlab.compute.devices import cpu_has_bfloat16
from simlab.evaluate import knn_predict
from simlab.evaluate.probe import _LogisticRegression

RESULTS = Path(__file__).parent / "results" / "evaluate.md"
HEAD = (
    "| task; scikit-learn's way | simlab | scikit-learn | faster by | accuracy, simlab "
    "| accuracy, scikit-learn | same answers |"
)
K, T, L2, QUERIES, CLASSES = 200, 0.1, 1e-3, 10_000, 10


def make_features(train: int, dim: int):
    """Overlapping classes in a space with a falling spectrum, as an encoder's features have it."""
    g = torch.Generator().manual_seed(0)
    n = train + QUERIES
    labels = torch.randint(CLASSES, (n,), generator=g)
    means = 0.5 * torch.randn(CLASSES, dim, generator=g)
    spectrum = torch.arange(1, dim + 1) ** -0.5
    turn, _ = torch.linalg.qr(torch.randn(dim, dim, generator=g))
    x = (3 * torch.randn(n, dim, generator=g) + means[labels]) * spectrum @ turn
    return x[:train], labels[:train], x[train:], labels[train:]


def our_knn(x, y, queries):
    return knn_predict(x, y, queries, K, T)


def their_knn(x, y, queries):
    model = KNeighborsClassifier(
        K, metric="cosine", n_jobs=-1, weights=lambda d: np.exp((1 - d) / T)
    )
    return torch.from_numpy(model.fit(x.numpy(), y.numpy()).predict(queries.numpy()))


def their_euclidean_knn(x, y, queries):
    # of unit vectors, d^2 = 2 - 2 s
    model = KNeighborsClassifier(K, n_jobs=-1, weights=lambda d: np.exp((1 - d**2 / 2) / T))
    x, queries = F.normalize(x, dim=1), F.normalize(queries, dim=1)
    return torch.from_numpy(model.fit(x.numpy(), y.numpy()).predict(queries.numpy()))


def our_probe(x, y, queries):
    return _LogisticRegression(x, y, CLASSES).fit(L2)(queries).argmax(1)


def their_probe(x, y, queries):
    scale = StandardScaler().fit(x.numpy())
    # C weighs the sum of the losses over half the squared norm
    model = LogisticRegression(C=1 / (2 * L2 * len(x)), max_iter=1000)
    model.fit(scale.transform(x.numpy()), y.numpy())
    return torch.from_numpy(model.predict(scale.transform(queries.numpy())))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    x, y, queries, labels = make_features(arguments.train, arguments.dim)
    rows = []
    for task, ours, theirs in (
        ("kNN; metric='cosine'", our_knn, their_knn),
        ("kNN; normalised, Euclidean", our_knn, their_euclidean_knn),
        ("probe, one fit; LogisticRegression(max_iter=1000)", our_probe, their_probe),
    ):
        seconds, right, agree = {ours: [], theirs: []}, {}, 0.0
        for _ in range(arguments.rounds):
            answers = {}
            for answer in (ours, theirs):
                start = time.perf_counter()
                answers[answer] = answer(x, y, queries)
                seconds[answer].append(time.perf_counter() - start)
                right[answer] = float((answers[answer] == labels).float().mean())
            agree = float((answers[ours] == answers[theirs]).float().mean())
        ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
        mine, other = (statistics.median(s) for s in seconds.values())
        rows.append(
            f"| {task} | {mine:.2f} s | {other:.2f} s | {ratio:.1f} | {right[ours]:.4f} | "
            f"{right[theirs]:.4f} | {agree:.4f} |"
        )
        print(rows[-1], flush=True)
    text = f"""# kNN and linear probe against scikit-learn

`python benchmarks/bench_evaluate.py --rounds {arguments.rounds} --train {arguments.train} --dim \
{arguments.dim}`: {arguments.train} x {arguments.dim} features, {QUERIES} queries, two threads, no GPU, \
bfloat16 in the processor: {cpu_has_bfloat16()}; \
Python {platform.python_version()}, torch {torch.__version__}, scikit-learn \
{sklearn.__version__}. Medians of {arguments.rounds} rounds.

Both sides standardise or normalise within the time. kNN: k = {K}, votes exp(s / {T}), n_jobs=-1, \
the default algorithm; probe: one fit each at one regulariser, scikit-learn's at its default \
tolerance. Where the processor has bfloat16, simlab compares all pairs in it first; that product \
alone is about half of its time, so that a bank of this width can't be much quicker on it \
without giving up float32's answers.

{HEAD}
|---|---|---|---|---|---|---|
""" + "\n".join(rows)
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
