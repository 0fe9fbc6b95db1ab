"""The wheel: what is in it, in an empty folder, and without Jupyter."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from simlab.data import load_data

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
JUPYTER = ("IPython", "ipywidgets", "jupyterlab", "papermill", "nbformat", "nbconvert")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The wheel, built and installed into a folder of its own."""
    home = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", home, ROOT], capture_output=True, text=True
    )
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip(f"the build backend can't be fetched here: {built.stderr[-200:]}")
    assert built.returncode == 0, built.stderr
    (wheel,) = home.glob("*.whl")
    assert wheel.name.startswith("simlab_ssl-")
    site = home / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    return site


@pytest.fixture(scope="module")
def core(site, tmp_path_factory):
    """A folder with links to the packages that the wheel needs, and to no others."""
    folder = tmp_path_factory.mktemp("core")
    (metadata,) = site.glob("simlab_ssl-*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()
    needed = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line]
    for name in packages_of(needed):
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
    return folder


def packages_of(requirements):
    """Everything that some requirements need in the end, of what is installed here."""
    pending = [(Requirement(text), "") for text in requirements]
    done, names = set(), set()
    while pending:
        requirement, extra = pending.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (requirement.name, wanted) in done:
                continue
            done.add((requirement.name, wanted))
            try:
                package = distribution(requirement.name)
            except PackageNotFoundError:  # of another system
                continue
            names.add(package.metadata["Name"])
            pending += [(Requirement(text), wanted) for text in package.requires or []]
    return sorted(names)


def python(code, folders, home):
    """Run code in an empty folder with these folders as all that is installed."""
    paths = ":".join(map(str, folders))
    environment = {"PYTHONPATH": paths, "HOME": str(home), "SIMLAB_RUNS": str(home / "runs")}
    return subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=home, env=environment, capture_output=True, text=True
    )  # fmt: skip


def test_an_installed_wheel_brings_the_images_into_an_empty_folder(site, core, tmp_path):
    code = (
        "import simlab; from simlab.data import load_data; "
        "print(simlab.__file__); print(load_data('fashion').digest())"
    )
    done = python(code, [site, core], tmp_path)
    assert done.returncode == 0, done.stderr
    file, digest = done.stdout.split()
    assert Path(file).is_relative_to(site)
    assert digest == load_data("fashion").digest()


def test_without_jupyter_every_public_name_is_there_and_a_run_is_trained_and_judged(
    site, core, tmp_path
):
    code = f"""
import importlib.util
import sys
assert not [name for name in {JUPYTER} if importlib.util.find_spec(name)], "this is no test"
import numpy as np
import simlab
for name in dir(simlab):
    getattr(simlab, name)
images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
data = simlab.from_arrays(images, np.arange(60) % 2)
config = simlab.PretrainConfig(epochs=1, batch_size=16, encoder="tiny", threads=1)
run = simlab.pretrain(config, data)
print("knn", simlab.knn(run.encoder, data, k=5))
print(simlab.compare({{"a": run.encoder, "b": run.encoder}}, data, "blocks.?").to_frame().shape)
from simlab.cli import main
assert main(["runs"]) == 0
assert main(["doctor"]) == 0
open("notebook.ipynb", "w").write('{{"cells": [], "metadata": {{}}, "nbformat": 4, "nbformat_minor": 5}}')
assert main(["sweep", "notebook.ipynb", "seed=0:2", "--out", "sweep"]) == 2
"""
    done = python(code, [site, core], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "knn " in done.stdout and "papermill        not installed" in done.stdout
    assert "pip install papermill" in done.stderr
    assert "pretrain-" in done.stdout
