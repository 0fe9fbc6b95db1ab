"""The notebooks on images of the reader's own, in a folder that is no checkout.

One folder has two classes of photos of different sizes, the other photos without labels. All
notebooks on both take minutes; of the quick tests one runs the cells of a lesson in the tests' own
process, the others read the notebooks.
"""

import contextlib
import io
import re
from pathlib import Path

import lessons
import nbformat
import numpy as np
import papermill
import pytest
from PIL import Image

SIZES = [(40, 30), (30, 44), (64, 48), (33, 33)]
SECONDS = {
    "image_size": 16, "epochs": 1, "supervised_epochs": 1, "simsiam_epochs": 1, "label_seeds": 2,
    "live_seeds": 1, "steps": 1, "device": "cpu",
}  # fmt: skip
FOLDERS = {"two classes": ("ant", "bee"), "no labels": ("",)}
OF_TABLES = "03b_collapse_sweeps"  # an appendix on precomputed runs
OF_DRAWINGS = "07b_what_is_a_view"  # on images of one thing by several designers
every_notebook = pytest.mark.parametrize("path", lessons.COURSE, ids=lambda path: path.stem)


def make_photos(folder: Path, classes: tuple[str, ...]):
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(40 if name else 70):
            width, height = SIZES[i % len(SIZES)]
            photo = draw.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(photo).save(folder / name / f"{i:02}.jpg")


def values_for(path: Path, classes: tuple[str, ...], place: Path, monkeypatch) -> dict[str, object]:
    """Make the photos in a folder, which gets the runs too; returns the notebook's parameters."""
    make_photos(place / "photos", classes)
    monkeypatch.setenv("SIMLAB_RUNS", str(place / "runs"))
    parameters = papermill.inspect_notebook(str(path))
    values = {name: value for name, value in SECONDS.items() if name in parameters}
    return values | {"data": str(place / "photos")}


def run_outside(path: Path, classes: tuple[str, ...], place: Path, monkeypatch) -> str:
    """Run a notebook by papermill with a folder of photos; returns what it printed."""
    values = values_for(path, classes, place, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(lessons.ROOT))
    out = place / "out.ipynb"
    papermill.execute_notebook(path, out, values, cwd=str(place), progress_bar=False)
    printed = []
    for cell in lessons.code_of(nbformat.read(out, as_version=4)):
        printed += [output.text for output in cell.outputs if "text" in output]
    return "\n".join(printed)


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("folder", FOLDERS)
@every_notebook
def test_a_notebook_runs_on_a_folder_of_photos(path, folder, tmp_path, monkeypatch):
    printed = run_outside(path, FOLDERS[folder], tmp_path, monkeypatch)
    needs_labels = path.stem not in ("00_start_here", OF_TABLES, OF_DRAWINGS)
    assert ("No labels here" in printed) == (folder == "no labels" and needs_labels)
    assert ("No factors 'thing' and 'designer' here" in printed) == (path.stem == OF_DRAWINGS)


@pytest.mark.long
def test_the_first_lesson_runs_on_photos_without_labels(tmp_path, monkeypatch):
    """Its cells one after the other, without a kernel, which would take longer than they do."""
    (path,) = (path for path in lessons.COURSE if path.stem == "01_pretraining")
    values = values_for(path, FOLDERS["no labels"], tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for cell in lessons.code_of(nbformat.read(path, as_version=4)):
            exec(compile(cell.source, path.name, "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                assert names.keys() >= values.keys()
                names |= values
    assert "No labels here: kNN accuracies are left out" in printed.getvalue()
    assert (tmp_path / "runs" / "book" / path.stem / "metrics.json").exists()


@every_notebook
def test_every_notebook_takes_a_folder_and_a_size(path):
    if path.stem == OF_TABLES:
        pytest.skip("it loads no images")
    parameters = papermill.inspect_notebook(str(path))
    assert {"data", "image_size"} <= set(parameters)
    code = "\n".join(cell.source for cell in lessons.code_of(nbformat.read(path, as_version=4)))
    loads = re.findall(r"load_data\((.*?)\)", code)
    assert any("data" in call and "image_size=image_size" in call for call in loads), loads


@every_notebook
def test_no_notebook_needs_what_only_the_bundled_images_have(path):
    """Images too many for the memory have no tensor; outside of a checkout there is no home."""
    code = "\n".join(
        cell.source
        for cell in lessons.code_of(nbformat.read(path, as_version=4))
        if "setup" not in cell.metadata.get("tags", [])
    )
    assert not re.findall(r"dataset\.(?:train|test)\.images", code)
    assert "homes" not in code


def test_what_a_notebook_reads_is_found_from_anywhere():
    from simlab_course.tables import table_path

    assert table_path("default_run.csv").read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"'default_runs.csv'.*did you mean 'default_run"):
        table_path("default_runs.csv")
