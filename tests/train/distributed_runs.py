"""What several processes train and find. Run as a script by torchrun, this file is their work."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn as nn
import twins
from PIL import Image

from simlab.compute import distributed
from simlab.compute.distributed import with_global_batch_norm
from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, from_arrays, load_data
from simlab.data.folders import load_folder
from simlab.methods.simclr import nt_xent
from simlab.methods.simsiam import SimSiamModule
from simlab.train import loading, pretrain, train_supervised
from simlab.train.custom import Parts

ROOT = Path(__file__).parents[2]
WORK = str(ROOT / "tests" / "train" / "distributed_runs.py")  # to be run as a script
SMALL = {
    "encoder": "tiny", "view_size": 8, "epochs": 2, "batch_size": 12, "lr": 0.2, "momentum": 0.9,
    "precision": "float32", "device": "cpu", "threads": 1, "optimizer": "sgd",
}  # fmt: skip
HEADS = {
    "method": "simsiam proj_dim=16 pred_dim=8 pred_lr=2", "knn_k": 5, "monitor_every": 1,
}  # fmt: skip
SIMCLR = "simclr proj_dim=16"
PRETRAINING = {
    "simsiam": {},
    "simclr": {"method": SIMCLR},
    "accumulated": {"accumulate": 2, "method": SIMCLR, "batch_size": 24},
    # (on a map of one position SIM compares images, those of one process)
    "sim": {"sim_layers": "blocks.0", "sim_tokens": 8.0, "sim_loss": "mse"},
    "lars": {"optimizer": "lars", "lr": 20.0},
}
# float32: of the way that the weights went in ten steps, how far several processes may end from one
TOLERANCE = 5e-4  # measured: 2e-6 to 2e-5
SEEDS = range(3)
FEW = {"number": 480, "epochs": 1}


def data():
    """67 images, of which the 60 of an epoch are never quite the same, and 15 to test on."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (82, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images[:, 0] //= torch.arange(82)[:, None, None] % 4 + 1  # four classes differ in their red
    labels = torch.arange(82) % 4
    return from_arrays(images[:67], labels[:67], images[67:], labels[67:])


def config_of(name):
    if name == "supervised":
        return SupervisedConfig(**SMALL)
    return PretrainConfig(**SMALL | HEADS | PRETRAINING[name])


def train(name, folder, **options):
    entry = train_supervised if name == "supervised" else pretrain
    return entry(config_of(name), data(), folder=str(folder), progress=False, **options)


def learned(seed, folder, number=2000, epochs=2):
    """The run on some of the images that come along, half as many others to test on."""
    d = load_data("fashion-scattered")
    train, test = d.train.subset(torch.arange(number)), d.test.subset(torch.arange(number // 2))
    config = PretrainConfig(
        encoder="tiny", epochs=epochs, batch_size=80, precision="float32", device="cpu", threads=1,
        monitor_every=epochs, seed=seed,
    )  # fmt: skip
    return pretrain(config, Dataset("some", train, test), folder=str(folder), progress=False)


def norms():
    """Layers of every kind, in training, and the [12, ...] that they are asked for."""
    generator = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(12, 5, 4, 4, generator=generator) + 7
    layers = {
        "2d": (nn.BatchNorm2d(5), x), "1d": (nn.BatchNorm1d(5, affine=False), x[..., 0, 0]),
        "average": (nn.BatchNorm2d(5, momentum=None), x),
        "untracked": (nn.BatchNorm2d(5, track_running_stats=False), x),
        "evaluated": (nn.BatchNorm2d(5).eval(), x), "bfloat16": (nn.BatchNorm2d(5), x.bfloat16()),
    }  # fmt: skip
    for layer, _ in layers.values():
        if layer.affine:
            nn.init.normal_(layer.weight, generator=generator)
    return layers


def passed(layer, x):
    """Two passes forwards and one backwards: outputs, gradients and running statistics."""
    x = x.detach().clone().requires_grad_()
    weight = torch.linspace(-1, 1, x[0].numel()).view(x.shape[1:])
    layer(x)
    y = layer(x)
    (y.float() * weight).square().mean().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    buffers = {name: b.clone() for name, b in layer.named_buffers()}
    return {"y": y.detach(), "x": x.grad, "gradients": gradients, "buffers": buffers}


def save_images(folder):
    images = data().train
    for i, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        (folder / str(int(label))).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / str(int(label)) / f"{i}.png")


def loaded(folder):
    """How often this process has read a folder's headers, of one that fits into memory and not."""
    images = Path(folder) / "images"
    distributed.from_first(lambda: save_images(images))
    results = {}
    for fits in (1, 2**20):
        calls = []

        def load(name, threads, fits=fits, calls=calls, **others):
            calls.append(name)
            return load_folder(name, fits=fits, threads=threads)

        loading.load_data = load
        config = PretrainConfig(data=str(images), decoding_threads=2)
        dataset = loading.load_once(config)
        results[fits] = {
            "calls": len(calls), "type": type(dataset.train).__name__, "digest": dataset.digest(),
            "mean": dataset.normalize.mean, "threads": getattr(dataset.train, "files", None)
            and dataset.train.files.threads,
        }  # fmt: skip
    return results


def count_digests():
    """A list that grows with each training whose identity this process digests itself."""
    digests, digested = Parts.digests, []

    def noted(self, *arguments):
        digested.append(self)
        return digests(self, *arguments)

    Parts.digests = noted
    return digested


def worker(folder, names=(*PRETRAINING, "supervised")):
    distributed.start()
    rank, rows, outcome = distributed.rank(), distributed.rows(12), {}
    for name, (layer, x) in norms().items():
        layer = with_global_batch_norm(layer, torch.device("cpu"))
        outcome[name] = passed(layer, x[rows])
    z = [torch.arange(36.0).view(12, 3).sin()[rows].requires_grad_() for _ in range(2)]
    nt_xent(distributed.gather(z[0]), distributed.gather(z[1].cos())).backward()
    outcome["gathered"] = [view.grad for view in z]
    digested = count_digests()
    for name in names:
        run = train(name, folder)
        outcome[f"encoder {name}"] = run.encoder.state_dict()
        outcome[f"read-only {name}"] = run.read_only
    outcome["trainings"], outcome["digests"] = len(names), len(digested)
    outcome["streamed"] = loaded(folder)
    if distributed.world() == 2:
        states = twins.twin_states(folder)
        outcome["twins"] = states if distributed.rank() == 0 else []
        outcome["learned"] = learned(0, f"{folder}/real", **FEW).folder.name
    torch.save(outcome, f"{folder}/{rank}.pt")


def learned_with_every_seed(folder):
    distributed.start()
    for seed in SEEDS:
        learned(seed, folder)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def as_rank(rank, processes, port, folder):
    """One of two processes as torchrun starts them, or of three as srun does."""
    os.environ["MASTER_PORT"] = str(port)
    if processes == 2:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                       "MASTER_ADDR": "127.0.0.1"}  # fmt: skip
        worker(folder)
    else:
        os.environ |= {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": str(processes),
                       "SLURM_LOCALID": str(rank), "SLURM_STEP_NODELIST": "127.0.0.1"}  # fmt: skip
        worker(folder, names=["simsiam"])


def fork(processes, folder):
    """Be the processes that would be started, with one import of everything for all of them."""
    import torch._dynamo  # noqa: F401 (or each imports it at its optimizer's first step)

    start, port = multiprocessing.get_context("fork").Process, free_port()
    ranks = [start(target=as_rank, args=(i, processes, port, folder)) for i in range(processes)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert not any(process.exitcode for process in ranks)


def python(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SIMLAB_RUNS": ""}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


def torchrun(*arguments, restarts=0, processes=2):
    python("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
           f"--max-restarts={restarts}", *arguments)  # fmt: skip


def found_by_each(folder):
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("?.pt"))]


def dies_once(folder):
    """Rank 1 dies by SIGKILL in the second epoch, the first time only."""
    inner, steps, mark = SimSiamModule.loss, [], Path(folder) / "died"

    def loss(*args):
        steps.append(1)
        if len(steps) == 7 and distributed.rank() == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args)

    SimSiamModule.loss = loss
    train("simsiam", folder, fresh=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--dies":
        dies_once(sys.argv[2])
    elif sys.argv[1] == "--machine":
        train("simsiam", sys.argv[2])
    elif sys.argv[1] == "--learned":
        learned_with_every_seed(sys.argv[2])
    elif sys.argv[1] == "--fork":
        for number in (2, 3):
            fork(number, f"{sys.argv[2]}/{number}")
    else:
        worker(sys.argv[1])
