"""encoder.json: all that is needed to use a run's encoder, without its dataset.

    {"encoder": {"name": "tiny", "stem": "small", "channels": 1, "image_size": 32,
                 "module": "", "structure": ""},
     "preprocessing": {"mean": [...], "std": [...], "size": 32, "channels": 1,
                       "interpolation": "bilinear"},
     "classes": ["T-shirt/top", ...], "data_path": "",
     "simlab": "0.1.0", "torch": "2.14.1"}

An encoder of the user's is told by "module", the name of its class, and by "structure", a digest
of what it is made of. "data_path" is where a folder of images was when it was trained on.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simlab.config import TrainConfig
from simlab.data import Dataset
from simlab.models import build_encoder

from .modules import structure_digest
from .preprocessing import Preprocessing
from .run import Run
from .sources import simlab_version


def describe_encoder(
    config: TrainConfig, data: Dataset, module: nn.Module | None = None
) -> dict[str, Any]:
    """Return the content of a run's encoder.json.

    Args:
        config: Resolved.
        data: What is trained on.
        module: The encoder of the user's, where there is one.
    """
    encoder = {
        "name": config.encoder,
        "stem": config.stem,
        "channels": data.train.channels,
        "image_size": data.train.size,
        "module": ""
        if module is None
        else f"{type(module).__module__}.{type(module).__qualname__}",
        "structure": "" if module is None else structure_digest(module),
    }
    return {
        "encoder": encoder,
        "preprocessing": Preprocessing.of(data).to_dict(),
        "classes": list(data.classes),
        "data_path": str(Path(data.name).resolve()) if Path(data.name).is_dir() else "",
        "simlab": simlab_version(),
        "torch": torch.__version__,
    }


def build_described(run: Run, state: dict[str, Any], encoder: nn.Module | None = None) -> nn.Module:
    """Build a run's encoder with its weights.

    Args:
        run: The run.
        state: Its encoder's weights.
        encoder: Takes the place of what would be built; it is filled, and not copied.

    Raises:
        ValueError: The encoder is a module of the user's and none is given, or it has other
            weights.
    """
    described = _described(run, state)
    if encoder is None and described["module"]:
        raise ValueError(
            f"{run.folder} was trained with a custom encoder, {described['module']}: make that "
            f"module and give it, load_run({run.folder.name!r}, encoder=module)"
        )
    if encoder is None:
        size, channels = described["image_size"], described["channels"]
        encoder, _ = build_encoder(described["name"], channels, size, described["stem"])
    elif described["structure"] not in ("", structure_digest(encoder)):
        warnings.warn(
            f"the encoder is not made of what {run.folder.name} was trained with "
            f"({described['module']}): its code or settings differ, though its weights may fit",
            stacklevel=3,
        )
    _load(encoder, state, run)
    return encoder


def _load(encoder: nn.Module, state: dict[str, Any], run: Run) -> None:
    expected = encoder.state_dict()
    for name in {**expected, **state}:
        shapes = [tuple(w[name].shape) if name in w else "missing" for w in (expected, state)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the encoder does not fit {run.folder}: its weight {name} is {shapes[0]}, and "
                f"{shapes[1]} in the run"
            )
    encoder.load_state_dict(state)


def _described(run: Run, state: dict[str, Any]) -> dict[str, Any]:
    """What encoder.json says of the encoder; of an older run what its configuration says."""
    if run.description:
        encoder: dict[str, Any] = run.description["encoder"]
        return encoder
    kernels = [weight for weight in state.values() if weight.dim() == 4]  # [out, in, k, k]
    return {
        "name": run.config["encoder"],
        "stem": run.config.get("stem", "auto"),
        "channels": int(kernels[0].shape[1]) if kernels else 0,
        "image_size": run.config.get("image_size", 0),
        "module": run.config["encoder"] if run.identity.get("encoder") else "",
        "structure": "",
    }
