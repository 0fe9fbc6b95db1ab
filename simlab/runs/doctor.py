"""What this machine has, what training will use, and what is missing."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys

import torch

from simlab.compute import resolve_device, resolve_precision
from simlab.data import DATASETS, load_data

from .sources import simlab_version
from .store import runs_folder

PACKAGES = ("torch", "torchvision", "numpy", "jupyterlab", "papermill")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONAL = {"dask": "sweeps on several machines", "pytest": "the tests"}


def report() -> str:
    """Describe the machine, a line a fact."""
    device = resolve_device()
    fast = resolve_precision("auto", device)
    precisions = ", ".join(dict.fromkeys(["float32", fast]))
    backends = "gloo and nccl" if torch.cuda.is_available() else "gloo"
    facts = {"python": sys.version.split()[0], "simlab": simlab_version()}
    facts |= {name: _version(name) for name in PACKAGES}
    facts |= {
        "devices": f"{', '.join(_devices())}; auto is {device}",
        "fast precisions": f"{precisions}; auto is {fast}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "processes": f"torchrun with {backends}",
        "runs": str(runs_folder()),
    }
    lines = [f"{name:<16} {fact}" for name, fact in facts.items()]
    first, *others = _missing(device) or ["nothing"]
    lines.append(f"{'missing':<16} {first}")
    lines += [f"{'':<16} {line}" for line in others]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    devices = ["cpu"]
    for i in range(torch.cuda.device_count()):
        devices.append(f"cuda:{i} ({torch.cuda.get_device_name(i)})")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _missing(device: torch.device) -> list[str]:
    missing = []
    for name in DATASETS:
        try:
            load_data(name)
        except (OSError, ValueError):
            missing.append(f"dataset {name}: simlab data {name} --download")
    if device.type == "cpu":
        missing.append("a GPU: full-size pretraining would take weeks without one")
    if not any(shutil.which(browser) for browser in BROWSERS):
        missing.append("Chromium: the browser tests are left out")
    for package, use in OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            missing.append(f"{package}: needed for {use}")
    return missing
