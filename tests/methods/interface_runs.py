"""A run of every method in small. Run as a script, this file is what two processes do."""

import contextlib
import linecache
import multiprocessing
import os
import re
import signal
import socket
import sys
from pathlib import Path

import torch
from torch import nn

from simlab import methods
from simlab.compute import distributed, gradients
from simlab.config import PretrainConfig
from simlab.data import from_arrays
from simlab.train import loop, optim, pretrain

ROOT = Path(__file__).parents[2]
# the line that each of them is
SKETCHES = {
    "masked": methods.Entry("sketch_masked", "Masked", "hidden pixels are predicted"),
}
SMALL = {
    "encoder": "tiny", "view_size": 8, "epochs": 2, "batch_size": 24,
    "lr": 0.05, "precision": "float32", "device": "cpu", "threads": 1, "monitor_every": 2,
    "knn_k": 5,
}  # fmt: skip
HEADS = "hidden_dim=16 proj_dim=8"
FAMILY = {
    "barlow_twins": f"barlow_twins {HEADS}",
    "byol": f"byol {HEADS} momentum=0.5",
    "dino": "dino hidden_dim=16 bottleneck_dim=8 outputs=12 momentum=0.5 local_views=2 freeze=0.2"
    " student_temperature=0.5 teacher_temperature=0.2",
    "emp_ssl": f"emp_ssl {HEADS} views=3 weight=2 lr_factor=1",
    "lejepa": f"lejepa {HEADS} directions=16",
    "ijepa": "ijepa targets=2 predictor_width=12 predictor_depth=1 momentum=0.5",
    "mae": "mae decoder_width=12 decoder_depth=1 ratio=0.5",
    "moco": f"moco {HEADS} queue=24 momentum=0.5",
    "rotation": "rotation",
    "simclr": "simclr proj_dim=8 head_bn=hidden",
    "simmim": "simmim hidden_dim=16 patch=2",
    "swav": f"swav {HEADS} prototypes=12 local_views=1 queue=20 freeze=0.2",
    "vicreg": f"vicreg {HEADS} lr_factor=1",
    "w_mse": "w_mse hidden_dim=16 proj_dim=2 epsilon=0.1",
}
VIT = {"encoder": "vit_tiny", "view_size": 16}  # in 4 x 4 patches
RUNS = {name: {"method": text} for name, text in FAMILY.items()} | {
    "ijepa": {"method": FAMILY["ijepa"]} | VIT,
    "mae": {"method": FAMILY["mae"]} | VIT,
    # (few standardised tokens are little more than signs: rounding would change them)
    "byol with SIM": {
        "method": FAMILY["byol"], "sim_layers": "blocks.0", "sim_tokens": 8.0, "sim_loss": "mse",
    },
    "byol in parts": {"method": FAMILY["byol"], "accumulate": 2},
    "dino in parts": {"method": FAMILY["dino"], "accumulate": 2},
    "moco in parts": {"method": FAMILY["moco"] + " symmetric=true", "accumulate": 2},
    "swav in parts": {"method": FAMILY["swav"], "accumulate": 2},
    "simsiam, frozen": {"method": "simsiam proj_dim=16 pred_dim=8", "lr_encoder": 0.0},
    "simsiam, a layer unused": {"method": "simsiam proj_dim=16 pred_dim=8", "accumulate": 2},
    "masked": {"method": "masked ratio=0.25"},
    "the README's": {},
    "the README's view": {"method": "simsiam proj_dim=16 pred_dim=8"},
    "the README's loss": {},
}  # fmt: skip
# what torch's exchange of gradients may treat in another way: parts of a batch without an exchange,
# weights without a gradient, a loss beside the method's, crops of two sizes, a queue
UNUSUAL = (
    "byol with SIM", "dino", "moco in parts", "swav in parts", "simsiam, frozen",
    "simsiam, a layer unused",
)  # fmt: skip
STOPPED = ("byol with SIM", "swav in parts", "moco in parts")


def data():
    """Images so uneven that a loss which loses those of the other process is another one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (56, 3, 8, 8), generator=generator)
    brightness = torch.rand(56, 1, 1, 1, generator=generator)
    images = (images * brightness).to(torch.uint8)
    labels = torch.arange(56) % 4
    return from_arrays(images[:48], labels[:48], images[48:], labels[48:])


class SpareLayer(nn.Module):
    """An encoder whose forward pass leaves a layer out: its weights have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.conv = nn.Conv2d(3, 12, 3, stride=2)
            self.norm = nn.BatchNorm2d(12)
            self.spare = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [N, 3, S, S] -> [N, 12]
        return self.norm(self.conv(x)).relu().mean((2, 3))


def of_the_readme(heading, name):
    """What a block of the README's section defines, as if it stood in a file of its own."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## A method, a view")[1]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (block,) = [text for text in blocks if heading in text]
    definitions = block.split("\nimages = load_data")[0]
    scope = {"__name__": "readme"}
    file = f"<{heading}>"
    # where inspect finds the source, as it finds that of a notebook's cell
    linecache.cache[file] = (len(definitions), None, definitions.splitlines(keepends=True), file)
    exec(compile(definitions, file, "exec"), scope)
    return scope[name]


def train(name, folder, changes=None, **options):
    if name == "the README's":
        options["method"] = of_the_readme("class Spread", "Spread")(weight=2.0, dim=8)
    if name == "the README's view":
        options["augment"] = of_the_readme("def erase", "erase")
    if name == "the README's loss":
        smooth = of_the_readme("class Smooth", "SmoothSimSiam")
        options["method"] = smooth(beta=0.5, proj_dim=16, pred_dim=8)
    if name == "simsiam, a layer unused":
        options["encoder"] = SpareLayer()
    recipe = {} if "augment" in options else {"augment": "simsiam-cifar"}
    config = PretrainConfig(**SMALL | recipe | RUNS[name] | (changes or {}))
    return pretrain(config, data(), folder=str(folder), progress=False, **options)


def stop(history):
    raise KeyboardInterrupt


def train_together(folder):
    """Every run by our exchange of gradients, unusual ones by torch's; some of these stopped too."""
    train_by("ours", RUNS, folder)
    train_by("ddp", UNUSUAL, folder)
    for name in STOPPED:
        with contextlib.suppress(KeyboardInterrupt):
            train(name, folder / "stopped", on_epoch=stop)
        train(name, folder / "stopped")


def train_the_others(folder):
    """The runs that `train_together` leaves out."""
    train_by("ddp", [name for name in RUNS if name not in UNUSUAL], folder)


def train_by(exchange, names, folder):
    """Train by one exchange of gradients, and write down which of its classes was at work."""
    os.environ["SIMLAB_DDP"] = {"ours": "0", "ddp": "1"}[exchange]
    data_parallel = gradients.data_parallel
    classes = set()

    def noted(*arguments):
        wrapped = data_parallel(*arguments)
        classes.add(type(wrapped).__name__)
        return wrapped

    gradients.data_parallel = noted
    for name in names:
        train(name, folder / exchange)
    gradients.data_parallel = data_parallel
    if distributed.rank() == 0:
        (folder / exchange / "classes").write_text(" ".join(classes))


def as_rank(rank, port, work, folder):
    """Be one of two processes, with the variables that torchrun would have set."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    methods.METHODS.update(SKETCHES)
    work(folder)


def in_two_processes(work, folder):
    """Do the work in two processes, with one import of everything for both."""
    import torch._dynamo  # noqa: F401 (or each imports it at its optimizer's first step)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=as_rank, args=(i, port, work, folder)) for i in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(any(process.exitcode for process in ranks))


def train_killed_and_resumed(name, folder):
    """Train in a process that is killed in the second epoch, and then to the end in this one."""
    child = os.fork()
    if child == 0:
        steps = iter(range(4))

        def set_lr(*arguments):
            if next(steps) == 3:  # of two steps an epoch
                os.kill(os.getpid(), signal.SIGKILL)
            return optim.set_lr(*arguments)

        loop.set_lr = set_lr
        train(name, folder)
        os._exit(1)  # it should not live that long
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, f"{name}: {status}"
    train(name, folder)


def train_each_killed(folder):
    methods.METHODS.update(SKETCHES)
    for name in FAMILY:
        train_killed_and_resumed(name, folder)


if __name__ == "__main__":
    import interface_runs  # so that its classes have the names that they have in the tests

    torch.set_num_threads(1)
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "killed":
        interface_runs.train_each_killed(place)
    elif what == "others":
        interface_runs.in_two_processes(interface_runs.train_the_others, place)
    else:
        interface_runs.in_two_processes(interface_runs.train_together, place)
