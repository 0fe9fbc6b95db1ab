"""Every widget on small made-up results, for tests with and without a browser."""

import numpy as np
import pandas as pd
import torch

from simlab.augment import RECIPES
from simlab.data import from_arrays
from simlab.evaluate import Features
from simlab.similarity import compare
from simlab_course import widgets

# of every public widget; made when they are asked for, which takes seconds
NAMES = (
    "two_view_explorer", "live_curves", "epoch_scrubber", "neighbour_browser", "budget_slider",
    "collapse_switches", "sim_beta", "cka_playground", "layer_heatmap",
)  # fmt: skip
CLASSES = ("ant", "bee", "cat", "dog")
LABELS = torch.arange(40) % 4
HISTORY = [{"epoch": i, "loss": -1 + 0.5 / i, "std_ratio": 0.8 + 0.01 * i} for i in range(1, 5)]
HISTORY[-1]["knn"] = 0.5


def images():
    """40 colour images of 24 x 24 pixels, all different; the first 20 are the test set too."""
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    planes = [(y * 10 * (i % 3 + 1), x * 9 + i * 20, (x + y) * 5) for i in range(40)]
    images = (torch.stack([torch.stack(p) for p in planes]) % 256).to(torch.uint8)
    return from_arrays(images, LABELS, images[:20], LABELS[:20], CLASSES)


def encoded():
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(60, 6, generator=generator) for name in ("pixels", "SimSiam")}
    return {n: Features(f[:40], LABELS, f[40:], LABELS[:20]) for n, f in made.items()}


def maps():
    noise = np.random.default_rng(0).normal(size=(3, 40, 2))
    middle = np.stack([LABELS * 3, -LABELS * 2], 1)
    return {epoch: 3 * offsets + epoch * middle for epoch, offsets in zip((0, 1, 4), noise)}


def budgets():
    start = {"pixels": 0.2, "untrained": 0.22, "SimSiam": 0.4}
    rows = [(name, labels, seed, a + 0.07 * i + 0.005 * seed) for name, a in start.items()
            for i, labels in enumerate((100, 300, 1000, 3000)) for seed in range(3)]  # fmt: skip
    return pd.DataFrame(rows, columns=["encoder", "labels", "seed", "accuracy"])


def collapses():
    rows = []
    for stop, predictor in ((True, "mlp"), (True, "none"), (False, "mlp")):
        bad = 1 if stop and predictor == "mlp" else 4
        for epoch in range(1, 9):
            row = {"stop_gradient": stop, "predictor": predictor, "epoch": epoch}
            row |= {"loss": -1 + 0.8 / epoch ** (bad / 2), "std_ratio": 0.9 / epoch ** (bad - 1)}
            rows.append(row | {"knn": 0.1 + 0.1 * epoch / bad if epoch % 4 == 0 else np.nan})
    return pd.DataFrame(rows)


def betas():
    draw = np.random.default_rng(0)
    rows = [(b, seed, *(0.6 + 0.02 * i + 0.01 * draw.normal(size=2)), 12, "done")
            for i, b in enumerate((0, 0.01, 0.1, 1.0)) for seed in range(3)]  # fmt: skip
    return pd.DataFrame(rows, columns=["beta", "seed", "knn", "probe_accuracy", "epochs", "status"])


def comparison():
    """Two small networks, 3 by 4 layers, in ten batches."""

    def network(*channels):
        ends = zip(channels, channels[1:])
        return torch.nn.Sequential(*[torch.nn.Conv2d(i, o, 3, padding=1) for i, o in ends]).eval()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        both = {"small": network(3, 4, 4, 4), "wide": network(3, 6, 6, 6, 6)}
        x = torch.rand(60, 3, 6, 6)
    return compare(both, x, measures=["cka", "rbf_cka"], batch_size=6)


def every():
    """Every public widget by name."""
    data = images()
    live = widgets.live_curves(8, {"pixels": 0.4})
    live.on_epoch(HISTORY)
    recipe = RECIPES["simsiam-imagenet"]
    return {
        "two_view_explorer": widgets.two_view_explorer(
            data.train.images[:4], data.normalize, recipe
        ),
        "live_curves": live,
        "epoch_scrubber": widgets.epoch_scrubber(maps(), LABELS, CLASSES),
        "neighbour_browser": widgets.neighbour_browser(encoded(), data),
        "budget_slider": widgets.budget_slider(budgets()),
        "collapse_switches": widgets.collapse_switches(collapses()),
        "sim_beta": widgets.sim_beta(betas()),
        "cka_playground": widgets.cka_playground(),
        "layer_heatmap": widgets.layer_heatmap(comparison()),
    }
