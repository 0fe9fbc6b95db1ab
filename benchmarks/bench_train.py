"""What training costs beside the network itself, and what lower precision saves.

    python benchmarks/bench_train.py

1. The default network, one epoch of the default run: images per second of the whole training loop
   (batches, two views, optimizer, log, checkpoint) over those of the bare forward and backward pass
   on ready-made views. The time of the measures on the features is reported separately.
2. A SimSiam step with ResNet-18, 128 colour images of 32 x 32: bfloat16 with channels_last over
   plain float32, only where the processor multiplies in bfloat16.

Both sides of a ratio run in turn, in this one process; the table holds the medians of all rounds, and
the ratio is the median of each round's.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from simlab.compute.devices import autocast, cpu_has_bfloat16, resolve_device
from simlab.config import PretrainConfig
from simlab.data import load_data
from simlab.methods import SimSiam
from simlab.models import build_encoder
from simlab.runs import claim
from simlab.train import build_task, resolve
from simlab.train.callbacks import Watchers
from simlab.train.loop import fit

RESULTS = Path(__file__).parent / "results" / "train.md"
ROUNDS = 11
DEVICE = resolve_device("auto")


def loop_against_bare() -> tuple[list[float], list[float], list[float]]:
    """Images a second of each round, of the loop and of forward + backward.

    And seconds to measure z on a sample of the images, without kNN and with it.
    """
    data = load_data("fashion-scattered").to(DEVICE)
    config = resolve(PretrainConfig(epochs=1), data)
    task = build_task(config, data)
    measure = task.monitor.measure
    task.monitor.measure = lambda network, epoch: {}
    generator = torch.Generator(DEVICE)
    views = torch.randn(2, config.batch_size, 1, config.view_size, config.view_size, device=DEVICE)
    x1, x2 = (x.contiguous(memory_format=torch.channels_last) for x in views)
    steps = len(data.train) // config.batch_size
    loop, bare = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder, claim("bench", config, {}, folder) as run:
            start = time.perf_counter()
            fit(task, config, run, DEVICE, Watchers(run), progress=False)
            loop.append(steps * config.batch_size / (time.perf_counter() - start))
        task.network.train()
        start = time.perf_counter()
        for _ in range(steps):
            with autocast(config.precision, DEVICE):
                loss = task.network.loss((x1, x2), generator, 0.0)["loss"]
            task.network.zero_grad()
            loss.backward()
        bare.append(steps * config.batch_size / (time.perf_counter() - start))
    seconds = []
    for epoch in (2, 5):  # kNN is due after the second of them
        start = time.perf_counter()
        measure(task.network, epoch)
        seconds.append(time.perf_counter() - start)
    return loop, bare, seconds


def resnet18_steps(batch: int = 128) -> dict[str, list[float]]:
    """Images a second of each SimSiam step with ResNet-18, in float32 and in bfloat16."""
    kinds = {"float32": torch.contiguous_format, "bfloat16": torch.channels_last}
    if not cpu_has_bfloat16():
        del kinds["bfloat16"]
    made, speeds = {}, {precision: [] for precision in kinds}
    for precision, layout in kinds.items():
        encoder, dim = build_encoder("resnet18", 3, 32)
        paper = SimSiam(proj_layers=2, proj_dim=2048, pred_dim=512)
        network = paper.build(encoder, dim).to(DEVICE, memory_format=layout)
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, fused=True)
        made[precision] = network, optimizer  # fused in both, as pretrain's
    views = torch.randn(2, batch, 3, 32, 32, device=DEVICE)
    for round_ in range(ROUNDS + 1):
        for precision, (network, optimizer) in made.items():
            start = time.perf_counter()
            with autocast(precision, DEVICE):
                x1, x2 = (x.contiguous(memory_format=kinds[precision]) for x in views)
                loss = network.loss((x1, x2), torch.Generator(DEVICE), 0.0)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if round_:  # the first one warms up
                speeds[precision].append(batch / (time.perf_counter() - start))
    return speeds


def row(name: str, speeds: list[float], reference: list[float]) -> str:
    ratio = statistics.median(a / b for a, b in zip(speeds, reference, strict=True))
    return f"| {name} | {statistics.median(speeds):,.0f} | {ratio:.2f} |"


def main():
    loop, bare, (z, knn) = loop_against_bare()
    resnet = resnet18_steps()
    epoch = len(load_data("fashion-scattered").train) / statistics.median(loop)
    config = PretrainConfig()
    with_knn = -(-config.epochs // config.monitor_every)  # the last epoch has one as well
    measuring = (config.epochs - with_knn) * z + with_knn * knn
    share = measuring / (config.epochs * epoch + measuring)
    lines = [
        f"`python benchmarks/bench_train.py`: torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, "
        f"{'with' if cpu_has_bfloat16() else 'without'} native bfloat16. Medians of {ROUNDS} rounds.\n",
        "| work | images/s | ratio |", "|---|---|---|",
        row("default network, training loop", loop, bare),
        row("default network, bare forward + backward", bare, bare),
        row("ResNet-18 step, float32", resnet["float32"], resnet["float32"]),
    ]  # fmt: skip
    if "bfloat16" in resnet:
        name = "ResNet-18 step, bfloat16, channels_last"
        lines.append(row(name, resnet["bfloat16"], resnet["float32"]))
    else:
        lines.append("\nThis processor emulates bfloat16, so it was not measured.")
    lines += [
        "",
        f"Measuring comes on top: z after every epoch {z:.2f} s, with kNN after every fifth "
        f"{knn:.2f} s, {share:.0%} of the default run's time.",
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
