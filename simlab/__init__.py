"""simlab: learn, run and dissect self-supervised learning.

The packages, in the order of the method:

    data, augment, models     images, their augmented views, encoders and heads
    methods                   SimSiam, SimCLR, supervised: one file each
    train, runs               the training loop; where runs are kept, cached by configuration
    evaluate                  kNN, linear probe, collapse: what frozen features know
    sweeps, stats             many runs, and what they show together

What can be copied into another project: sim (the SIM regulariser) and similarity (CKA and related
measures), each with layers, and vector (SimSiam of plain vectors).

The names that most people need are here as well: `simlab.load_data`, `simlab.pretrain`,
`simlab.knn`, `simlab.compare`, ... Each is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # editors and type checkers see the names, and nothing is imported when it runs
    from simlab.augment import parse_augment, two_views
    from simlab.config import PretrainConfig, SupervisedConfig
    from simlab.data import Dataset, Images, from_arrays, from_dataset, load_data
    from simlab.evaluate import diagnose, features, knn, linear_probe
    from simlab.methods import Method
    from simlab.models import build_encoder
    from simlab.runs import load_run
    from simlab.sim import attach_sim, compute_loss_sim, detach_sim
    from simlab.similarity import compare
    from simlab.stats import paired_differences
    from simlab.sweeps import sweep
    from simlab.train import Callback, launch, pretrain, train_supervised

_HOMES = {
    "load_data": "data",
    "from_arrays": "data",
    "from_dataset": "data",
    "Dataset": "data",
    "Images": "data",
    "two_views": "augment",
    "parse_augment": "augment",
    "build_encoder": "models",
    "Method": "methods",
    "PretrainConfig": "config",
    "SupervisedConfig": "config",
    "pretrain": "train",
    "train_supervised": "train",
    "launch": "train",
    "Callback": "train",
    "load_run": "runs",
    "features": "evaluate",
    "knn": "evaluate",
    "linear_probe": "evaluate",
    "diagnose": "evaluate",
    "attach_sim": "sim",
    "detach_sim": "sim",
    "compute_loss_sim": "sim",
    "compare": "similarity",
    "sweep": "sweeps",
    "paired_differences": "stats",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        from simlab._checks import near

        raise AttributeError(f"simlab has no {name!r}{near(name, _HOMES)}")
    value = getattr(importlib.import_module(f"simlab.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
