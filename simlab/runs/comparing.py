"""How similar the layers of finished runs are, on the first one's test images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .load import load_data_of, load_run

if TYPE_CHECKING:
    from simlab.similarity import Result


def compare_runs(
    names: Sequence[str | Path],
    layers: Sequence[str] | None = None,
    measure: str = "cka",
    images: int = 1000,
    data_folder: str = "",
    device: str = "auto",
) -> "Result":
    """Compare the layers of runs' encoders; one alone is compared with itself.

    Args:
        names: The runs' folders, or their names in the runs folder.
        layers: Names or globs; None: the choice of `simlab.similarity.select_layers`.
        measure: One of `simlab.similarity.MEASURES`.
        images: Number of test images, of the first run's dataset.
        data_folder: Where the dataset's files are, if not where they are looked for by default.
        device: cpu, cuda, cuda:1, mps or auto.

    Returns:
        The result, with the models' names "1 FOLDER", "2 FOLDER", ...
    """
    import torch

    from simlab.similarity import compare

    runs = [load_run(name, device) for name in names]
    data = load_data_of(runs[0], data_folder, device)
    number = min(images, len(data.test))
    x = data.normalize(data.test.subset(torch.arange(number)).images)
    models = {f"{i} {run.folder.name}": run.encoder for i, run in enumerate(runs, start=1)}
    return compare(models, x, layers, measure, samples=number)
