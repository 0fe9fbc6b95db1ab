"""Compare the time of two views of 32 x 32 colour images: simlab, kornia, torchvision.

    python benchmarks/bench_augment.py [--rounds 7] [--batch 256]

The recipe is SimSiam's for CIFAR: random resized crop, flip, colour jitter, grey, normalise. From
uint8 images in memory to normalised float batches, in one process and one after the other; the
table holds medians, and the ratio is the median of each round's. torchvision works image by image,
as published code does, in two loader processes that are started before the clock is.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kornia
import torch
import torch.nn.functional as F
import torchvision
import torchvision.transforms.v2.functional as tv
from peer_views import MEAN, STD, kornia_view
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from simlab.augment import RECIPES, Normalize, adjust_hue, two_views

RESULTS = Path(__file__).parent / "results" / "augment.md"
CORES = 2
IMAGES = 4096


class TwoCrops(Dataset):
    """Each image as PIL has it, and two views of it."""

    def __init__(self, images: Tensor):
        self.arrays = images.permute(0, 2, 3, 1).numpy()
        self.view = T.Compose([
            T.ToPILImage(),
            T.RandomResizedCrop(32, scale=(0.2, 1.0)),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(0.2),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.view(self.arrays[index]), self.view(self.arrays[index])


def by_simlab(images: Tensor, batch: int) -> Callable[[], Iterator]:
    normalize = Normalize(torch.tensor(MEAN), torch.tensor(STD))
    recipe = RECIPES["simsiam-cifar"]
    return lambda: (two_views(block, recipe, normalize) for block in images.split(batch))


def by_kornia(images: Tensor, batch: int) -> Callable[[], Iterator]:
    view = kornia_view()
    return lambda: ((view(block / 255), view(block / 255)) for block in images.split(batch))


def by_torchvision(images: Tensor, batch: int) -> Callable[[], Iterator]:
    loader = DataLoader(TwoCrops(images), batch, num_workers=CORES, persistent_workers=True)
    return lambda: iter(loader)


def pairs_a_second(make: Callable[[], Iterator], number: int) -> float:
    start = time.perf_counter()
    for x1, x2 in make():
        assert x1.shape == x2.shape and x1.dtype == torch.float32
    return number / (time.perf_counter() - start)


def hue_errors(images: Tensor) -> dict[str, float]:
    """Greatest difference of each library's adjust_hue to torchvision's."""
    x = images[:20] / 255
    factors = torch.linspace(-0.5, 0.5, 20)
    expected = torch.cat([tv.adjust_hue(x[i : i + 1], float(f)) for i, f in enumerate(factors)])
    kornias = kornia.enhance.adjust_hue(x, factors * 2 * torch.pi)  # which counts in radians
    return {
        "simlab": float((adjust_hue(x, factors) - expected).abs().max()),
        "kornia": float((kornias - expected).abs().max()),
        "torchvision": 0.0,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 8, 8)
    images = (F.interpolate(coarse, 32, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    makers = {"simlab": by_simlab, "kornia": by_kornia, "torchvision": by_torchvision}
    makers = {name: make(images, arguments.batch) for name, make in makers.items()}
    speeds = {name: [] for name in makers}
    for round_ in range(arguments.rounds + 1):
        for name, make in makers.items():
            speed = pairs_a_second(make, IMAGES)
            if round_:  # the first one warms up and starts the processes
                speeds[name].append(speed)
    errors = hue_errors(images)
    rows = []
    for name, rounds in speeds.items():
        median = statistics.median(rounds)
        ratio = statistics.median(a / b for a, b in zip(speeds["simlab"], rounds, strict=True))
        rows.append(f"| {name} | {median:,.0f} | {ratio:.1f} | {errors[name]:.0e} |")
    cores = os.cpu_count()
    command = f"python benchmarks/bench_augment.py --rounds {arguments.rounds}"
    command += f" --batch {arguments.batch}"
    text = (
        f"""# Two views of 32 x 32 colour images

`{command}` on {cores} cores without a GPU, \
Python {platform.python_version()}, torch {torch.__version__}, \
torchvision {torchvision.__version__}, kornia {kornia.__version__}. \
Medians of {arguments.rounds} rounds.

| | pairs a second | simlab is faster by | greatest error of the hue |
|---|---|---|---|
"""
        + "\n".join(rows)
        + """

simlab draws everything for each image, the order of the colour jitter too; kornia draws that
order once for a batch. torchvision: image by image, in two loader processes.
"""
    )
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
