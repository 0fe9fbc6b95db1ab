"""Every method's ten steps on a GPU with the draws of a CPU. By torchrun: on several GPUs.

SIMLAB_GPU_TESTS_ON_CPU=1    all of it on the CPU instead, where nothing is learned of GPUs; it
                             shows that the tests themselves run
"""

import contextlib
import os
import sys
from pathlib import Path

import torch
from interface_runs import RUNS, SKETCHES, train

from simlab import methods

DRY = os.environ.get("SIMLAB_GPU_TESTS_ON_CPU") == "1"
DEVICE = "cpu" if DRY else "cuda"
TEN_STEPS = {"epochs": 5, "batch_size": 24, "monitor_every": 5}  # two steps an epoch
DRAWS = ("rand", "randint", "randn", "randperm")  # all that is drawn of a generator


@contextlib.contextmanager
def draws_of_the_cpu():
    """Let a generator on a GPU draw what one on the CPU with the same seed would draw."""
    original = {name: getattr(torch, name) for name in DRAWS}
    twins = {}  # the generator is kept beside its twin, so that its id is not given away

    def twin_of(generator):
        if id(generator) not in twins:
            twin = torch.Generator().manual_seed(generator.initial_seed())
            twins[id(generator)] = generator, twin
        return twins[id(generator)][1]

    def drawing(draw):
        def drawn(*shape, generator=None, device=None, **others):
            if generator is None:
                return draw(*shape, device=device, **others)
            on_cpu = draw(*shape, generator=twin_of(generator), **others)
            return on_cpu.to(device or generator.device)

        return drawn

    for name, draw in original.items():
        setattr(torch, name, drawing(draw))
    try:
        yield
    finally:
        for name, draw in original.items():
            setattr(torch, name, draw)


def full_float32():
    """Multiply in float32, not in TF32, whose ten bits would hide a wrong result."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def ten_steps(name, device, folder, changes=None, **options):
    changes = TEN_STEPS | {"device": device} | (changes or {})
    with draws_of_the_cpu():
        return train(name, folder, changes, **options)


if __name__ == "__main__":
    methods.METHODS.update(SKETCHES)
    torch.set_num_threads(1)
    full_float32()
    if DRY:
        os.environ["SIMLAB_DDP"] = "1"
    for run_name in RUNS:
        ten_steps(run_name, DEVICE, Path(sys.argv[1]))
