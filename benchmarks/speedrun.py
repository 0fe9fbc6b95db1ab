"""Ten minutes on two cores of a CPU: how good do features get without a label?

    python benchmarks/speedrun.py --data FOLDER --seeds 0 1 2        three runs, and what they reach
    python benchmarks/speedrun.py --data FOLDER --minutes 1.5        the proxy, for trying something

The rules:
1. The images are CIFAR-10's, from a folder with train/<class>/ and test/<class>/. Training sees
   the 50,000 training images and no label, no other images, no weights trained before.
2. The clock starts when the images are in memory as uint8, and the network does not exist yet; it
   stops when the weights are final, those of the whitening layer too. Views and the first slow steps
   are within it; starting Python, decoding the files and measuring the result are not.
3. Two cores. Training stops by the clock, so that a slower machine takes fewer steps.
4. What is measured: kNN (cosine, votes exp(s / 0.1)) with the 50,000 clean images as its bank and
   all 10,000 test images as queries, at k = 200, at k = 20 and at the k that is best for 5,000
   training images held out of the bank; and a linear probe. BatchNorm is frozen, and the test
   images are looked at once, after the last step. A change is chosen by the held-out images.
5. A record is the mean of three seeds; it states its configuration, and wall and CPU seconds. What
   the layers after the encoder bring is said beside it, and what they bring to untrained networks.

What has been tried, and what it brought: results/speedrun.md.
"""

import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import tyro
from torch import Tensor, nn

from simlab.augment import parse_augment, views_at_once
from simlab.compute import autocast, resolve_precision
from simlab.data import Dataset, load_folder
from simlab.evaluate import Features, MirrorAveraged, Whitened, encode, knn_accuracy, linear_probe
from simlab.methods.simclr import mean_over_pairs, nt_xent
from simlab.models import TinyResNet, build_projector
from simlab.stats import mean_and_interval
from simlab.train.muon import Muon

Watch = Callable[[nn.Module, float], float]

CPU = torch.device("cpu")
ACCURACIES = ("knn200", "knn20", "knn", "probe")
REFERENCES = ("untrained200", "untrained20")  # kNN at these k of untrained networks
NEIGHBOURS = (5, 10, 20, 50, 100, 200)  # among which the held-out images choose
HELD_OUT = 10  # every tenth training image
WHITENED_ON = 10_000  # training images
WHITENING = 0.02  # share of the time that is left for it


@dataclass(frozen=True)
class Options:
    """What a run is made of; every field is a flag."""

    data: str
    """A folder with train/<class>/ and test/<class>/."""
    seeds: tuple[int, ...] = (0,)
    """A run for each."""
    minutes: float = 10.0
    """Of training."""
    threads: int = 2
    """Of one process; two processes with a core each are no faster."""

    widths: tuple[int, int, int] = (32, 64, 128)
    """Channels of the encoder's three stages."""
    proj_dim: int = 256
    """Width of the projector's two layers."""
    temperature: float = 0.1
    """Of NT-Xent."""
    batch_size: int = 128
    """Images of a step."""
    views: int = 4
    """Of every image; each is compared with each other one."""
    lr: float = 0.02
    """Muon's, of matrices and convolutions; that of vectors is five times it. Decays by a cosine."""
    momentum: float = 0.95
    """Of both."""
    weight_decay: float = 1e-3
    """Of matrices, per step and learning rate."""
    view_sizes: tuple[int, ...] = (24,)
    """Sides of the views in pixels, each for an equal part of the time."""
    augment: str = "simsiam-cifar"
    """A recipe of simlab's, and changes to it."""
    probe_labels: int = 0
    """Labelled images of the linear probe; 0: all."""


# ------------------------------------------------------------------------------------------ training


class Network(nn.Module):
    """An encoder and its projector: images [N, C, H, W] -> z [N, d]."""

    def __init__(self, options: Options, channels: int) -> None:
        super().__init__()
        self.encoder = TinyResNet(channels, options.widths)
        self.projector = build_projector(self.encoder.feature_dim, 2, options.proj_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))


def train(
    options: Options, data: Dataset, seed: int, watch: Watch | None = None
) -> tuple[Whitened, dict[str, float]]:
    """Train an encoder for so many minutes; returns it, whitened, with the steps and seconds it took.

    After every step `watch` gets the encoder and the seconds so far; what it takes does not count.
    """
    start, cpu_start = time.monotonic(), time.process_time()
    torch.manual_seed(seed)  # of the weights, the order of the images and the views
    network = Network(options, data.train.channels).to(memory_format=torch.channels_last)
    optimizer = Muon(network.parameters(), options.lr, options.momentum, options.weight_decay)
    augment = parse_augment(options.augment)
    precision = resolve_precision("auto", CPU)
    contrast = partial(nt_xent, temperature=options.temperature)

    done = 0.0  # share of the time that is over
    steps = 0
    while done < 1:
        order = torch.randperm(len(data.train))
        order = order[: len(order) // options.batch_size * options.batch_size]
        for _, images in data.train.batches(order, options.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * 0.5 * (1 + math.cos(math.pi * done))
            size = options.view_sizes[int(done * len(options.view_sizes))]
            views = views_at_once(options.views, [images], augment, data.normalize, size)[0]
            with autocast(precision, CPU):
                z = network(torch.cat(views)).chunk(options.views)  # [n, d] each
            loss = mean_over_pairs(contrast, z)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if watch:
                start += watch(network.encoder, time.monotonic() - start)
            done = (time.monotonic() - start) / (60 * options.minutes * (1 - WHITENING))
            if done >= 1:
                break
    encoder = whitened(network.encoder, data)
    cost = {
        "steps": steps,
        "epochs": steps * options.batch_size / len(data.train),
        "loss": float(loss.detach()),
        "wall": time.monotonic() - start,
        "cpu": time.process_time() - cpu_start,
    }
    return encoder, cost


def whitened(encoder: nn.Module, data: Dataset) -> Whitened:
    """Append the average with the mirror image, and the whitening, fitted without labels."""
    chosen = torch.randperm(len(data.train))[:WHITENED_ON]
    return Whitened(MirrorAveraged(encoder), data.train.subset(chosen))


# ----------------------------------------------------------------------------------------- measuring


def measure(encoder: nn.Module, data: Dataset, labels: int, seed: int) -> dict[str, float]:
    """kNN at k = 200, at 20 and at the chosen k, and the linear probe: accuracies, 0 to 1."""
    f = encode(encoder, data)
    k = best_k(f)
    bank = f.train, f.train_labels, f.test, f.test_labels
    return {
        "knn200": knn_accuracy(*bank, 200),
        "knn20": knn_accuracy(*bank, 20),
        "k": k,
        "knn": knn_accuracy(*bank, k),
        "probe": linear_probe(f, labels, seed).accuracy,
    }


def measure_untrained(options: Options, data: Dataset, seed: int) -> dict[str, float]:
    """kNN of the network before its first step, which every record is held against."""
    torch.manual_seed(seed)
    encoder = Network(options, data.train.channels).encoder
    accuracies = {}
    for end, judged in (("", whitened(encoder, data)), ("_bare", encoder)):
        f = encode(judged, data)
        for k in (200, 20):
            accuracy = knn_accuracy(f.train, f.train_labels, f.test, f.test_labels, k)
            accuracies[f"untrained{k}{end}"] = accuracy
    return accuracies


def best_k(f: Features) -> int:
    """The number of neighbours that is best for every tenth training image, by the others."""
    is_held_out = torch.arange(len(f.train)) % HELD_OUT == 0
    bank, queries = f.train[~is_held_out], f.train[is_held_out]
    labels = f.train_labels[~is_held_out], f.train_labels[is_held_out]
    accuracy = {k: knn_accuracy(bank, labels[0], queries, labels[1], k) for k in NEIGHBOURS}
    print("held out:", "  ".join(f"k = {k}: {value:.4f}" for k, value in accuracy.items()))
    return max(accuracy, key=accuracy.__getitem__)


def report(rows: list[dict[str, float]], options: Options) -> str:
    """Configuration, cost and accuracies; the last line has the three means alone."""
    table = pd.DataFrame(rows)
    mean, half = mean_and_interval(table.melt("seed").groupby("variable")["value"])
    changed = [
        f"{f.name}={getattr(options, f.name)}"
        for f in fields(options)
        if f.name not in ("data", "seeds") and getattr(options, f.name) != f.default
    ]
    lines = [
        f"configuration: {', '.join(changed) or 'the default'}; torch {torch.__version__}, "
        f"{resolve_precision('auto', CPU)}, {platform.machine()}, {os.cpu_count()} cores",
        f"a run: {mean['steps']:.0f} steps, {mean['epochs']:.1f} epochs, {mean['wall']:.0f} s of "
        f"wall time, {mean['cpu']:.0f} s of CPU time",
        f"mean and 95 % interval over {len(rows)} seeds (no interval for one):",
    ]
    for name in (*ACCURACIES, *REFERENCES):
        bare = f"{name}_bare"
        lines.append(
            f"  {name:12} {mean[name]:.4f} ± {half[name]:.4f}, of the encoder alone "
            f"{mean[bare]:.4f} ± {half[bare]:.4f}"
        )
    last = " ".join(f"{name} {mean[name]:.4f}" for name in ("knn200", "knn20", "probe"))
    return "\n".join([*lines, last])


def check(options: Options) -> None:
    """Refuse what can't be trained, before the images are read.

    Raises:
        ValueError: A number or the folder makes no sense.
    """
    for split in ("train", "test"):
        if not (Path(options.data) / split).is_dir():
            raise ValueError(f"{options.data}: no folder {split}/ with images in it")
    if options.minutes <= 0:
        raise ValueError(f"minutes={options.minutes}: expected a number above 0")
    if options.views < 2:
        raise ValueError(f"views={options.views}: expected at least 2")
    if options.batch_size < 2:
        raise ValueError(f"batch_size={options.batch_size}: expected at least 2")


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    try:
        check(options)
    except ValueError as error:
        print(f"speedrun: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    data = load_folder(options.data)
    if len(data.train) < options.batch_size:
        raise SystemExit(f"speedrun: {len(data.train)} images are no batch of {options.batch_size}")
    rows = []
    for seed in options.seeds:
        encoder, cost = train(options, data, seed)
        alone = measure(encoder.encoder.encoder, data, options.probe_labels, seed)
        bare = {f"{name}_bare": alone[name] for name in ACCURACIES}
        result = measure(encoder, data, options.probe_labels, seed)
        reference = measure_untrained(options, data, seed)
        rows.append({"seed": seed} | cost | bare | result | reference)
        print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    print(report(rows, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
