"""A run that goes on from a stored one: after a change of simlab's code, or for more epochs.

The stored run stays as it is. Its checkpoints are copied into the new run's folder, and the new
run's config.json says under "continues" what it was, for each run in the chain:

    "continues": [{"run": "pretrain-3f9a01c2b7de", "epoch": 20, "code": ..., "simlab": "0.1.0"}]
"""

import shutil
from pathlib import Path

from .files import read_json, write_json
from .neighbours import differences
from .run import Run

ALLOWED = {"code", "epochs"}  # in which the two may differ
# schedules that don't depend on the number of epochs: what was trained is what would be trained
ENDLESS = ("constant", "step")
TRAINING_FILES = ("metrics.csv", "knn.csv", "train.log")


def continue_from(run: Run, folder: Path) -> None:
    """Prepare a new run's folder so that it goes on where a stored run is.

    Args:
        run: The new run; nothing of it is stored yet.
        folder: Of the stored run.

    Raises:
        ValueError: The two differ in more than simlab's code and the number of epochs, or the
            longer run would have had another schedule from the start.
    """
    stored = Run(folder, read_json(folder / "config.json"))
    epochs = max(stored.checkpoint_paths(), default=0)
    _check(run, stored, epochs)
    run.folder.mkdir(parents=True, exist_ok=True)
    is_complete = stored.finished and run.config["epochs"] == stored.config["epochs"]
    for path in stored.checkpoint_paths().values():
        run.checkpoints.mkdir(exist_ok=True)
        shutil.copy2(path, run.checkpoints)
    files = (*TRAINING_FILES, "encoder.pt", "encoder.json", "metrics.json")
    for name in files if is_complete else TRAINING_FILES:
        if (folder / name).exists():
            shutil.copy2(folder / name, run.folder)
    link = {
        "run": stored.name,
        "epoch": epochs,
        "code": stored.identity.get("code", ""),
        "simlab": stored.identity.get("simlab", ""),
    }
    run.identity["continues"] = [*stored.identity.get("continues", []), link]
    write_json(run.folder / "config.json", run.identity)
    line = f"{run.folder.name} continues {folder} after epoch {epochs}"
    run.warn(
        line + (", with another code of simlab" if link["code"] != run.identity["code"] else "")
    )


def _check(run: Run, stored: Run, epochs: int) -> None:
    place = f"reuse: {stored.folder}"
    if run.identity["kind"] != stored.identity.get("kind"):
        raise ValueError(f"{place} is a run of {stored.identity.get('kind')}")
    others = differences(run.identity, stored.identity)
    refused = [text for name, text in others.items() if name not in ALLOWED]
    if refused:
        raise ValueError(
            f"{place} differs in {', '.join(refused)}; only simlab's code and epochs may differ"
        )
    wanted = run.config["epochs"]
    if wanted == stored.config["epochs"]:
        return
    if run.config["schedule"] not in ENDLESS:
        raise ValueError(
            f"{place} has {stored.config['epochs']} epochs with schedule="
            f"{run.config['schedule']!r}, which depends on their number: a run of {wanted} would "
            f"have differed from the start. Schedules that can be extended: {', '.join(ENDLESS)}"
        )
    if wanted < epochs:
        raise ValueError(f"{place} has {epochs} epochs already: expected more, not {wanted}")
