"""The committed notebooks with parameters of seconds, for the tests that run them whole.

With their defaults, and their outputs compared, `make test-notebooks` runs them.
"""

import re
from pathlib import Path

import explorers
import nbformat
import numpy as np
import papermill
from PIL import Image

from simlab.data import load_data

ROOT = Path(__file__).parents[2]
COURSE = sorted((ROOT / "notebooks").glob("0*.ipynb"))
NOTEBOOKS = [*COURSE, ROOT / "notebooks" / "sweeps" / "sim_study.ipynb"]
QUICK = {
    "data": "clothes", "epochs": 1, "supervised_epochs": 1, "images": 300, "compared": 100, "budgets": "100,200",
    "label_seeds": 2, "counterpart": "clothes", "sim_layers": "blocks.2", "steps": 1,
    "largest_batch": 16, "largest_split": 100,
}  # fmt: skip


def save_images(folder: Path):
    """Two classes of 80 random images each."""
    draw = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for i in range(80):
            image = draw.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(image).save(folder / name / f"{i}.png")


def save_clothes(folder: Path):
    """The first 300 training and 100 test images of the bundled dataset, a folder for each class."""
    dataset = load_data("fashion-scattered")
    for name, split, number in (("train", dataset.train, 300), ("test", dataset.test, 100)):
        for i in range(number):
            path = folder / name / split.classes[split.labels[i]].replace("/", " or ")
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(split.images[i, 0].numpy()).save(path / f"{i}.png")


def prepare(home: Path):
    """Put every notebook into `home`, without outputs and with quick parameters.

    Beside them lies simlab, as if cloned there, and the images that the notebooks train on.
    """
    (home / "simlab").symlink_to(ROOT)
    save_images(home / "some_images")
    save_clothes(home / "clothes")
    for path in NOTEBOOKS:
        quick = {name: value for name, value in QUICK.items()
                 if name in papermill.inspect_notebook(str(path))}  # fmt: skip
        if path.stem == "06_scaling_up":
            quick |= {"data": "some_images", "encoder": "tiny"}
        if path.stem == "07b_what_is_a_view":
            del quick["data"]  # the emoji: only they have several drawings of a thing
        target = home / path.name
        papermill.execute_notebook(path, target, quick, prepare_only=True, progress_bar=False)
        notebook = nbformat.read(target, as_version=4)
        for cell in code_of(notebook):
            cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, target)


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def widgets_of(path: Path) -> dict[str, int]:
    """The widgets with controls that a notebook shows, and the place of each among its code cells."""
    places = {}
    for place, cell in enumerate(code_of(nbformat.read(path, as_version=4))):
        last = cell.source.splitlines()[-1] if cell.source else ""
        for name in explorers.NAMES:
            if re.match(rf"(widgets\.)?{name}\(", last):
                places[name] = place
    return places
