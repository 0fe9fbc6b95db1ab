"""The stored runs: each in words, which is nearest to a new one, and in what the two differ."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from simlab.config import PretrainConfig, SupervisedConfig

from .files import read_json
from .run import Run

SHOWN = ("loss", "knn", "test_accuracy")  # of a run's last row
NEAR = 2  # so many differences still make a neighbour
# what differs beside the configuration, in words
PARTS = {
    "data": "the images, labels or normalisation",
    "encoder": "the encoder's settings, weights or code",
    "method": "the method's code",
    "augment": "the augmentation",
    "partners": "the groups of views_from",
    "init": "the weights that it starts from",
    "code": "simlab's code",
}


def stored_runs(home: Path) -> dict[Path, dict[str, Any]]:
    """Read the config.json of every run in a folder; what can't be read is passed over."""
    runs = {}
    for path in sorted(home.glob("*/config.json")):
        try:
            content = read_json(path)
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and isinstance(content.get("config"), dict):
            runs[path.parent] = content
    return runs


def folder_of(home: Path, name: str) -> Path:
    """Return the folder of the run of this name, which may have been renamed."""
    if not (home / name / "config.json").exists():
        for folder, content in stored_runs(home).items():
            if content.get("name") == name:
                return folder
    return home / name


def differences(identity: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    """Say in what two runs of one kind differ.

    Args:
        identity: Of the new run.
        other: Of a stored one; fields that it lacks have their defaults.

    Returns:
        By the name of a field, or of a part such as "data", the difference in words.
    """
    new = identity["config"]
    old = {name: other["config"].get(name, default) for name, default in defaults_of(other).items()}
    words = {}
    for name in new:
        if name != "data" and new[name] != old.get(name):
            words[name] = f"{name} ({old.get(name)} -> {new[name]})"
    for name, text in PARTS.items():
        if identity.get(name, "") != other.get(name, ""):
            words[name] = text
    return words


def defaults_of(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the default of every field of the configuration of a run of this kind."""
    cls = PretrainConfig if identity.get("kind") == "pretrain" else SupervisedConfig
    return {field.name: field.default for field in dataclasses.fields(cls)}


def nearest(home: Path, identity: dict[str, Any]) -> tuple[Path, dict[str, str]] | None:
    """Return the stored run that differs least from a new one, and in what; None: none is near."""
    best: tuple[Path, dict[str, str]] | None = None
    for folder, content in stored_runs(home).items():
        if content.get("kind") != identity["kind"]:
            continue
        words = differences(identity, content)
        if len(words) <= NEAR and (best is None or len(words) < len(best[1])):
            best = folder, words
    return best


def describe_run(run: Run) -> str:
    """Describe a run in two lines: how far it is, and what differs from the defaults."""
    rows = run.history.to_dict("records") if (run.folder / "metrics.csv").exists() else []
    state = f"finished {run.result.get('finished', '')}" if run.finished else "not finished"
    progress = f"epoch {len(rows)} of {run.config.get('epochs', '?')}"
    words = [run.folder.name, run.identity.get("kind", "?"), state.strip(), progress]
    for name in SHOWN:
        value = rows[-1].get(name, math.nan) if rows else math.nan
        if not math.isnan(value):
            words.append(f"{name} {value:.4g}")
    defaults = defaults_of(run.identity)
    changes = []
    for name, value in run.config.items():
        if value != defaults.get(name):
            changes.append(f"{name}={value}")
    for link in run.identity.get("continues", []):
        changes.append(f"continues {link['run']} after epoch {link['epoch']}")
    return f"{'  '.join(words)}\n    {'  '.join(changes)}"
