"""The command line: the same configuration as everywhere, and errors instead of tracebacks."""

import numpy as np
import pytest
from PIL import Image

from simlab.__main__ import main


def test_an_unknown_command_is_refused_with_the_nearest_right_one(capsys):
    assert main(["pretrian"]) == 2
    assert "did you mean 'pretrain'" in capsys.readouterr().err


def test_data_says_what_is_in_a_set(capsys):
    assert main(["data", "fashion"]) == 0
    told = capsys.readouterr().out
    assert "10000 pictures, 1 x 28 x 28" in told and "Ankle boot" in told


def test_an_error_names_what_is_wrong_without_a_traceback(capsys):
    assert main(["data", "fashoin"]) == 1
    told = capsys.readouterr().err
    assert "did you mean 'fashion'" in told and "Traceback" not in told


def test_a_flag_is_a_field_and_an_unknown_one_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "--epoch", "3"])
    assert "--epochs" in capsys.readouterr().err


def test_pretrain_runs_on_a_folder_and_says_where_to_look(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(10):
            picture = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{i}.png")
    flags = ["--epochs", "1", "--batch-size", "8", "--proj-dim", "16", "--pred-dim", "8"]
    assert main(["pretrain", "--data", str(tmp_path / "pictures"), *flags]) == 0
    told = capsys.readouterr().out
    assert "loss" in told and str(tmp_path / "runs" / "pretrain-") in told


# --------------------------------------------------------------------------------- recipes and help


def trained_with(monkeypatch, *words):
    """The configuration and options that the command line would train with."""
    from simlab import train

    found = {}

    def spy(config, **options):
        found.update(config=config, **options)
        raise ValueError("enough")

    monkeypatch.setattr(train, "pretrain", spy)
    assert main(["pretrain", *words]) == 1
    return found


def test_a_recipe_is_the_papers_and_flags_change_it(monkeypatch):
    paper = trained_with(monkeypatch, "--recipe", "cifar-paper", "--seed", "3")
    c = paper["config"]
    assert (c.data, c.encoder, c.epochs, c.batch_size, c.lr, c.weight_decay, c.seed) == (
        "cifar10", "resnet18", 800, 512, 0.03, 5e-4, 3
    )  # fmt: skip
    assert (c.proj_layers, c.proj_dim, c.pred_dim, c.view_size, c.pred_lr) == (2, 2048, 512, 32, 1)
    assert (c.momentum, c.schedule, c.warmup_epochs, c.fix_pred_lr) == (0.9, "cosine", 0, True)
    assert not paper["fresh"] and trained_with(monkeypatch, "--fresh")["fresh"]


def test_every_recipe_is_a_configuration():
    from simlab.config import RECIPES, PretrainConfig, make_config

    for name in RECIPES:
        make_config(PretrainConfig, **RECIPES[name])


def test_an_unknown_recipe_is_refused_with_the_nearest_right_one(capsys):
    assert main(["pretrain", "--recipe", "cifar-papr"]) == 1
    assert "did you mean 'cifar-paper'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pretrain", "supervised", "knn", "probe", "compare", "data"])
def test_help_shows_every_flag_with_its_type_default_and_a_line(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "default" in told
    if command == "pretrain":
        assert "--weight-decay FLOAT" in told and "cifar-paper" in told and "--fresh" in told


def test_doctor_tells_versions_devices_and_what_is_missing(capsys):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for word in ("torch", "devices", "fast precisions", "threads", "missing"):
        assert word in told


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMLAB_RUNS", str(folder))
        for seed in ("0", "1"):
            flags = ["--epochs", "1", "--data", "fashion", "--view-size", "8", "--batch-size", "512"]
            assert main(["pretrain", *flags, "--proj-dim", "8", "--pred-dim", "4", "--seed", seed]) == 0
    return folder, sorted(path.name for path in folder.glob("pretrain-*"))


def test_a_stored_run_is_asked_by_name_or_folder(two_runs, monkeypatch, capsys):
    import json

    folder, (name, other) = two_runs
    monkeypatch.setenv("SIMLAB_RUNS", str(folder))
    assert main(["knn", name]) == 0
    told = capsys.readouterr().out
    stored = json.loads((folder / name / "metrics.json").read_text())["final"]["knn"]
    assert f"{stored:.4f}" in told
    last = (folder / name / "knn.csv").read_text().splitlines()[-1].split(",")
    assert last[1:] == [name, "1", f"{100 * stored:.2f}"]
    assert main(["probe", str(folder / name), "--labels", "100"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["compare", name, other, "--layers", "blocks.?", "--pictures", "100"]) == 0
    assert "blocks.2" in capsys.readouterr().out


def test_a_run_that_is_not_there_or_not_finished_is_refused(two_runs, tmp_path, monkeypatch, capsys):
    import shutil

    folder, (name, _) = two_runs
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path))
    assert main(["knn", name]) == 1
    assert f"there is no run {name}" in capsys.readouterr().err
    shutil.copytree(folder / name, tmp_path / name)
    (tmp_path / name / "metrics.json").unlink()
    assert main(["probe", name]) == 1
    assert "is not finished" in capsys.readouterr().err
