"""The README's lines run as they stand."""

import re
import runpy
from pathlib import Path

import make_figures
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import simlab
from simlab.methods import METHODS
from simlab.stats import mean_and_interval

TABLES = Path(__file__).parent.parent / "notebooks" / "tables"
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
# the lines on two models are test_readme_similarity's
LINES = [x for x in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "my_model" not in x]


@pytest.mark.parametrize("lines", LINES, ids=range(len(LINES)))
def test_the_readmes_python_runs(lines, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(40):
            image = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "images" / name / f"{i}.jpg")
    script = tmp_path / "lines.py"
    script.write_text(lines.replace("path/to/images", "images"), encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out


def test_what_the_readme_links_to_exists():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (root / target).exists(), target


def test_the_figures_are_those_of_the_committed_notebooks():
    docs = Path(__file__).parent.parent / "docs"
    for name, image in make_figures.figures().items():
        assert f"](docs/{name})" in README
        assert (docs / name).read_bytes() == image, "python docs/make_figures.py"


def test_the_two_commands_stand_on_the_first_screen():
    first = "\n".join(README.splitlines()[:30])
    for command in ("make run", "make test", "make lab", "pip install -e", "conda env create"):
        assert command in first, command


def results(name):
    """Mean and half interval of both kNN accuracies and the probe for each encoder of a table."""
    table = pd.read_csv(TABLES / f"{name}.csv").groupby("encoder")
    columns = ("knn_200", "knn_20", "probe_1000")
    return {column: mean_and_interval(table[column]) for column in columns}


def test_the_results_are_those_of_the_tables():
    rows = {
        "SimSiam, scattered clothing": ("default_run", "SimSiam"),
        "the same, 60 epochs": ("longer_run", "SimSiam"),
        "the same network, untrained": ("default_run", "untrained encoder"),
        "raw pixels": ("default_run", "raw pixels"),
    }
    for begins, (name, encoder) in rows.items():
        (cells,) = re.findall(rf"^\| {begins}[^|]*\|(.*)\|$", README, re.MULTILINE)
        for cell, (mean, half) in zip(cells.split("|"), results(name).values(), strict=True):
            said = [float(x) for x in cell.split("±")]
            wanted = [mean[encoder], half[encoder]][: len(said)]
            assert said == [pytest.approx(x, abs=0.0006) for x in wanted], (begins, cell)


def test_what_few_labels_give_is_what_the_table_has():
    table = pd.read_csv(TABLES / "label_budgets.csv", comment="#")
    mean, half = mean_and_interval(table.groupby(["encoder", "labels"])["accuracy"])
    rows = {
        "the same network, from scratch": "from scratch",
        "SimSiam, linear probe": "SimSiam, linear probe",
        "SimSiam, fine-tuned": "SimSiam, fine-tuned",
    }
    for begins, encoder in rows.items():
        (cells,) = re.findall(rf"^\| {begins} \|(.*)\|$", README, re.MULTILINE)
        for cell, labels in zip(cells.split("|"), (100, 300, 1000), strict=True):
            said = [float(x) for x in cell.split("±")]
            wanted = [mean[encoder, labels], half[encoder, labels]]
            assert said == [pytest.approx(x, abs=0.0006) for x in wanted], (begins, labels)


def test_the_methods_accuracies_are_those_of_the_table():
    table = pd.read_csv(TABLES / "family.csv").groupby("name").mean(numeric_only=True)
    for name in METHODS:
        (said,) = re.findall(rf"^\| `{name}` \|.*\| ([^|]+) \| ([^|]+) \|$", README, re.MULTILINE)
        assert [float(x) for x in said] == pytest.approx(
            list(table.loc[name, ["knn_200", "fine_tuned_200"]]), abs=0.0006
        ), name
    (words,) = re.findall(
        r"where raw pixels have(.*?)With Muon SimCLR has (\.\d+)\.", README, re.DOTALL
    )
    numbers = [float(x) for x in re.findall(r"\.\d{3}", " ".join(words))]
    names = ["raw pixels", "untrained tiny", "untrained ViT"]
    wanted = [*table.loc[names, "knn_200"], *table.loc[names[1:], "fine_tuned_200"]]
    wanted.insert(1, table.loc["raw pixels", "knn_20"])
    wanted.append(table.loc["simclr with Muon", "knn_200"])
    assert numbers == [pytest.approx(value, abs=0.0006) for value in wanted]


def test_the_default_run_knows_far_more_than_pixels_and_chance_weights():
    mean, _ = results("default_run")["probe_1000"]
    assert mean["SimSiam"] > mean["untrained encoder"] + 0.22
    assert mean["SimSiam"] > mean["raw pixels"] + 0.35


def test_the_packages_of_the_readme_are_those_of_simlab():
    table = README.split("## What is inside")[1]
    first_cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    named = re.findall(r"`(?:simlab/)?([\w.]+)/?`", " ".join(first_cells))
    folder = Path(simlab.__file__).parent
    packages = {p.parent.name for p in folder.glob("*/__init__.py")}
    modules = {p.name for p in folder.glob("*.py") if not p.name.startswith("_")}
    assert sorted(named) == sorted(packages | modules | {"simlab_course"})
