"""The commands that ask a stored run something, `data` and `doctor`; their arguments are its flags."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import torch
import torch.nn as nn
from tyro.conf import Positional

from simlab import similarity
from simlab._names import near
from simlab.augment import parse_augment
from simlab.compute import devices
from simlab.config import PretrainConfig, SupervisedConfig, TrainConfig, make_config
from simlab.data import registry as sources
from simlab.data.images import Dataset, load_data
from simlab.evaluate import features as evaluate
from simlab.evaluate.probe import encode, linear_probe
from simlab.models.encoders import build_encoder
from simlab.runs.run import Run, read_json, runs_folder, write_bytes


def knn(
    run: Positional[str],
    k: int = 200,
    temperature: float = 0.1,
    data_folder: str = "",
    device: str = "auto",
):
    """kNN accuracy of a run's encoder: the whole clean bank, every test image.

    Args:
        run: the run's folder, or its name in the runs folder
        k: neighbours that vote
        temperature: of their votes
        data_folder: where the dataset's files are
        device: cpu, cuda, cuda:1, mps
    """
    _positive(k=k, temperature=temperature)
    _, _, encoder, data = open_run(run, data_folder, device)
    print(f"kNN accuracy     {evaluate.knn(encoder, data, k, temperature):.4f}")
    print(f"k, temperature   {min(k, len(data.train))}, {temperature}")


def probe(
    run: Positional[str],
    labels: int = 0,
    seed: int = 0,
    solver: str = "lbfgs",
    epochs: int = 90,
    views: int = 1,
    data_folder: str = "",
    device: str = "auto",
):
    """Linear probe of a run's frozen encoder.

    Args:
        run: the run's folder, or its name in the runs folder
        labels: labelled images, as many of each class; 0: all
        seed: which images are labelled
        solver: lbfgs; or sgd, as in the papers: lr 30, batch 256, cosine
        epochs: of sgd
        views: above 1: with so many views of each image less one, augmented as in training
        data_folder: where the dataset's files are
        device: cpu, cuda, cuda:1, mps
    """
    _positive(epochs=epochs, views=views)
    _, config, encoder, data = open_run(run, data_folder, device)
    encoded = encode(encoder, data, views, parse_augment(config.augment), seed)
    result = linear_probe(encoded, labels, seed, solver, epochs)
    for name, value in result.numbers().items():
        print(f"{name:<16} {value}")


def compare(
    runs: Positional[tuple[str, ...]],
    measure: str = "cka",
    layers: str = "",
    images: int = 1000,
    out: str = "",
    data_folder: str = "",
    device: str = "auto",
):
    """How alike two runs' layers see the test images; one run alone is compared with itself.

    Args:
        runs: their folders, or their names in the runs folder
        measure: one of simlab.similarity.MEASURES
        layers: names or globs, with commas; empty: the package's choice
        images: test images, of the first run's data
        out: a file for the result: *.json or *.csv is the tidy table, *.png the figure
        data_folder: where the dataset's files are
        device: cpu, cuda, cuda:1, mps
    """
    _positive(images=images)
    if not runs:
        raise ValueError("expected one run or two, by their folders or names")
    if out and Path(out).suffix not in (".json", ".csv", ".png"):
        raise ValueError(f"out={out!r}: expected a file that ends in .json, .csv or .png")
    opened = [open_run(name, data_folder, device) for name in runs]
    data = opened[0][3]
    n = min(images, len(data.test))
    x = data.normalize(data.test.subset(torch.arange(n)).images)
    models = {f"{i} {run.folder.name}": net for i, (run, _, net, _) in enumerate(opened, 1)}
    result = similarity.compare(models, x, layers.split(",") if layers else None, measure, probe=n)
    table = result.to_frame(tidy=True)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    if out.endswith(".png"):
        result.plot().figure.savefig(out)
    elif out:
        text = (
            table.to_csv(index=False) if out.endswith(".csv") else table.to_json(orient="records")
        )
        write_bytes(Path(out), text.encode())


def _positive(**values: float):
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: expected more than 0")


def open_run(
    name: str, data_folder: str = "", device: str = "auto"
) -> tuple[Run, TrainConfig, nn.Module, Dataset]:
    """A finished run by its folder or name, with its configuration, encoder and data.

    Raises: FileNotFoundError where there is no such run; ValueError where it isn't finished, was
        damaged, had a module of the user's as its encoder, or the data are not those it learned from.
    """
    places = [Path(name), runs_folder() / name]
    folder = next((place for place in places if (place / "config.json").exists()), None)
    if folder is None:
        names = [path.parent.name for path in runs_folder().glob("*/config.json")]
        raise FileNotFoundError(
            f"there is no run {name}, neither here nor in {runs_folder()}" + near(name, names)
        )
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
    where = devices.resolve_device(device)
    data = load_data(c.data, data_folder, image_size=c.image_size, device=where)
    if data.digest() != identity.get("data"):
        raise ValueError(f"{c.data} is not the data that {folder} learned from: its images differ")
    encoder, _ = build_encoder(c.encoder, data.train.channels, data.train.size, c.stem)
    encoder.load_state_dict(run.load_encoder_state())
    return run, c, encoder.to(where, memory_format=torch.channels_last).eval(), data


def data(
    name: Positional[str] = "fashion-scattered",
    folder: str = "",
    download: bool = False,
    image_size: int = 0,
):
    """Load a dataset, fetching it if asked, and say what is in it.

    Args:
        name: a dataset's name, or a folder's path
        folder: where its files are, or go
        download: fetch what is missing
        image_size: side in pixels for a folder's images; 0: the first's
    """
    found = load_data(name, folder, download, image_size)
    parts = {"training": found.train, "test": found.test, "unlabeled": found.unlabeled}
    for name, part in parts.items():
        if part is not None:
            print(f"{name:<10} {len(part):>7} images, {part.channels} x {part.size} x {part.size}")
    print(f"classes    {', '.join(found.classes) or 'none'}")


def doctor():
    """What this machine has, what training will use, and what is missing."""
    print(f"{'python':<16} {sys.version.split()[0]}")
    for name in ("simlab", "torch", "torchvision", "numpy", "jupyterlab", "papermill"):
        found = importlib.util.find_spec(name)
        print(f"{name:<16} {importlib.metadata.version(name) if found else 'not installed'}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = devices.resolve_device()
    fast = devices.resolve_precision("auto", device)
    print(
        f"{'devices':<16} cpu{''.join(f', cuda:{i} ({name})' for i, name in enumerate(gpus))}"
        f"{', mps' if torch.backends.mps.is_available() else ''}; auto is {device}"
    )
    print(f"{'fast precisions':<16} {', '.join(dict.fromkeys(('float32', fast)))}; auto is {fast}")
    print(f"{'threads':<16} {torch.get_num_threads()} of {os.cpu_count()} cores")
    print(f"{'processes':<16} torchrun with gloo{' and nccl' if gpus else ''}")
    print(f"{'runs':<16} {runs_folder()}")
    missing = []
    for name in sources.DATASETS:
        try:
            load_data(name)
        except (OSError, ValueError):
            missing.append(f"dataset {name}: simlab data {name} --download")
    if device.type == "cpu":
        missing.append("a GPU: full-size pretraining would take weeks without one")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        missing.append("Chromium: the browser tests are left out")
    for module, use in (("dask", "sweeps on several machines"), ("pytest", "the tests")):
        if importlib.util.find_spec(module) is None:
            missing.append(f"{module}: needed for {use}")
    print("missing          " + ("\n                 ".join(missing) or "nothing"))
