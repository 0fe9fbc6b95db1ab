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
