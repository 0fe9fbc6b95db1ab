"""What the training loop costs beside its bare step, and what lower precision saves.

    python benchmarks/bench_train.py [--rounds 11] [--steps 40] [--resnet-steps 16]

1. The loop (`fit`: batches, views, optimizer, log, checkpoint) against the bare step that anybody
   would write: views on the device, forward, backward, optimizer. The default network with 64
   scattered images a step, and ResNet-18 with 64 colour images of 32 x 32. The loop's share of the
   bare speed is 1 where it costs nothing; it may exceed 1, for it makes the views of several small
   batches at once. The time of the measures on the features is reported separately.
2. A SimSiam step with ResNet-18, 128 colour images of 32 x 32: bfloat16 with channels_last over
   plain float32, only where the processor multiplies in bfloat16.

Both sides of a ratio run in turn, in this one process; the table holds the medians of all rounds,
and of the ratios the median, the lowest and the highest.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from timing import Call, Ratio, machine, paired_rounds

from simlab.augment import parse_augment, two_views
from simlab.compute.devices import autocast, cpu_has_bfloat16, resolve_device
from simlab.config import PretrainConfig
from simlab.data import Dataset, Images, load_data
from simlab.methods import SimSiam
from simlab.models import build_encoder
from simlab.runs import claim
from simlab.train import build_optimizer, build_task, resolve
from simlab.train.callbacks import Watchers
from simlab.train.loop import fit

RESULTS = Path(__file__).parent / "results" / "train.md"
DEVICE = resolve_device("auto")


def images_for(encoder: str, number: int) -> Dataset:
    """As many scattered images for the default network, colour noise for ResNet-18."""
    if encoder == "tiny":
        data = load_data("fashion-scattered")
        chosen = torch.arange(number) % len(data.train)
        return Dataset(data.name, data.train.select(chosen), data.test)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (number, 3, 32, 32), generator=generator, dtype=torch.uint8)
    noise = Images(pixels, torch.zeros(number, dtype=torch.long), ("noise",))
    return Dataset("noise", noise, noise)


def loop_and_bare(encoder: str, steps: int, batch_size: int) -> tuple[Call, Call]:
    """Two calls that each train for `steps` steps: the loop, and the bare step."""
    data = images_for(encoder, steps * batch_size).to(DEVICE)
    config = PretrainConfig(epochs=1, encoder=encoder, batch_size=batch_size)
    config = resolve(config, data)
    task = build_task(config, data)
    task.monitor.measure = lambda network, epoch: {}  # timed on its own
    network = task.network.to(DEVICE).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config, network.parameter_groups(), network.encoder)
    augment = parse_augment(config.augment)
    generator = torch.Generator(DEVICE)

    def loop() -> None:
        with tempfile.TemporaryDirectory() as folder, claim("bench", config, {}, folder) as run:
            fit(task, config, run, DEVICE, Watchers(run), progress=False)

    def bare() -> None:
        network.train()
        order = torch.randperm(len(data.train))
        for index in order.split(batch_size):
            images = data.train.images[index]
            views = two_views(images, augment, data.normalize, config.view_size, generator)
            with autocast(config.precision, DEVICE):
                loss = network.loss(views, generator, 0.0)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return loop, bare


def seconds_of_measures() -> tuple[float, float]:
    """Seconds to measure z on a sample of the images, without kNN and with it."""
    data = load_data("fashion-scattered").to(DEVICE)
    task = build_task(resolve(PretrainConfig(), data), data)
    task.network.to(DEVICE)
    seconds = []
    for epoch in (2, 5):  # kNN is due after the second of them
        start = time.perf_counter()
        task.monitor.measure(task.network, epoch)
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def resnet18_steps(rounds: int, batch: int = 128) -> dict[str, list[float]]:
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
    for round_ in range(rounds + 1):
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


def loop_row(name: str, ratio: Ratio, images: int) -> str:
    """A row of the table: speeds of the loop and of the bare step, and their ratio."""
    return (
        f"| {name} | {images / ratio.ours:,.0f} | {images / ratio.peers:,.0f} "
        f"| {ratio.median:.2f} | {ratio.low:.2f} .. {ratio.high:.2f} |"
    )


def precision_rows(speeds: dict[str, list[float]]) -> list[str]:
    """The table of the two precisions, or why there is none."""
    if "bfloat16" not in speeds:
        return ["This processor emulates bfloat16, so it was not measured."]
    pairs = zip(speeds["bfloat16"], speeds["float32"], strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    return [
        "| ResNet-18 step, 128 images | images/s | ratio |",
        "|---|---|---|",
        f"| float32 | {statistics.median(speeds['float32']):,.0f} | 1.00 |",
        f"| bfloat16, channels_last | {statistics.median(speeds['bfloat16']):,.0f} | {ratio:.2f} |",
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--resnet-steps", type=int, default=16)
    arguments = parser.parse_args()
    rounds = arguments.rounds
    sizes = {"tiny": arguments.steps, "resnet18": arguments.resnet_steps}
    names = {"tiny": "default network", "resnet18": "ResNet-18"}
    lines = [
        f"`python benchmarks/bench_train.py --rounds {rounds} --steps {arguments.steps} "
        f"--resnet-steps {arguments.resnet_steps}`: {machine()}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, "
        f"{'with' if cpu_has_bfloat16() else 'without'} native bfloat16. Medians of {rounds} "
        "paired rounds; 64 images a step.",
        "",
        "| training | loop, images/s | bare step, images/s | loop's share | rounds |",
        "|---|---|---|---|---|",
    ]
    for encoder, steps in sizes.items():
        ratio = paired_rounds(*loop_and_bare(encoder, steps, 64), rounds)
        lines.append(loop_row(names[encoder], ratio, steps * 64))
        print(lines[-1], flush=True)
    z, knn = seconds_of_measures()
    lines += [
        "",
        f"Measuring comes on top: z after every epoch {z:.2f} s, with kNN after every fifth "
        f"{knn:.2f} s.",
        "",
    ]
    if cpu_has_bfloat16():
        lines += precision_rows(resnet18_steps(rounds))
    else:
        lines += precision_rows({})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
