"""GPUs for the points that run here: each point sees one, and many points share them evenly."""

import contextlib
import dataclasses
import os
import queue
from collections.abc import Iterator

import torch

from .point import Task

ANY_GPU = ("auto", "cuda")  # values of the parameter `device` that leave the choice open


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine, as CUDA_VISIBLE_DEVICES names them; it may have chosen."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    names = [name.strip() for name in chosen.split(",")]
    return [name for name in names if name not in ("", "-1")]


def deal(jobs: int, gpus: list[str]) -> list[str]:
    """Return the GPU of each of the points that run at once, round after round; "" without any."""
    if not gpus:
        return [""] * jobs
    return [gpus[job % len(gpus)] for job in range(jobs)]


class Dealer:
    """Hands a GPU to each point that begins, and takes it back when the point ends.

    Args:
        hands: What `deal` returned: as many points run at once.
    """

    def __init__(self, hands: list[str]) -> None:
        self.free: queue.Queue[str] = queue.Queue()
        for gpu in hands:
            self.free.put(gpu)

    @contextlib.contextmanager
    def with_gpu(self, task: Task) -> Iterator[Task]:
        """Give the task that sees one GPU; one whose `device` says which sees all of them."""
        gpu = self.free.get()
        is_open = task.parameters.get("device", "auto") in ANY_GPU
        environment = task.environment
        if gpu and is_open:
            environment = environment | {"CUDA_VISIBLE_DEVICES": gpu}
        try:
            yield dataclasses.replace(task, environment=environment)
        finally:
            self.free.put(gpu)
