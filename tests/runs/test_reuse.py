"""Stored runs tell of themselves, of what is nearly them, and can be gone on from."""

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from simlab.augment import Normalize
from simlab.cli import main
from simlab.config import PretrainConfig
from simlab.data import Dataset, from_arrays
from simlab.runs import Run, load_run, store
from simlab.runs.identity import run_name
from simlab.train import pretrain
from simlab.train import run as train

CONFIG = PretrainConfig(
    encoder="tiny", view_size=8, epochs=2, batch_size=16, precision="float32", device="cpu",
    schedule="constant", method="simsiam proj_dim=16 pred_dim=8", knn_k=5, monitor_every=1,
    threads=1,
)  # fmt: skip
OLD_CODE = "0123456789abcdef"


def random_data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(40) % 4
    return from_arrays(images[:32], labels[:32], images[32:], labels[32:])


def run_of(folder, **options) -> Run:
    changes = {name: options.pop(name) for name in list(options) if hasattr(CONFIG, name)}
    data = options.pop("data_given", None) or random_data()
    config = replace(CONFIG, **changes)
    return pretrain(config, data, progress=False, folder=str(folder), **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    """Two epochs, finished. Not to be changed."""
    return run_of(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def stored(trained, tmp_path) -> Run:
    """A copy."""
    return Run(Path(shutil.copytree(trained.folder, tmp_path / trained.folder.name)), {})


@pytest.fixture
def old(stored) -> Run:
    """The copy, as another simlab would have left it."""
    folder = stored.folder
    content = json.loads((folder / "config.json").read_text()) | {"code": OLD_CODE}
    content["name"] = run_name(content)
    (folder / "config.json").write_text(json.dumps(content))
    return Run(folder.rename(folder.with_name("old")), content)


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(train, "fit", None)


# ----------------------------------------------------------------------------------- one line each


def test_a_stored_run_says_when_it_was_trained_and_where_it_lies(stored, no_training, capsys):
    run = run_of(stored.folder.parent)
    when = run.result["finished"]
    assert capsys.readouterr().out == (
        f"loads {stored.folder}, trained on {when} (fresh=True trains it anew)\n"
    )


def test_a_run_that_resumes_says_from_where(stored, capsys):
    (stored.folder / "metrics.json").unlink()
    max(stored.checkpoints.iterdir()).unlink()
    run_of(stored.folder.parent)
    assert f"resumes {stored.folder} after epoch 1\n" in capsys.readouterr().out


def stopped(history):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": 0.1}, r"but for: lr \(0.5 -> 0.1\)$"),
        ({"lr": 0.1, "seed": 1}, r"but for: lr \(0.5 -> 0.1\), seed \(0 -> 1\)$"),
        ({"epochs": 3}, r"but for: epochs \(2 -> 3\); reuse="),
        ({"augment": "simclr"}, "but for: augment"),
    ],
)
def test_a_new_run_names_its_neighbour_and_what_differs(changes, says, stored, capsys):
    with pytest.raises(KeyboardInterrupt):
        run_of(stored.folder.parent, on_epoch=stopped, **changes)
    line = capsys.readouterr().out.strip()
    assert line.startswith("new run pretrain-") and f"like {stored.folder.name}" in line
    assert re.search(says, line), line


def test_other_images_and_other_code_are_named_too(stored, old, capsys):
    data = random_data()
    data.train.images[0] ^= 1
    data = Dataset(data.name, data.train, data.test)
    with pytest.raises(KeyboardInterrupt):
        run_of(old.folder.parent, on_epoch=stopped, data_given=data)
    assert "the images, labels or normalisation, simlab's code\n" in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        run_of(old.folder.parent, on_epoch=stopped)
    output = capsys.readouterr().out
    assert 'like old but for: simlab\'s code; reuse="old" (--continue old) goes on' in output


def test_far_runs_are_no_neighbours(stored, capsys):
    with pytest.raises(KeyboardInterrupt):
        run_of(stored.folder.parent, on_epoch=stopped, lr=0.1, seed=1, momentum=0.5)
    assert capsys.readouterr().out == ""


def test_the_same_images_by_another_name_are_the_same_run(stored, no_training):
    data = random_data()
    renamed = Dataset("/somewhere/else", data.train, data.test)
    assert run_of(stored.folder.parent, data_given=renamed).folder == stored.folder


def test_a_frozen_encoder_is_another_run_in_which_it_stays_as_it_was(tmp_path):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 12))
    config, options = replace(CONFIG, epochs=1), {"progress": False, "folder": str(tmp_path)}
    free = pretrain(config, random_data(), encoder=net, **options)
    net[1].requires_grad_(False)
    frozen = pretrain(config, random_data(), encoder=net, **options)
    assert frozen.folder != free.folder
    assert torch.equal(frozen.encoder[1].weight, net[1].weight)
    assert not torch.equal(free.encoder[1].weight, net[1].weight)


def test_a_normalisation_of_one_s_own_is_another_run(stored, capsys):
    data = random_data()
    other = Dataset(data.name, data.train, data.test, normalize=Normalize([0.5], [0.25]))
    with pytest.raises(KeyboardInterrupt):
        run_of(stored.folder.parent, on_epoch=stopped, data_given=other)
    assert "but for: the images, labels or normalisation" in capsys.readouterr().out


def test_other_factors_to_draw_views_by_are_another_run(tmp_path, capsys):
    """The factors are no part of the images' digest."""
    data, names = random_data(), []
    for factor in (torch.arange(32) % 2, torch.arange(32) % 4):
        train_images = replace(data.train, factors=factor[:, None].float(), factor_names=("size",))
        given = Dataset("sizes", train_images, data.test)
        with pytest.raises(KeyboardInterrupt):
            run_of(tmp_path, on_epoch=stopped, data_given=given, views_from="size")
        names = sorted(path.name for path in tmp_path.glob("pretrain-*"))
    assert len(names) == 2 and "the groups of views_from" in capsys.readouterr().out


# ------------------------------------------------------------------------------------- going on


def test_a_run_of_another_simlab_is_taken_over_without_a_step(old, no_training, capsys):
    run = run_of(old.folder.parent, reuse="old")
    assert run.finished and run.folder != old.folder
    link = {"run": old.name, "epoch": 2, "code": OLD_CODE, "simlab": "0.1.0"}
    assert run.identity["continues"] == [link]
    assert "with another code of simlab" in capsys.readouterr().out
    again = run_of(old.folder.parent)
    assert again.folder == run.folder and again.identity["continues"] == [link]
    assert torch.equal(
        run.encoder_at(2).state_dict()["stem.0.weight"], run.encoder.state_dict()["stem.0.weight"]
    )


def test_a_half_done_run_of_another_simlab_is_finished(old):
    (old.folder / "metrics.json").unlink()
    max(old.checkpoints.iterdir()).unlink()
    seen = []
    run = run_of(
        old.folder.parent, reuse=str(old.folder), on_epoch=lambda rows: seen.append(len(rows))
    )
    assert seen == [2] and run.finished and not old.finished


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_a_longer_run_goes_on_where_the_schedule_allows_it_to_the_same_bits(
    schedule, trained, tmp_path
):
    short = trained if schedule == "constant" else run_of(tmp_path, schedule=schedule)
    never = run_of(tmp_path / "never", schedule=schedule, epochs=3)
    shutil.copytree(short.folder, tmp_path / "longer" / "short")
    seen = []
    run = run_of(
        tmp_path / "longer", schedule=schedule, epochs=3, reuse="short",
        on_epoch=lambda rows: seen.append(len(rows)),
    )  # fmt: skip
    assert seen == [3] and run.name == never.name
    a, b = run.load_encoder_state(), never.load_encoder_state()
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert list(run.history["loss"]) == list(never.history["loss"])
    assert run.identity["continues"][0]["epoch"] == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": 0.1}, r"differs in lr \(0.5 -> 0.1\); only simlab's code and epochs"),
        ({"epochs": 1}, "has 2 epochs already: expected more, not 1"),
        ({"reuse": "strd", "lr": 0.1}, "there is no run strd.*did you mean 'stored'"),
    ],
)
def test_what_can_not_go_on_is_refused_before_anything_is_written(changes, says, stored):
    stored.folder.rename(stored.folder.with_name("stored"))
    before = set(stored.folder.parent.glob("pretrain-*"))
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        run_of(stored.folder.parent, **{"reuse": "stored"} | changes)
    assert set(stored.folder.parent.glob("pretrain-*")) == before


def test_a_cosine_can_not_be_extended(tmp_path):
    run_of(tmp_path, schedule="cosine", epochs=1)
    (short,) = tmp_path.glob("pretrain-*")
    with pytest.raises(ValueError, match="schedule='cosine', which depends on their number"):
        run_of(tmp_path, schedule="cosine", epochs=2, reuse=short.name)


# ------------------------------------------------------------------------------- the command line


@pytest.fixture
def home(trained, tmp_path, monkeypatch) -> Path:
    """A runs folder with one run, for the commands."""
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    shutil.copytree(trained.folder, tmp_path / "runs" / trained.folder.name)
    return tmp_path / "runs"


def test_runs_are_listed_and_named(home, trained, capsys):
    assert main(["runs"]) == 0
    output = capsys.readouterr().out
    for word in (trained.folder.name, "finished 20", "epoch 2 of 2", "loss", "schedule=constant"):
        assert word in output
    assert "momentum" not in output, "a default is not listed"
    assert main(["runs", trained.folder.name, "--name", "first"]) == 0
    assert capsys.readouterr().out.startswith("first ") and (home / "first").is_dir()
    assert load_run("first").name == trained.folder.name
    assert main(["runs", "frst", "--name", "x"]) == 2
    assert "did you mean 'first'" in capsys.readouterr().err
    assert main(["runs", "first", "--name", "a/b"]) == 2


def save_images(folder: Path) -> Path:
    data = random_data()
    for split in ("train", "test"):
        images = getattr(data, split)
        for number, (image, label) in enumerate(zip(images.images, images.labels)):
            path = folder / split / f"class{int(label)}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)
    return folder


def test_a_run_on_arrays_is_evaluated_on_other_images_which_is_said(
    home, trained, tmp_path, capsys
):
    name = trained.folder.name
    assert main(["knn", name]) == 2
    assert "learned from 'arrays', which is not here" in capsys.readouterr().err
    images = save_images(tmp_path / "images")
    assert main(["knn", name, "--data", str(images), "--k", "5"]) == 0
    output = capsys.readouterr().out
    assert f"images           of {images}, not those that {name} learned from" in output
    # the very images that it learned from, in files
    assert f"kNN accuracy     {trained.result['final']['knn']:.4f}" in output
    assert main(["probe", name, "--data", str(images)]) == 0
    assert main(["compare", name, "--data", str(images), "--images", "8"]) == 0
    assert capsys.readouterr().out.count("not those that") == 2


def test_features_of_a_folder_are_written_with_paths_and_labels(home, trained, tmp_path, capsys):
    images = save_images(tmp_path / "images") / "test"
    out = tmp_path / "x.npz"
    assert main(["embed", trained.folder.name, str(images), "--out", str(out)]) == 0
    table = np.load(out)
    assert table["features"].shape == (8, 128)
    assert list(table["labels"]) == [Path(path).parent.name for path in table["paths"]]
    expected = trained.encode([Path(path) for path in table["paths"]])
    assert torch.equal(torch.from_numpy(table["features"]), expected)
    assert main(["embed", trained.folder.name, str(images), "--out", "x.csv"]) == 2


def test_a_run_on_a_folder_is_asked_from_elsewhere_and_when_the_images_moved(
    tmp_path, monkeypatch, capsys
):
    """The folder is read as the run was told to: in colour, and without what can't be decoded."""
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    save_images(tmp_path / "images")
    (tmp_path / "images" / "train" / "class0" / "broken.png").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    words = ["--epochs", "1", "--encoder", "tiny", "--method", "simsiam proj_dim=8 pred_dim=4"]
    assert main(["pretrain", "--data", "./images", *words]) == 2
    assert "broken.png" in capsys.readouterr().err
    words += ["--channels", "3", "--fit", "squeeze", "--on-error", "skip"]
    assert main(["pretrain", "--data", "./images", *words]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["pretrain", "--data", "../images", *words]) == 0
    assert capsys.readouterr().out.startswith("loads ")
    (run,) = (tmp_path / "runs").glob("pretrain-*")
    stored = json.loads((run / "config.json").read_text())["config"]
    assert stored["fit"] == "squeeze" and not {"channels", "on_error"} & stored.keys()
    assert main(["knn", run.name, "--k", "5"]) == 0
    (tmp_path / "images").rename(tmp_path / "moved")
    assert main(["knn", run.name]) == 2
    assert "--data-folder" in capsys.readouterr().err
    assert main(["knn", run.name, "--k", "5", "--data-folder", "../moved"]) == 0
    (tmp_path / "moved" / "test" / "class0" / "0.png").unlink()
    assert main(["knn", run.name, "--data-folder", "../moved"]) == 2
    assert "is not the dataset that" in capsys.readouterr().err


# --------------------------------------------------------------------------- where runs are kept


def test_a_runs_folder_that_can_not_be_written_says_how_to_choose_another(tmp_path):
    (tmp_path / "file").write_text("in its place")
    with pytest.raises(OSError, match="could not be written.*SIMLAB_RUNS=/some/folder"):
        run_of(tmp_path / "file" / "runs")


def test_a_home_in_the_variable_is_a_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SIMLAB_RUNS", "~/x")
    assert store.runs_folder() == tmp_path / "x"


def test_a_file_system_without_locks_has_a_file_in_their_place(stored, monkeypatch, capsys):
    def unsupported(self, *args, **kwargs):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
    monkeypatch.setattr(train, "fit", None)
    assert run_of(stored.folder.parent).finished
    assert "has no file locks" in capsys.readouterr().out
