"""kNN accuracy over wall time: lightly's recipe for CIFAR-10 and simlab's speedrun, in one run.

    python benchmarks/time_to_accuracy.py --data FOLDER --minutes 10 --images "CIFAR-10 (JPEG copy)"

Each side trains for so many minutes on two cores, one after the other, from the same files; the
clock stands still while kNN is measured. lightly: SimCLR as in its benchmark of CIFAR-10
(ResNet-18, batch 128, SGD .06, two crops by SimCLRTransform without blur, NTXentLoss), its images
read from the folder by two loader processes, its cosine stretched over the minutes. simlab: the
defaults of `speedrun.py`, with its whitening layer and without. The accuracies are those of a smaller
bank and fewer queries, the same for both, since ResNet-18's features of all images would take longer
than its training. Writes results/time_to_accuracy.png, .csv and .md.
"""

import argparse
import copy
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import pandas as pd
import speedrun
import torch
from matplotlib.figure import Figure
from timing import machine, versions
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from simlab.augment import Normalize
from simlab.data import Dataset, Images, load_folder
from simlab.evaluate import MirrorAveraged, Whitened, features, knn_accuracy

RESULTS = Path(__file__).parent / "results"
# shares of the time at which kNN is measured; the speedrun ends its steps at the last one
POINTS = (0.02, 0.1, 0.25, 0.5, 0.75, 1 - speedrun.WHITENING)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # lightly's
BATCH = 128
LR = 0.06


class Curve:
    """Measures kNN when a share of the time is over; `watch` returns the seconds it took.

    With `whitened_on`, images without labels, the speedrun's last layer is measured as well.
    """

    def __init__(
        self,
        name: str,
        minutes: float,
        bank: Images,
        queries: Images,
        k: int,
        whitened_on: Images | None = None,
    ) -> None:
        self.name, self.whitened_on = name, whitened_on
        self.due = [60 * minutes * share for share in POINTS]
        self.bank, self.queries, self.k = bank, queries, k
        self.rows: list[dict[str, float | str]] = []

    def watch(self, encoder: nn.Module, seconds: float) -> float:
        if not self.due or seconds < self.due[0]:
            return 0.0
        start = time.monotonic()
        self.due = [moment for moment in self.due if moment > seconds]
        self.measure(self.name, encoder, seconds)
        if self.whitened_on is not None:
            averaged = MirrorAveraged(copy.deepcopy(encoder))
            whitened = Whitened(averaged, self.whitened_on)
            self.measure(f"{self.name}, whitened", whitened, seconds)
        return time.monotonic() - start

    def measure(self, name: str, encoder: nn.Module, seconds: float) -> None:
        """Add a row: kNN accuracy after so many seconds."""
        bank = features(encoder, self.bank)
        queries = features(encoder, self.queries)
        knn = knn_accuracy(bank, self.bank.labels, queries, self.queries.labels, self.k)
        self.rows.append({"library": name, "seconds": seconds, "knn": knn})
        print(f"{name}: {seconds:.0f} s, kNN {knn:.4f}", flush=True)


# -------------------------------------------------------------------------------------- lightly's


class Backbone(nn.Module):
    """lightly's ResNet for 32 x 32 without its classifier: [N, 3, H, W] -> [N, D]."""

    def __init__(self, name: str) -> None:
        super().__init__()
        from lightly.models import ResNetGenerator

        layers = list(ResNetGenerator(name).children())[:-1]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten(1)


def batches_forever(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        for views, _ in loader:
            yield views[0], views[1]


def train_lightly(
    folder: str, minutes: float, batch: int, watch: Callable[[nn.Module, float], float]
) -> None:
    """Train lightly's SimCLR, and let `watch` measure."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules.heads import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    torch.manual_seed(0)
    view = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    images = ImageFolder(str(Path(folder) / "train"), view)
    loader = DataLoader(
        images, batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    batches = batches_forever(loader)
    next(batches)  # the loader's processes are started before the clock is
    start = time.monotonic()
    backbone = Backbone("resnet-18")
    head = SimCLRProjectionHead(512, 512, 128)
    criterion = NTXentLoss()
    weights = [*backbone.parameters(), *head.parameters()]
    lr = LR * batch / BATCH
    optimizer = torch.optim.SGD(weights, lr, momentum=0.9, weight_decay=5e-4)
    for x1, x2 in batches:
        done = (time.monotonic() - start) / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        loss = criterion(head(backbone(x1)), head(backbone(x2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds = time.monotonic() - start
        start += watch(backbone, seconds)
        if seconds >= 60 * minutes:
            return


# ------------------------------------------------------------------------------------------ figure


def draw(table: pd.DataFrame, minutes: float, images: str) -> Figure:
    """KNN accuracy over minutes, a line for each library."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    looks = {
        "simlab": ("#009E73", "-", "o"),
        "simlab, whitened": ("#009E73", ":", "^"),
        "lightly": ("#0072B2", "--", "s"),
    }
    for name, rows in table.groupby("library", sort=False):
        color, dashes, marker = looks[name]
        ax.plot(
            rows["seconds"] / 60, rows["knn"], color=color, ls=dashes, marker=marker, label=name
        )
    ax.set(xlabel="minutes of training", ylabel="kNN accuracy", xlim=(0, None), ylim=(0, None))
    ax.set_title(f"{images}, {minutes:g} minutes on two cores")
    ax.legend()
    return figure


def first_of_each_class(images: Images, number: int) -> Images:
    """As many images of each class, `number` at most, the first ones."""
    labels = images.labels
    each = max(1, number // len(images.classes))
    chosen = [(labels == c).nonzero()[:each, 0] for c in range(len(images.classes))]
    return images.select(torch.cat(chosen))


def lightlys(data: Dataset, images: Images) -> Images:
    """The same images with the normalisation that lightly trains with."""
    return images.with_normalize(Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder with train/ and test/")
    parser.add_argument("--images", default="", help="what they are called in figure and table")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--bank", type=int, default=5000, help="training images that vote")
    parser.add_argument("--queries", type=int, default=1000, help="test images")
    parser.add_argument("--batch-size", type=int, default=0, help="of both; 0: their own")
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    matplotlib.use("Agg")
    torch.set_num_threads(2)
    data = load_folder(a.data)
    bank = first_of_each_class(data.train, a.bank)
    queries = first_of_each_class(data.test, a.queries)
    k = min(20, len(bank))
    name = a.images or data.name

    chosen = torch.randperm(len(data.train))[: speedrun.WHITENED_ON]
    ours = Curve("simlab", a.minutes, bank, queries, k, whitened_on=data.train.subset(chosen))
    options = speedrun.Options(data=a.data, minutes=a.minutes)
    if a.batch_size:
        options = dataclasses.replace(options, batch_size=a.batch_size)
    speedrun.train(options, data, 0, ours.watch)
    theirs = Curve("lightly", a.minutes, lightlys(data, bank), lightlys(data, queries), k)
    train_lightly(a.data, a.minutes, a.batch_size or BATCH, theirs.watch)

    table = pd.DataFrame([*ours.rows, *theirs.rows])
    table.to_csv(a.out / "time_to_accuracy.csv", index=False)
    draw(table, a.minutes, name).savefig(a.out / "time_to_accuracy.png", dpi=150)
    last = table.groupby("library", sort=False)["knn"].last()
    installed = versions("torch", "lightly")
    text = [
        "# kNN accuracy over wall time",
        "",
        f"`python benchmarks/time_to_accuracy.py --data FOLDER --minutes {a.minutes:g}` on "
        f"{machine()}; {', '.join(f'{n} {v}' for n, v in installed.items())}. {name}; one seed; kNN "
        f"with k = {k}, {len(bank):,} training and {len(queries):,} test images. How each side trains "
        "is said at the head of the script. lightly's recipe is made for a GPU and hundreds of epochs: "
        "this is what two cores can do in that time, and says nothing of where either ends.",
        "",
        "![" + "; ".join(f"{name} ends at {value:.3f}" for name, value in last.items()) + "]"
        "(time_to_accuracy.png)",
        "",
        "| | seconds | kNN |",
        "|---|---|---|",
    ]
    text += [f"| {r.library} | {r.seconds:.0f} | {r.knn:.4f} |" for r in table.itertuples()]
    (a.out / "time_to_accuracy.md").write_text("\n".join(text) + "\n")
    print(" ".join(f"{name} {value:.4f}" for name, value in last.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
