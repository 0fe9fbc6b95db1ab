"""What a GPU does: views, steps against lightly and a plain loop, and the published recipe.

    python benchmarks/bench_gpu.py            on a CUDA GPU; `make gpu` runs it after the tests
    python benchmarks/bench_gpu.py --dry      on the CPU with tiny sizes: whether every line runs

1. Views: images per second whose two views are made on the device.
2. SimSiam steps of a ResNet-18 (32 pixels) and a ResNet-50 (224 pixels): simlab's training loop,
   the same loop on views that are made once (what is missing is the data path's share), a plain
   loop written here, and the same with lightly's heads and loss, where lightly is installed.
3. The published recipe (SimSiam, CIFAR-10, ResNet-18, a schedule of 800 epochs) up to epoch 50: its
   kNN accuracy beside the published 39.0 and 55.6. Only where CIFAR-10 is on this machine, and as
   far as the time allows.

Results go to results/gpu.md with the device's name; a dry run writes nothing.
"""

import argparse
import contextlib
import importlib.util
import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from simlab.augment import RECIPES as AUGMENTATIONS
from simlab.augment import two_views
from simlab.compute import autocast, resolve_precision
from simlab.config import RECIPES, PretrainConfig, make_config
from simlab.data import from_arrays, load_data
from simlab.methods import SimSiam
from simlab.methods.base import Views
from simlab.models import build_encoder
from simlab.runs import claim
from simlab.train import build_task, pretrain, resolve
from simlab.train.callbacks import Watchers
from simlab.train.loop import fit

RESULTS = Path(__file__).parent / "results" / "gpu.md"
PUBLISHED = {25: 38.98, 50: 55.58}  # kNN accuracy in the log of ahmdtaha/simsiam, by epoch


@dataclass
class Work:
    """A network and the images that it learns from."""

    name: str
    encoder: str
    size: int
    batch: int
    augment: str
    steps: int


WORKS = (
    Work("ResNet-18, 32 pixels", "resnet18", 32, 512, "simsiam-cifar", 20),
    Work("ResNet-50, 224 pixels", "resnet50", 224, 128, "simsiam-imagenet", 10),
)
TINY = (Work("ResNet-18, 16 pixels", "resnet18", 16, 4, "simsiam-cifar", 2),)


@dataclass
class Bench:
    """Where and how long is measured."""

    device: torch.device
    rounds: int
    works: tuple[Work, ...]

    def seconds(self, function) -> float:
        """The median of the rounds, after one that warms up."""
        times = []
        for _ in range(self.rounds + 1):
            self.wait()
            start = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def random_data(work, number):
    images = torch.randint(0, 256, (number, 3, work.size, work.size), dtype=torch.uint8)
    labels = torch.arange(number) % 10
    test = max(20, number // 10)
    return from_arrays(images, labels, images[:test], labels[:test])


# ------------------------------------------------------------------------------------------ views


def views_per_second(bench, work):
    data = random_data(work, work.batch).to(bench.device)
    generator = torch.Generator(bench.device).manual_seed(0)
    recipe = AUGMENTATIONS[work.augment]

    def make():
        for _ in range(work.steps):
            two_views(data.train.images, recipe, data.normalize, work.size, generator)

    return 2 * work.batch * work.steps / bench.seconds(make)


# ------------------------------------------------------------------------------------------ steps


def loop_per_second(bench, work, views_once=False):
    """Images per second of simlab's training loop, without its measures."""
    data = random_data(work, work.batch * work.steps).to(bench.device)
    config = PretrainConfig(
        encoder=work.encoder, batch_size=work.batch, view_size=work.size, augment=work.augment,
        epochs=1, device=str(bench.device), log_every=0,
        method="simsiam proj_layers=3 proj_dim=2048 pred_dim=512 pred_lr=1",
    )  # fmt: skip
    config = resolve(config, data)
    task = build_task(config, data)
    task.monitor.measure = lambda network, epoch: {}
    if views_once:
        made = next(task.views.epoch(task.seed_epoch(config, 0, bench.device)))
        task.views.epoch = lambda generators, watch=iter: itertools.repeat(Views(made))

    def train():
        with tempfile.TemporaryDirectory() as folder, claim("bench", config, {}, folder) as run:
            fit(task, config, run, bench.device, Watchers(run), progress=False)

    return work.batch * work.steps / bench.seconds(train)


class LightlyModel(nn.Module):
    """SimSiam of lightly's heads and loss around an encoder."""

    def __init__(self, encoder, dim):
        super().__init__()
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

        self.encoder = encoder
        self.projector = SimSiamProjectionHead(dim, 2048, 2048)
        self.predictor = SimSiamPredictionHead(2048, 512, 2048)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, x1, x2):
        z1, z2 = (self.projector(self.encoder(x)) for x in (x1, x2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return (self.criterion(p1, z2.detach()) + self.criterion(p2, z1.detach())) / 2


class PlainModel(nn.Module):
    """SimSiam as one would write it in a script."""

    def __init__(self, encoder, dim):
        super().__init__()
        options = SimSiam(proj_layers=3, proj_dim=2048, pred_dim=512)
        self.network = options.build(encoder, dim)

    def forward(self, x1, x2):
        z1, p1 = self.network(x1)
        z2, p2 = self.network(x2)
        one = F.cosine_similarity(p1, z2.detach()).mean()
        return -(one + F.cosine_similarity(p2, z1.detach()).mean()) / 2


def plain_per_second(bench, work, model):
    """Images per second of a loop of views, loss, backward and step, all views made once."""
    encoder, dim = build_encoder(work.encoder, 3, work.size)
    network = model(encoder, dim).to(bench.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, fused=True)
    precision = resolve_precision("auto", bench.device)
    scaler = torch.amp.GradScaler(bench.device.type, enabled=precision == "float16")
    shape = (work.batch, 3, work.size, work.size)
    x1, x2 = (torch.randn(shape, device=bench.device) for _ in range(2))
    x1, x2 = (x.contiguous(memory_format=torch.channels_last) for x in (x1, x2))

    def train():
        for _ in range(work.steps):
            with autocast(precision, bench.device):
                loss = network(x1, x2)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    return work.batch * work.steps / bench.seconds(train)


def steps_table(bench):
    lines = ["| work | images/s | of the plain loop |", "|---|---|---|"]
    for work in bench.works:
        plain = plain_per_second(bench, work, PlainModel)
        speeds = {"plain loop, views made once": plain}
        if importlib.util.find_spec("lightly"):
            name = "the same with lightly's heads and loss"
            speeds[name] = plain_per_second(bench, work, LightlyModel)
        loop = loop_per_second(bench, work)
        once = loop_per_second(bench, work, views_once=True)
        speeds |= {"simlab's loop, views made once": once, "simlab's loop": loop}
        for name, speed in speeds.items():
            lines.append(f"| {work.name}: {name} | {speed:,.0f} | {speed / plain:.2f} |")
        lines.append(f"| {work.name}: share of the data path | {1 - loop / once:.0%} | |")
    if not importlib.util.find_spec("lightly"):
        lines.append("\nlightly is not installed, so it was not measured.")
    return lines


# ----------------------------------------------------------------------------------- the recipe


class EnoughError(Exception):
    """The epochs that were asked for are done, or the time is over."""


def recipe_lines(bench, config, data, epochs, seconds):
    """Train a recipe up to the last of `epochs`, within so many seconds: lines on its kNN."""
    accuracies = {}
    start = time.monotonic()

    def note(history):
        row = history[-1]
        if row["epoch"] in epochs:
            accuracies[row["epoch"]] = 100 * row["knn"]
        if row["epoch"] >= max(epochs) or time.monotonic() - start > seconds:
            raise EnoughError

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(EnoughError):
        pretrain(config, data, folder=folder, progress=False, on_epoch=note)
    lines = ["| epoch | kNN here | published |", "|---|---|---|"]
    for epoch, published in epochs.items():
        here = f"{accuracies[epoch]:.1f}" if epoch in accuracies else "time was over"
        lines.append(f"| {epoch} | {here} | {published:.1f} |")
    return [*lines, f"\n{time.monotonic() - start:.0f} seconds."]


def published_recipe(bench, seconds):
    try:
        data = load_data("cifar10")
    except (OSError, ValueError) as error:
        return [f"The published recipe was not run: {error}"]
    config = make_config(PretrainConfig, **RECIPES["cifar-paper"] | {"monitor_every": 25})
    return recipe_lines(bench, config, data, PUBLISHED, seconds)


def tiny_recipe(bench):
    config = make_config(PretrainConfig, **RECIPES["cifar-paper"])
    config = replace(
        config, data="fashion-scattered", encoder="tiny", view_size=8, batch_size=20,
        monitor_every=1, device="cpu", method="simsiam proj_dim=16 pred_dim=8",
    )  # fmt: skip
    data = random_data(TINY[0], 40)
    return recipe_lines(bench, config, data, {1: PUBLISHED[25], 2: PUBLISHED[50]}, 60)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="on the CPU, tiny; measures nothing")
    parser.add_argument("--seconds", type=float, default=240, help="of the published recipe")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        print("There is no CUDA GPU here: nothing was measured (--dry runs it on the CPU).")
        return
    if options.dry:
        bench = Bench(torch.device("cpu"), rounds=1, works=TINY)
        name = "CPU, dry run with tiny sizes: these are no measurements"
    else:
        bench = Bench(torch.device("cuda"), rounds=5, works=WORKS)
        name = torch.cuda.get_device_name(bench.device)
    precision = resolve_precision("auto", bench.device)
    lines = [
        f"`python benchmarks/bench_gpu.py`: {name}, torch {torch.__version__}, {precision}. "
        f"Medians of {bench.rounds} rounds.\n",
        "| views | per second |", "|---|---|",
    ]  # fmt: skip
    for work in bench.works:
        speed = views_per_second(bench, work)
        lines.append(
            f"| {work.augment}, {work.size} pixels, batches of {work.batch} | {speed:,.0f} |"
        )
    lines += ["", *steps_table(bench), ""]
    lines += tiny_recipe(bench) if options.dry else published_recipe(bench, options.seconds)
    print("\n".join(lines))
    if not options.dry:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
