"""The commands that list stored runs, name them, and take an encoder elsewhere."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def runs(run: Positional[str] = "", name: str = "", folder: str = "") -> None:
    """List the stored runs: state, last epoch, and what differs from the default configuration.

    Args:
        run: One run alone, by its folder or name.
        name: Rename this run's folder; it is found by both names.
        folder: Where runs are kept.
    """
    from simlab.runs import Run, describe_run, find_folder, runs_folder, stored_runs

    home = Path(folder).expanduser() if folder else runs_folder()
    if name and not run:
        raise ValueError(f"name={name!r}: expected the run that shall be called so as well")
    place = find_folder(run, home) if run else None
    if name and place is not None:
        place = _rename(place, name)
    contents = stored_runs(home if place is None else place.parent)
    for path, content in contents.items():
        if place is None or path.resolve() == place.resolve():
            print(describe_run(Run(path, content)))
    if not contents:
        print(f"there are no runs in {home}")


def _rename(place: Path, name: str) -> Path:
    target = place.with_name(name)
    if Path(name).name != name or name.startswith("."):
        raise ValueError(f"name={name!r}: expected a folder's name")
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    return place.rename(target)


def export(
    run: Positional[str],
    folder: Positional[str],
    device: str = "cpu",
    weights: Literal["pt", "safetensors"] = "pt",
) -> None:
    """Write a run's encoder for programs that have torch and not simlab.

    Args:
        run: The run's folder, or its name in the runs folder.
        folder: Where to: encoder.pt2, encoder.pt, encoder.json and load_encoder.py.
        device: Where the encoder is when it is written.
        weights: The format of its weights: encoder.pt, or encoder.safetensors.
    """
    from simlab.runs import load_run

    path = load_run(run, device).export(folder, weights)
    for file in sorted(path.iterdir()):
        print(file)
