"""Whether the exchange of gradients between processes overlaps with the backward pass.

    python benchmarks/bench_exchange.py

SimSiam steps of a ResNet-50 by two gloo processes on this machine's CPUs, with simlab's own exchange
(after the backward pass) and with torch's DistributedDataParallel, in turn. The profiler of torch
records when gradients leave and arrive. Overlapped is the time that they are on their way while
others are still computed: before the last of them leaves.
"""

import argparse
import math
import multiprocessing
import os
import socket
import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from simlab.compute import distributed, gradients
from simlab.methods import SimSiam
from simlab.models import build_encoder

RESULTS = Path(__file__).parent / "results" / "exchange.md"
CPU = torch.device("cpu")
EXCHANGES = {"ours": "0", "DistributedDataParallel": "1"}
LARGE = 100_000  # numbers; what BatchNorm exchanges is smaller


def build(encoder):
    torch.manual_seed(0)
    built, dim = build_encoder(encoder, 3, 32, "small")
    paper = SimSiam(proj_layers=3, proj_dim=2048, pred_dim=512)
    network = paper.build(built, dim).to(memory_format=torch.channels_last)
    return distributed.with_global_batch_norm(network, CPU)


def step(losses, views):
    losses(views, torch.Generator(), 0.0)["loss"].backward()
    gradients.average_gradients(losses)
    losses.zero_grad()


def timed(losses, views):
    """Seconds of a step, and seconds of this process on the processor."""
    dist.barrier()
    before = os.times()
    start = time.perf_counter()
    step(losses, views)
    seconds = time.perf_counter() - start
    after = os.times()
    return seconds, after.user + after.system - before.user - before.system


def exchanged(losses, views):
    """(start, end) of each exchange of gradients in a step, in microseconds."""
    dist.barrier()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        step(losses, views)
    return [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.name == "gloo:all_reduce" and numbers_in(event.input_shapes) > LARGE
    ]


def numbers_in(shapes):
    """How many numbers are in tensors of these shapes, which may be lists of lists."""
    if shapes and all(isinstance(length, int) for length in shapes):
        return math.prod(shapes)
    return sum(numbers_in(shape) for shape in shapes if isinstance(shape, list | tuple))


def overlapped(spans):
    """The part of the exchanges' time that had passed when the last of them started."""
    last = max(start for start, _ in spans)
    total = sum(end - start for start, end in spans)
    return sum(max(0, min(end, last) - start) for start, end in spans) / total


def work(rank, port, options, queue):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    distributed.start()
    made = {}
    for name, switch in EXCHANGES.items():
        os.environ["SIMLAB_DDP"] = switch
        network = build(options.encoder)
        made[name] = gradients.data_parallel(network, network.loss, CPU)
    views = [torch.randn(options.batch // 2, 3, 32, 32) for _ in range(2)]
    times = {name: [] for name in made}
    spans = {name: [] for name in made}
    for round_ in range(options.rounds + 2):  # two that warm up: one makes the buckets anew
        for name, losses in made.items():
            if round_ < 2:
                step(losses, views)
                continue
            times[name].append(timed(losses, views))
            spans[name].append(exchanged(losses, views))
    if rank == 0:
        queue.put((times, spans))


def row(name, times, spans):
    seconds, processor = (statistics.median(each) for each in zip(*times, strict=True))
    number = statistics.median(len(each) for each in spans)
    share = statistics.median(overlapped(each) for each in spans)
    on_the_way = statistics.median(sum(end - start for start, end in each) for each in spans) / 1e6
    return f"| {name} | {seconds:.2f} | {processor:.2f} | {number:.0f} | {on_the_way:.2f} | {share:.0%} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    ranks = [context.Process(target=work, args=(i, port, options, queue)) for i in range(2)]
    for process in ranks:
        process.start()
    times, spans = queue.get()
    for process in ranks:
        process.join()
    lines = [
        f"`python benchmarks/bench_exchange.py`: {options.encoder}, batch {options.batch}, two gloo "
        f"processes with a thread each, torch {torch.__version__}. Medians of {options.rounds} rounds.\n",
        "| exchange | s a step | s of the processor | exchanges | s on the way, added up | overlapped |",
        "|---|---|---|---|---|---|",
        *(row(name, times[name], spans[name]) for name in EXCHANGES),
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
