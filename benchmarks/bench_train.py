"""What training costs beside the network itself, and what lower precision saves.

    python benchmarks/bench_train.py

1. The default network: pictures a second of the whole training loop (batches, two views, optimizer,
   bookkeeping) over those of the bare forward and backward pass on ready-made views.
2. SimSiam with ResNet-18 on 32 x 32 colour pictures: bfloat16 with channels_last over plain float32,
   only where the processor multiplies in bfloat16.

Both sides of a ratio run in turn, in this one process; the table holds medians.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from simlab.config import PretrainConfig
from simlab.data import load_data
from simlab.devices import autocast, cpu_has_bfloat16, resolve_device
from simlab.models import build_encoder
from simlab.runs import claim
from simlab.simsiam import SimSiam, SimSiamLoss
from simlab.tasks import Pretraining
from simlab.train import fit, resolve

RESULTS = Path(__file__).parent / "results" / "train.md"
PICTURES, ROUNDS = 2560, 5


def loop_against_bare() -> tuple[float, float]:
    """Pictures a second: the training loop, and forward + backward alone."""
    device = resolve_device("auto")
    data = load_data("fashion-scattered")
    data = dataclasses.replace(data, train=data.train.subset(torch.arange(PICTURES))).to(device)
    config = resolve(PretrainConfig(epochs=1), data)
    c = config
    encoder, dim = build_encoder(c.encoder, 1, 32, c.stem)
    task = Pretraining(config, data, encoder, dim)
    task.measure = lambda epoch: {}  # measuring features is not training
    loss_of = SimSiamLoss()
    x1, x2 = (torch.randn(c.batch_size, 1, c.view_size, c.view_size, device=device) for _ in "12")
    x1, x2 = (x.contiguous(memory_format=torch.channels_last) for x in (x1, x2))
    steps = PICTURES // c.batch_size
    loop, bare = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder, claim("bench", config, {}, folder) as run:
            start = time.perf_counter()
            fit(task, config, run, device, progress=False)
            loop.append(steps * c.batch_size / (time.perf_counter() - start))
        task.network.train()
        start = time.perf_counter()
        for _ in range(steps):
            with autocast(config.precision, device):
                loss = loss_of(task.network(x1), task.network(x2))
            task.network.zero_grad()
            loss.backward()
        bare.append(steps * c.batch_size / (time.perf_counter() - start))
    return statistics.median(loop), statistics.median(bare)


def resnet18_step(precision: str, memory_format: torch.memory_format, batch: int = 32) -> float:
    """Pictures a second of one SimSiam step with ResNet-18."""
    device = resolve_device("auto")
    encoder, dim = build_encoder("resnet18", 3, 32)
    network = SimSiam(encoder, dim).to(device, memory_format=memory_format)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    views = torch.randn(2, batch, 3, 32, 32, device=device)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        with autocast(precision, device):
            x1, x2 = (x.contiguous(memory_format=memory_format) for x in views)
            loss = SimSiamLoss()(network(x1), network(x2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds[1:])


def main():
    loop, bare = loop_against_bare()
    rows = [("default network, training loop", loop, loop / bare),
            ("default network, bare forward + backward", bare, 1.0)]  # fmt: skip
    plain = resnet18_step("float32", torch.contiguous_format)
    rows.append(("ResNet-18 step, float32", plain, 1.0))
    if cpu_has_bfloat16():
        fast = resnet18_step("bfloat16", torch.channels_last)
        rows.append(("ResNet-18 step, bfloat16, channels_last", fast, fast / plain))
    lines = [
        f"`python benchmarks/bench_train.py`: torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, "
        f"{'with' if cpu_has_bfloat16() else 'without'} native bfloat16\n",
        "| work | pictures/s | ratio |", "|---|---|---|",
        *(f"| {name} | {speed:,.0f} | {ratio:.2f} |" for name, speed, ratio in rows),
    ]  # fmt: skip
    if not cpu_has_bfloat16():
        lines.append("\nThis processor emulates bfloat16, so it was not measured.")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
