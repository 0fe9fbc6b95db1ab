"""`--config FILE.json`: what a run stored is what trains it again, and nothing is left out unsaid."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simlab
from simlab import train
from simlab.cli import main

ROOT = Path(__file__).parent.parent
SMALL = ["--epochs", "1", "--batch-size", "8", "--knn-k", "3", "--encoder", "tiny", "--lr", "0.1"]
SMALL += ["--method", "simsiam proj_dim=16 pred_dim=8", "--view-size", "8"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run of eight images in a folder that was named by a relative path; its config.json."""
    home = tmp_path_factory.mktemp("config")
    draw = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (home / "images" / name).mkdir(parents=True)
        for i in range(10):
            image = draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(image).save(home / "images" / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("SIMLAB_RUNS", str(home / "runs"))
        assert main(["pretrain", "--data", "images", *SMALL]) == 0
    (file,) = home.glob("runs/pretrain-*/config.json")
    return file


def started_with(monkeypatch, command, *words):
    """The configuration that the command line would train with, or what it refuses."""
    seen = {}

    def spy(config, **options):
        seen["config"] = config
        raise ValueError("enough")

    monkeypatch.setattr(train, "pretrain" if command == "pretrain" else "train_supervised", spy)
    assert main([command, *words]) == 2
    return seen.get("config")


@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_stored_run_s_own_configuration_gives_that_run(given, stored, monkeypatch, capsys):
    """From another directory too, though its folder of images was named by a relative path."""
    monkeypatch.setenv("SIMLAB_RUNS", str(stored.parent.parent))
    path = stored if given == "file" else stored.parent
    assert main(["pretrain", "--config", str(path)]) == 0
    assert f"loads {stored.parent}" in capsys.readouterr().out


def test_flags_change_what_the_file_says(stored, monkeypatch):
    config = started_with(monkeypatch, "pretrain", "--config", str(stored), "--seed", "7")
    assert (config.seed, config.lr, config.epochs) == (7, 0.1, 1)
    assert config.method.startswith("simsiam") and "proj_dim=16" in config.method


def test_a_file_of_fields_is_enough_and_the_rest_has_its_default(tmp_path, monkeypatch):
    file = tmp_path / "mine.json"
    file.write_text('{"epochs": 3, "labels": 0.5}')
    config = started_with(monkeypatch, "supervised", "--config", str(file), "--lr", "0.3")
    assert (config.epochs, config.labels, config.lr) == (3, 0.5, 0.3)
    assert config.batch_size == simlab.SupervisedConfig().batch_size


def changed(stored, tmp_path, **entries):
    """A copy of the run's folder in which config.json has other entries."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in stored.parent.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads(stored.read_text()) | entries
    (folder / "config.json").write_text(json.dumps(content))
    return folder / "config.json"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"config": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"config": {"epochs": "3"}}, "epochs='3'"),
        ({"kind": "supervised"}, "configuration of `simlab supervised`, not of `simlab pretrain`"),
        ({"encoder": "3f9a01c2"}, "had its encoder from Python"),
        ({"method": "3f9a01c2"}, "had its method from Python"),
        ({"augment": "3f9a01c2"}, "had its augment from Python"),
        ({"init": "3f9a01c2"}, "began with another run's weights"),
    ],
)
def test_what_a_file_can_not_give_is_named(entries, says, stored, tmp_path, monkeypatch, capsys):
    if "config" in entries:
        entries = {"config": json.loads(stored.read_text())["config"] | entries["config"]}
    file = changed(stored, tmp_path, **entries)
    assert started_with(monkeypatch, "pretrain", "--config", str(file)) is None
    message = capsys.readouterr().err
    assert says in message and str(file) in message and "Traceback" not in message


def test_a_run_that_began_with_another_run_s_weights_begins_with_them(
    stored, tmp_path, monkeypatch
):
    file = changed(stored, tmp_path, init="3f9a01c2")
    result = json.loads((file.parent / "metrics.json").read_text()) | {"init": "runs/first"}
    (file.parent / "metrics.json").write_text(json.dumps(result))
    (file.parent / "encoder.pt").touch()
    config = started_with(monkeypatch, "pretrain", "--config", str(file))
    assert config.init == "runs/first"


@pytest.mark.parametrize(
    ("content", "says"), [("[1, 2]", "holds a list"), ("epochs: 3", "is not valid JSON")]
)
def test_a_file_that_is_no_configuration_is_refused(content, says, tmp_path, capsys):
    file = tmp_path / "mine.json"
    file.write_text(content)
    assert main(["pretrain", "--config", str(file)]) == 2
    assert says in capsys.readouterr().err


def test_a_recipe_and_a_file_are_not_both_the_start(stored, capsys):
    assert main(["pretrain", "--config", str(stored), "--recipe", "cifar-paper"]) == 2
    assert "give one of them" in capsys.readouterr().err


# --------------------------------------------------------------------------------- version and help


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"simlab {simlab.__version__}\n"


@pytest.mark.long
def test_help_waits_for_nothing_heavy():
    """Help, a mistyped flag and the version need no torch: they answer in a fraction of a second."""
    code = """
import contextlib, io, resource, sys
from simlab.cli import main
for words in (["pretrain", "--help"], ["pretrain", "--epoch", "3"], ["sweep", "--help"],
              ["supervised", "--help"], ["knn", "--help"], ["--version"], ["pretrian"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main(words)
heavy = {"torch", "torchvision", "numpy", "pandas", "sklearn", "scipy", "matplotlib", "papermill"}
print(*sorted(heavy & set(sys.modules)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded, seconds = done.stdout.splitlines()
    assert not loaded, loaded
    assert float(seconds) < 3, "seven commands, of which one alone shall take less than 1.5 s"
