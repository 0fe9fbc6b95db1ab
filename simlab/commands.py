"""The commands that ask a stored run something, and `doctor`."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
from tyro.conf import Positional

from . import devices, sources
from .augment import normalise, parse_augment
from .config import PretrainConfig, SupervisedConfig, TrainConfig, make_config
from .data import DataSet, load_data
from .evaluate import knn
from .models import build_encoder
from .probe import encode, linear_probe
from .runs import Run, read_json, runs_folder
from .similarity import compare


@dataclass(frozen=True, kw_only=True)
class _Asked:
    data_folder: str = ""  # where the data set's files are
    device: str = "auto"  # cpu, cuda, cuda:1, mps


@dataclass(frozen=True, kw_only=True)
class KnnArguments(_Asked):
    """kNN accuracy of a run's encoder: the whole clean bank, every test picture."""

    run: Positional[str]  # the run's folder, or its name in the runs folder
    k: int = 200  # neighbours that vote
    temperature: float = 0.1  # of their votes


@dataclass(frozen=True, kw_only=True)
class ProbeArguments(_Asked):
    """Linear probe of a run's frozen encoder."""

    run: Positional[str]  # the run's folder, or its name in the runs folder
    labels: int = 0  # labelled pictures, as many of each class; 0: all
    seed: int = 0  # which pictures are labelled
    solver: str = "lbfgs"  # or sgd, as in the papers: lr 30, batch 256, cosine
    epochs: int = 90  # of sgd
    views: int = 1  # above 1: with so many views of each picture less one, augmented as in training


@dataclass(frozen=True, kw_only=True)
class CompareArguments(_Asked):
    """How alike two runs' layers see the test pictures; one run alone is compared with itself."""

    runs: Positional[tuple[str, ...]]  # runs' folders, or their names in the runs folder
    measure: str = "cka"  # see simlab.similarity.MEASURES
    layers: str = ""  # names or globs, with commas; empty: the package's choice
    pictures: int = 1000  # test pictures, of the first run's data
    out: str = ""  # a file for the result: *.json or *.csv is the tidy table, *.png the figure


def run_knn(a: KnnArguments):
    _, _, encoder, data = open_run(a.run, a.data_folder, a.device)
    print(f"kNN accuracy     {knn(encoder, data, a.k, a.temperature):.4f}")
    print(f"k, temperature   {min(a.k, len(data.train))}, {a.temperature}")


def run_probe(a: ProbeArguments):
    _, config, encoder, data = open_run(a.run, a.data_folder, a.device)
    encoded = encode(encoder, data, a.views, parse_augment(config.augment), a.seed)
    found = linear_probe(encoded, a.labels, a.seed, a.solver, a.epochs)
    for name, value in dataclasses.asdict(found).items():
        print(f"{name:<16} {value}")


def run_compare(a: CompareArguments):
    opened = [open_run(name, a.data_folder, a.device) for name in a.runs]
    data = opened[0][3]
    n = min(a.pictures, len(data.test))
    x = normalise(data.test.subset(torch.arange(n)).images, data.mean, data.std)
    models = {f"{i} {run.folder.name}": net for i, (run, _, net, _) in enumerate(opened, 1)}
    layers = a.layers.split(",") if a.layers else None
    result = compare(models, x, layers, a.measure, probe=n)
    table = result.to_frame(tidy=True)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    if a.out.endswith(".png"):
        result.plot().figure.savefig(a.out)
    elif a.out:
        Path(a.out).write_text(table.to_csv(index=False) if a.out.endswith(".csv")
                               else table.to_json(orient="records"), encoding="utf-8")  # fmt: skip


def open_run(
    name: str, data_folder: str = "", device: str = "auto"
) -> tuple[Run, TrainConfig, nn.Module, DataSet]:
    """A finished run by its folder or name, with its configuration, encoder and data.

    Raises: FileNotFoundError where there is no such run; ValueError where it isn't finished, was
        damaged, had a module of the user's as its encoder, or the data are not those it learned from.
    """
    folder = next((p for p in (Path(name), runs_folder() / name) if (p / "config.json").exists()), None)
    if folder is None:
        raise FileNotFoundError(f"there is no run {name}: neither here nor in {runs_folder()}")
    identity = read_json(folder / "config.json")
    if not isinstance(identity, dict) or not isinstance(identity.get("config"), dict):
        raise ValueError(f"{folder / 'config.json'} is no run's: it was changed by hand")
    run = Run(folder, identity)
    if not run.finished:
        raise ValueError(f"{folder} is not finished: start it again with its own command first")
    if identity.get("encoder"):
        raise ValueError(f"{folder}: its encoder is a module of yours; load it from Python")
    kind = PretrainConfig if identity.get("kind") == "pretrain" else SupervisedConfig
    c = make_config(kind, **run.config)
    named = c.data in sources.DATASETS
    where = devices.resolve_device(device)
    data = load_data(c.data, data_folder, image_size=0 if named else c.image_size, device=where)
    if data.digest() != identity.get("data"):
        raise ValueError(f"{c.data} is not the data that {folder} learned from: its pictures differ")
    encoder, _ = build_encoder(c.encoder, data.train.channels, data.train.size, c.stem)
    encoder.load_state_dict(run.load_encoder_state())
    return run, c, encoder.to(where, memory_format=torch.channels_last).eval(), data


def run_doctor():
    """What this machine has, what training will use, and what is missing."""
    print(f"{'python':<16} {sys.version.split()[0]}")
    for name in ("simlab", "torch", "torchvision", "numpy", "jupyterlab", "papermill"):
        print(f"{name:<16} {_version(name)}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = devices.resolve_device()
    fast = [p for p in ("float32", devices.resolve_precision("auto", device))]
    print(f"{'devices':<16} cpu{''.join(f', cuda:{i} ({name})' for i, name in enumerate(gpus))}"
          f"{', mps' if torch.backends.mps.is_available() else ''}; auto is {device}")  # fmt: skip
    print(f"{'fast precisions':<16} {', '.join(dict.fromkeys(fast))}; auto is {fast[-1]}")
    print(f"{'threads':<16} {torch.get_num_threads()} of {os.cpu_count()} cores")
    print(f"{'processes':<16} torchrun with gloo{' and nccl' if gpus else ''}")
    print(f"{'runs':<16} {runs_folder()}")
    missing = []
    for name in sources.DATASETS:
        try:
            load_data(name)
        except (OSError, ValueError):
            missing.append(f"data set {name}: simlab data {name} --download")
    if not gpus and device.type == "cpu":
        missing.append("a GPU: full-size pretraining would take weeks without one")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        missing.append("Chromium: the browser tests are left out")
    for module, use in (("dask", "sweeps on several machines"), ("pytest", "the tests")):
        if importlib.util.find_spec(module) is None:
            missing.append(f"{module}: needed for {use}")
    print("missing          " + ("\n                 ".join(missing) or "nothing"))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
