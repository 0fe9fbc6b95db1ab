"""docs/coming_from.md: what stands there runs, what it links to exists, the command line knows it."""

import importlib
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from simlab.cli import main
from simlab.cli.elsewhere import HERE, hints

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
SECTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of two classes, and what a trainer of Lightning's leaves."""
    folder = tmp_path_factory.mktemp("elsewhere")
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(40):
            image = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "images" / name / f"{i}.jpg")
    backbone = torchvision.models.resnet18()
    backbone.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    backbone.fc = torch.nn.Identity()
    weights = {f"backbone.{name}": w for name, w in backbone.state_dict().items()}
    weights["projector.0.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": weights, "epoch": 3}, folder / "checkpoint.ckpt")
    return folder


@pytest.mark.parametrize("section", SECTIONS)
def test_its_snippet_runs(section, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(folder)
    (lines,) = re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)
    lines = lines.replace("path/to/images", "images").replace("path/to/", "")
    script = tmp_path / "lines.py"
    script.write_text(lines, encoding="utf-8")
    namespace = runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out
    if "vectors" in section:
        model, x = namespace["model"], namespace["x1"]
        assert model.loss(x, x) == pytest.approx(-1, abs=1e-6)


def test_the_names_of_ours_in_the_tables_exist():
    names = re.findall(r"`(simlab(?:\.\w+)+)`", PAGE)
    assert len(names) > 8
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute) or importlib.import_module(name)


def test_every_program_has_a_table_and_the_readme_leads_here():
    for section, text in SECTIONS.items():
        assert "| there | here | what differs |" in text, section
    for word in (
        "SIM-pytorch",
        "ahmdtaha",
        "simtorch",
        "Rust",
        "lightly",
        "solo-learn",
        "torch_cka",
    ):
        assert word in " ".join(SECTIONS), word
    assert "](docs/coming_from.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_the_page_links_to_exists():
    for target, heading in re.findall(r"\]\((?!https?://)([^)#]+)#?([^)]*)\)", PAGE):
        text = (ROOT / "docs" / target).read_text(encoding="utf-8")
        headings = [
            re.sub(r"[^\w -]", "", line.lstrip("# ")).strip().lower().replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        ]
        assert not heading or heading in headings, (target, heading)


# ----------------------------------------------------------------------------- on the command line


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--arch", "SimCLR"], "--method simclr"),
        (["--arch", "resnet18"], "--encoder resnet18"),
        (["--backbone", "resnet18"], "--encoder resnet18"),
        (["--world_size", "3"], "torchrun --nproc_per_node=3"),
        (["--base_gpu=1"], "CUDA_VISIBLE_DEVICES=1"),
        (["--wd", "5e-4"], "--weight-decay 5e-4"),
        (["--set", "CIFAR10"], "--data cifar10"),
        (["--test-interval", "5"], "--monitor-every 5"),
        (["--test_interval"], "--monitor-every VALUE"),
    ],
)
def test_an_option_of_another_program_is_answered_with_ours(words, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", *words])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert f"did you mean {meant}" in message and "is an option of other programs" in message


def test_what_is_unknown_everywhere_and_what_is_right_get_no_such_answer(capsys):
    assert hints(["--epochs", "3", "--frobnicate", "1", "word"]) == []
    with pytest.raises(SystemExit):
        main(["pretrain", "--epochs", "three"])
    assert "other programs" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pretrain", "supervised", "probe", "sweep"])
def test_no_flag_of_ours_is_taken_for_another_programs(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([\w-]+)", capsys.readouterr().out)}
    assert "seed" in flags or "out" in flags
    assert not flags & set(HERE)
