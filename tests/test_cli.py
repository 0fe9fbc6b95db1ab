"""The command line: the same configuration as everywhere, and errors instead of tracebacks."""

import io
import json
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from cli_calls import save_images, trained_with

from simlab import train
from simlab.cli import main


def test_an_unknown_command_is_refused_with_the_nearest_right_one(capsys):
    assert main(["pretrian"]) == 2
    assert "did you mean 'pretrain'" in capsys.readouterr().err


def test_data_says_what_is_in_a_set(capsys):
    assert main(["data", "fashion"]) == 0
    output = capsys.readouterr().out
    assert "10000 images, 1 x 28 x 28" in output and "Ankle boot" in output


def test_data_says_what_was_left_out_and_which_images_are_broken(capsys, tmp_path):
    save_images(tmp_path, number=5)
    (tmp_path / "ant" / "photo.heic").touch()
    assert main(["data", str(tmp_path), "--channels", "1"]) == 0
    output = capsys.readouterr().out
    assert "train            8 images, 1 x " in output and "1 file left out: 1 .heic" in output
    assert "no test split: 2 images of 10 held out" in output
    for path in sorted(tmp_path.glob("*/*.png"))[::4]:
        path.write_bytes(b"")
    assert main(["data", str(tmp_path)]) == 2
    assert "cannot decode 3 images" in capsys.readouterr().err
    assert main(["data", str(tmp_path), "--on-error", "skip"]) == 0
    assert "3 images left out that can't be decoded" in capsys.readouterr().out


def test_class_names_that_the_console_can_not_write_are_spelled_out(tmp_path, monkeypatch):
    """Output that is redirected on Windows has the encoding cp1252."""
    save_images(tmp_path, number=5)
    (tmp_path / "ant").rename(tmp_path / "犬")
    (tmp_path / "bee").rename(tmp_path / "café")
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    assert main(["data", str(tmp_path)]) == 0
    console.flush()
    assert "classes    café, \\u72ac" in console.buffer.getvalue().decode("cp1252")


def test_an_error_names_what_is_wrong_without_a_traceback(capsys):
    assert main(["data", "fashoin"]) == 2
    message = capsys.readouterr().err
    assert "did you mean 'fashion'" in message and "Traceback" not in message


def test_a_flag_is_a_field_and_an_unknown_one_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "--epoch", "3"])
    assert "--epochs" in capsys.readouterr().err


def test_pretrain_runs_on_a_folder_and_says_where_to_look(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    save_images(tmp_path / "images")
    flags = ["--epochs", "1", "--batch-size", "8", "--method", "simsiam proj_dim=16 pred_dim=8"]
    assert main(["pretrain", "--data", str(tmp_path / "images"), *flags]) == 0
    output = capsys.readouterr().out
    assert "loss" in output and str(tmp_path / "runs" / "pretrain-") in output


# --------------------------------------------------------------------------------- recipes and help


def test_a_recipe_is_the_papers_and_flags_change_it(monkeypatch):
    paper = trained_with(monkeypatch, "--recipe", "cifar-paper", "--seed", "3")
    c = paper["config"]
    assert (c.data, c.encoder, c.epochs, c.batch_size, c.lr, c.weight_decay, c.seed) == (
        "cifar10", "resnet18", 800, 512, 0.03, 5e-4, 3
    )  # fmt: skip
    assert c.method == "simsiam proj_layers=2 proj_dim=2048 pred_dim=512 pred_lr=1"
    assert c.view_size == 32
    assert (c.momentum, c.schedule, c.warmup_epochs) == (0.9, "cosine", 0)
    assert not paper["fresh"] and trained_with(monkeypatch, "--fresh")["fresh"]


def test_every_recipe_is_a_configuration():
    from simlab.config import RECIPES, PretrainConfig, make_config

    for name in RECIPES:
        make_config(PretrainConfig, **RECIPES[name])


def test_an_unknown_recipe_is_refused_with_the_nearest_right_one(capsys):
    assert main(["pretrain", "--recipe", "cifar-papr"]) == 2
    assert "did you mean 'cifar-paper'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pretrain", "supervised", "knn", "probe", "compare", "data"])
def test_help_shows_every_flag_with_its_type_default_and_a_line(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    flags = [" ".join(block.split()) for block in re.split(r"\n[ │]+(?=--[a-z])", output)[1:]]
    assert len(flags) >= (34 if command == "pretrain" else 3)
    for flag in flags:
        match = re.match(
            r"--[\w-]+(?:, --no-[\w-]+| STR| INT| FLOAT| \{[^}]*\}) (.*?) ?\(default: .*\)", flag
        )
        assert match and len(match[1]) > 3, flag
    if command == "pretrain":
        assert "cifar-paper" in output and "--fresh" in output


def test_a_recipe_where_there_are_none_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["supervised", "--recipe", "cifar-paper"])
    assert ended.value.code == 2 and "--recipe" in capsys.readouterr().err


def test_help_of_sweep_shows_the_defaults_too(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    output = " ".join(capsys.readouterr().out.split())
    assert "--jobs INT Number of points at once. (default: 1)" in output and "(required)" in output


@pytest.mark.long
def test_doctor_tells_versions_devices_and_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIMLAB_DATA", str(tmp_path))
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    version = torch.__version__.split("+")[0]
    for word in (version, "devices", "fast precisions", "threads", "gloo", "missing"):
        assert word in output
    assert "simlab data cifar10 --download" in output and "dataset fashion:" not in output
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert "what is missing" in capsys.readouterr().out


def test_stopping_a_command_is_no_traceback(monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "pretrain", stopped)
    assert main(["pretrain"]) == 130
    assert "the same command resumes" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder, images = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("two") / "images"
    save_images(images, number=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMLAB_RUNS", str(folder))
        for seed in ("0", "1"):
            flags = [
                "--epochs",
                "1",
                "--data",
                str(images),
                "--encoder",
                "tiny",
                "--view-size",
                "8",
            ]
            assert (
                main(
                    [
                        "pretrain",
                        *flags,
                        "--method",
                        "simsiam proj_dim=8 pred_dim=4",
                        "--seed",
                        seed,
                    ]
                )
                == 0
            )
    return folder, sorted(path.name for path in folder.glob("pretrain-*"))


@pytest.mark.long
def test_a_stored_run_is_asked_by_name_or_folder(two_runs, monkeypatch, capsys):
    folder, (name, other) = two_runs
    monkeypatch.setenv("SIMLAB_RUNS", str(folder))
    assert main(["knn", name]) == 0
    output = capsys.readouterr().out
    stored = json.loads((folder / name / "metrics.json").read_text())["final"]["knn"]
    assert f"{stored:.4f}" in output
    last = (folder / name / "knn.csv").read_text().splitlines()[-1].split(",")
    assert last[1:] == [name, "1", f"{100 * stored:.2f}"]
    assert "images           120 classified by 480" in output
    assert main(["probe", str(folder / name), "--labels", "0.2", "--per-class"]) == 0
    output = capsys.readouterr().out
    assert "accuracy" in output and re.search(r"^ant +\d+ +[01]\.\d", output, re.MULTILINE)
    assert main(["compare", name, other, "--layers", "blocks.?", "--images", "100"]) == 0
    assert "blocks.2" in capsys.readouterr().out


def test_stored_features_are_compared_and_the_file_is_the_table_that_is_printed(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(30, 6))
    np.savez(tmp_path / "a.npz", stem=x, **{"block.0": x[:, :2]}, ids=np.arange(30))
    np.savez(tmp_path / "b.npz", head=x[9::-1] + 1, ids=np.arange(9, -1, -1))
    table = tmp_path / "table.csv"
    files = [str(tmp_path / name) for name in ("a.npz", "b.npz")]
    assert main(["compare", *files, "--out", str(table)]) == 0
    printed, words = capsys.readouterr().out.split("\n\n")
    assert "10 samples" in words and "matched by ids: 10 in common" in words
    stored = pd.read_csv(table, keep_default_na=False)
    lines = stored.map(lambda x: f"{x:.3f}" if isinstance(x, float) else str(x) or "NaN")
    rows = [line.split() for line in printed.splitlines()]
    assert rows[0] == list(stored.columns) and len(rows) == 1 + 9
    for line, expected in zip(rows[1:], lines.to_numpy().tolist(), strict=True):
        assert line == [word for word in expected[: len(line)]]
    pair = stored[(stored.layer_1 == "stem") & (stored.layer_2 == "head")]
    assert pair["value"].item() == pytest.approx(1)
    assert main(["compare", *files, "--measure", "rsa", "--out", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.long
def test_a_run_that_is_not_there_or_not_finished_is_refused(
    two_runs, tmp_path, monkeypatch, capsys
):
    folder, (name, _) = two_runs
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path))
    assert main(["knn", name]) == 2
    assert f"there is no run {name}" in capsys.readouterr().err
    shutil.copytree(folder / name, tmp_path / name)
    assert main(["knn", name[:-1]]) == 2
    assert f"did you mean {name!r}?" in capsys.readouterr().err
    (tmp_path / name / "metrics.json").unlink()
    assert main(["probe", name]) == 2
    assert "is not finished" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["knn", "RUN", "--k", "0"], "k=0"),
        (["knn", "RUN", "--temperature", "0"], "temperature=0"),
        (["knn", "RUN", "--device", "cuda:9"], "cuda:9"),
        (["probe", "RUN", "--labels", "-1"], "labels=-1"),
        (["probe", "RUN", "--labels", "10000000"], "labels=10000000"),
        (["probe", "RUN", "--solver", "newton"], "newton-cg"),
        (["probe", "RUN", "--solver", "sgd", "--epochs", "0"], "epochs=0"),
        (["probe", "RUN", "--views", "0"], "views=0"),
        (["compare", "RUN", "--measure", "ckaa"], "did you mean 'cka'"),
        (["compare", "RUN", "--layers", "blockz"], "blockz"),
        (["compare", "RUN", "--images", "0"], "images=0"),
        (["compare", "RUN", "--out", "x.pdf"], "x.pdf"),
        (["compare", "RUN", "x.npz"], "not compared with each other"),
        (["compare"], "expected one run or two"),
    ],
)
def test_arguments_that_can_not_be_meant_are_named(words, says, two_runs, monkeypatch, capsys):
    folder, (name, _) = two_runs
    monkeypatch.setenv("SIMLAB_RUNS", str(folder))
    try:
        code = main([name if word == "RUN" else word for word in words])
    except SystemExit as ended:  # by the parser
        code = ended.code
    assert code == 2 and says in capsys.readouterr().err
