"""kNN against scikit-learn's, and the time of the linear probe.

    python benchmarks/bench_evaluate.py [--rounds 3] [--train 10000] [--dim 128]

kNN: k = 200 neighbours by cosine, votes exp(s / 0.1), 10,000 queries. scikit-learn is called in both
ways that a user may write it: metric="cosine", and Euclidean on normalised features. In one process
and alternating, on two threads; the ratio is the median of the rounds' ratios.

The probe: the seconds of one fit, of scikit-learn's LogisticRegression at the same regulariser and
tolerance, and of the whole search for a regulariser. --features FILE.pt takes an encoder's features
in place of made ones: a dictionary of train, train_labels, test and test_labels.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from simlab.evaluate import Features, LinearProbe, knn_predict, linear_probe
from simlab.evaluate.linear import MAX_ITERATIONS, TOLERANCE

RESULTS = Path(__file__).parent / "results" / "evaluate.md"
THREADS = 2
K = 200
TEMPERATURE = 0.1
QUERIES = 10_000
CLASSES = 10
REGULARISER = 1e-2


def make_features(train: int, dim: int) -> Features:
    """Make overlapping classes in a space with a falling spectrum, as an encoder's features."""
    generator = torch.Generator().manual_seed(0)
    n = train + QUERIES
    labels = torch.randint(CLASSES, (n,), generator=generator)
    means = 0.5 * torch.randn(CLASSES, dim, generator=generator)
    spectrum = torch.arange(1, dim + 1) ** -0.5
    rotation, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
    x = (3 * torch.randn(n, dim, generator=generator) + means[labels]) * spectrum @ rotation
    return Features(x[:train], labels[:train], x[train:], labels[train:])


def simlab_knn(feats: Features) -> Tensor:
    return knn_predict(feats.train, feats.train_labels, feats.test, K, TEMPERATURE)


def sklearn_cosine(feats: Features) -> Tensor:
    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / TEMPERATURE)

    model = KNeighborsClassifier(K, metric="cosine", n_jobs=-1, weights=weights)
    model.fit(feats.train.numpy(), feats.train_labels.numpy())
    return torch.from_numpy(model.predict(feats.test.numpy()))


def sklearn_euclidean(feats: Features) -> Tensor:
    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance**2 / 2) / TEMPERATURE)  # of unit vectors, d^2 = 2 - 2 s

    bank = F.normalize(feats.train, dim=1)
    queries = F.normalize(feats.test, dim=1)
    model = KNeighborsClassifier(K, n_jobs=-1, weights=weights)
    model.fit(bank.numpy(), feats.train_labels.numpy())
    return torch.from_numpy(model.predict(queries.numpy()))


def timed(function: Callable, *arguments: object) -> tuple[float, object]:
    """Call the function: its seconds and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def knn_row(name: str, peer: Callable[[Features], Tensor], feats: Features, rounds: int) -> str:
    """Time simlab's kNN and a peer's in turn: a row of the table."""
    ours = []
    theirs = []
    for _ in range(rounds):
        seconds, answer = timed(simlab_knn, feats)
        ours.append(seconds)
        seconds, peers_answer = timed(peer, feats)
        theirs.append(seconds)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    same = float((answer == peers_answer).double().mean())
    return (
        f"| {name} | {statistics.median(ours):.2f} s | {statistics.median(theirs):.2f} s "
        f"| {ratio:.1f} | {same:.4f} |"
    )


def sklearn_probe(feats: Features) -> Tensor:
    """Fit scikit-learn's classifier of the same objective: the predictions."""
    mean = feats.train.double().mean(0)
    std = feats.train.double().std(0).clamp_min(1e-6)
    x = ((feats.train - mean) / std).numpy()
    parameters = CLASSES * (x.shape[1] + 1)
    model = LogisticRegression(
        C=1 / (2 * REGULARISER * len(x)),
        tol=TOLERANCE / math.sqrt(parameters),
        max_iter=MAX_ITERATIONS,
    )
    model.fit(x, feats.train_labels.numpy())
    return torch.from_numpy(model.predict(((feats.test - mean) / std).numpy()))


def probe_row(feats: Features, rounds: int) -> str:
    """Time one fit of the probe, scikit-learn's, and the whole search: a row of the table."""
    ours = []
    theirs = []
    search = []
    for _ in range(rounds):
        seconds, fitted = timed(LinearProbe(REGULARISER).fit, feats.train, feats.train_labels)
        ours.append(seconds)
        seconds, answer = timed(sklearn_probe, feats)
        theirs.append(seconds)
        seconds, probe = timed(linear_probe, feats)
        search.append(seconds)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    same = float((fitted.predict(feats.test) == answer).double().mean())
    return (
        f"| {statistics.median(ours):.2f} s | {statistics.median(theirs):.2f} s | {ratio:.1f} "
        f"| {same:.4f} | {statistics.median(search):.1f} s | {probe.regulariser:g} "
        f"| {probe.accuracy:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--features", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    what = f"{arguments.train} x {arguments.dim} made features of {CLASSES} classes"
    if arguments.features:
        feats = Features(**torch.load(arguments.features))
        what = f"{len(feats.train)} x {feats.train.shape[1]} features of {arguments.features}"
    else:
        feats = make_features(arguments.train, arguments.dim)
    peers = {"metric='cosine'": sklearn_cosine, "normalised, Euclidean": sklearn_euclidean}
    lines = [
        "# kNN against scikit-learn, and the time of the linear probe",
        "",
        f"`python benchmarks/bench_evaluate.py --rounds {arguments.rounds} "
        f"--train {arguments.train} --dim {arguments.dim}`: {what}, {len(feats.test)} queries, "
        f"{THREADS} threads, no GPU; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}. Medians of {arguments.rounds} rounds.",
        "",
        f"kNN: k = {K}, votes exp(s / {TEMPERATURE}); scikit-learn with n_jobs=-1 and the default "
        "algorithm. Both normalise within the time.",
        "",
        "| kNN; scikit-learn's way | simlab | scikit-learn | ratio | same answers |",
        "|---|---|---|---|---|",
    ]
    for name, peer in peers.items():
        lines.append(knn_row(name, peer, feats, arguments.rounds))
        print(lines[-1], flush=True)
    lines += [
        "",
        f"The probe: both minimise the same, with a regulariser of {REGULARISER:g}, until the norm of "
        f"the gradient is below {TOLERANCE:g}. The search fits one probe for each regulariser that it "
        "tries, and one more.",
        "",
        "| one fit, simlab | scikit-learn | ratio | same answers | whole search | chosen | accuracy |",
        "|---|---|---|---|---|---|---|",
        probe_row(feats, arguments.rounds),
    ]
    print(lines[-1])
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
