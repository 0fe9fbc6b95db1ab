"""What the options of ahmdtaha/simsiam became: each has flags here, with an effect."""

import functools
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from cli_calls import save_images, trained_with

from simlab.cli import main
from simlab.config import NOT_IDENTITY
from simlab.data import from_arrays
from simlab.data import registry as sources
from simlab.runs import Run

ROOT = Path(__file__).parent.parent
SMALL = (
    "--epochs 2 --batch-size 16 --encoder tiny --view-size 8 --knn-k 5 "
    "--monitor-every 1 --precision float32 --device cpu --threads 1 --lr 0.1 "
    "--method 'simsiam proj_dim=16 pred_dim=8'"
)
# its option: (flags in which it matters, flags that change it, what shows it)
TRAINED = {
    "data": ("--data IMAGES", "--data OTHERS", "weights"),
    "set": ("--data cifar10", "--data cifar100", "weights"),
    "optimizer rmsprop": ("--lr 0.01", "--optimizer rmsprop", "weights"),
    "optimizer lars": ("--optimizer sgd", "--optimizer lars", "weights"),
    "num_threads": ("--threads 1", "--threads 2", "threads"),
    "print_freq": ("--log-every 1", "--log-every 2", "lines of steps"),
    "test_interval": ("--monitor-every 1", "--monitor-every 2", "epochs in knn.csv"),
    "save_every": (
        "--epochs 7 --keep-checkpoints 1", "--epochs 7 --keep-checkpoints 3", "checkpoints"
    ),
}  # fmt: skip
# its option: (flags in which it matters, flags that change it); test_fields.py trains with each field
PARSED = {
    "arch": ("--method simsiam", "--method simclr"),
    "backbone": ("--encoder resnet18", "--encoder resnet50 --stem large"),
    "emb_dim": ("--method 'simsiam proj_dim=16'", "--method 'simsiam proj_dim=24'"),
    "emb_dim (predictor)": ("--method 'simsiam pred_dim=8'", "--method 'simsiam pred_dim=12'"),
    "emb_dim (layers)": ("--method 'simsiam proj_layers=2'", "--method 'simsiam proj_layers=3'"),
    "optimizer adam": ("--lr 0.01", "--optimizer adam"),
    "optimizer adamw": ("--optimizer adam", "--optimizer adamw --weight-decay 0.3"),
    "lr": ("--lr 0.1", "--lr 0.2"),
    "momentum": ("--momentum 0.9", "--momentum 0.5"),
    "wd": ("--weight-decay 0", "--weight-decay 0.1"),
    "batch_size": ("--batch-size 16", "--batch-size 8"),
    "epochs": ("--epochs 2", "--epochs 3"),
    "lr_policy step": ("--schedule constant", "--schedule step --decay-every 1"),
    "lr_policy multistep": ("--schedule constant", "--schedule multistep --milestones 0.4"),
    "lr_policy cosine": ("--schedule constant", "--schedule cosine"),
    "warmup_length": ("--schedule constant", "--warmup-epochs 2"),
    "multistep-lr-adjust": ("--schedule multistep --milestones 0.4", "--milestones 0.2,0.4"),
    "multistep-lr-gamma": ("--schedule multistep --milestones 0.4", "--decay 0.5"),
    "lr-decay-step": ("--schedule step --decay-every 1", "--decay-every 2"),
    "lr-decay-gamma": ("--schedule step --decay-every 1", "--decay 0.5"),
    "seed": ("--seed 0", "--seed 1"),
}
ELSEWHERE = {  # its option: where it is tested
    "trn_phase": "test_a_stored_run_is_asked_by_name_or_folder",
    "world_size": "test_distributed.py", "gpu": "test_arguments_that_can_not_be_meant_are_named",
    "resume": "test_resuming_is_what_happens_unless_fresh_is_said",
    "pretrained": "test_a_run_that_is_not_there_or_not_finished_is_refused",
    "log-dir": "test_pretrain_runs_on_a_folder_and_says_where_to_look",
}  # fmt: skip
NOT_HERE = {
    "trainer",
    "config_file",
    "name",
    "log_file",
    "l2-norm",
    "start-epoch",
    "base_gpu",
    "warm",
}


def cifar_of(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (48, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return lambda folder, download: from_arrays(images, torch.arange(48) % 10)


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory):
    """What a `simlab pretrain` with these flags leaves behind; each is run once."""
    home = tmp_path_factory.mktemp("options")
    save_images(home / "IMAGES", 0, 20)
    save_images(home / "OTHERS", 1, 20)

    @functools.cache
    def outcome(flags):
        words = shlex.split(f"--data IMAGES {SMALL} {flags}")
        words = [str(home / word) if word.isupper() else word for word in words]
        folder = home / f"runs {flags}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SIMLAB_RUNS", str(folder))
            for seed, name in enumerate(("cifar10", "cifar100")):
                patch.setitem(sources.DATASETS, name, cifar_of(seed))
            assert main(["pretrain", *words]) == 0
        run = Run(next(folder.glob("pretrain-*")), {})
        state, log = run.load_encoder_state(), (run.folder / "train.log").read_text()
        return {
            "weights": sum(float(v.double().abs().sum()) for v in state.values()),
            "threads": run.result["environment"]["threads"],
            "lines of steps": len(re.findall(r"epoch \d+ step \d+/\d+  time", log)),
            "epochs in knn.csv": len((run.folder / "knn.csv").read_text().splitlines()) - 1,
            "checkpoints": sorted(path.name[:12] for path in run.checkpoints.glob("*.pt")),
        }  # fmt: skip

    return outcome


@pytest.mark.long
@pytest.mark.parametrize("option", TRAINED)
def test_an_option_of_the_known_program_has_a_counterpart_with_an_effect(option, outcome_of):
    base, change, key = TRAINED[option]
    before, after = outcome_of(base), outcome_of(f"{base} {change}")
    assert before[key] != after[key]
    if option == "print_freq":  # two steps an epoch
        assert (before[key], after[key]) == (4, 2)
    if option == "test_interval":
        assert (before[key], after[key]) == (2, 1)


@pytest.mark.parametrize("option", PARSED)
def test_every_other_option_sets_fields_that_are_tested_for_their_effect(option, monkeypatch):
    """The fields of which test_fields.py shows that another value gives another result."""
    base, change = PARSED[option]
    before = trained_with(monkeypatch, *shlex.split(base))["config"]
    after = trained_with(monkeypatch, *shlex.split(base), *shlex.split(change))["config"]
    words = shlex.split(change)
    names = [word.removeprefix("--").replace("-", "_") for word in words[::2]]
    settings = dict(zip(names, words[1::2]))
    for name, value in settings.items():
        got = getattr(after, name)
        assert got == type(got)(value), name
    changed = {f.name for f in fields(after) if getattr(after, f.name) != getattr(before, f.name)}
    assert changed == set(settings) and not changed & NOT_IDENTITY


def test_every_option_of_the_known_program_is_in_the_docs_with_flags_that_exist(capsys):
    table = (ROOT / "docs" / "command_line.md").read_text().partition("its option | here")[2]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"[\w-]+", row[0])}
    tested = {option.split()[0] for option in TRAINED | PARSED}
    assert not (tested | set(ELSEWHERE)) & NOT_HERE
    assert tested | set(ELSEWHERE) | NOT_HERE <= named
    helps = ""
    for command in ("pretrain", "probe"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        helps += capsys.readouterr().out
    flags = set(re.findall(r"`(--[\w-]+)", " ".join(row[1] for row in rows)))
    elsewhere = {"--nproc_per_node", "--nnodes"}  # of torchrun
    assert len(flags) > 20 and all(flag in helps for flag in flags - elsewhere)


def test_the_steps_lines_tell_time_wait_loss_and_what_is_left(outcome_of, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    save_images(tmp_path / "images", 0, 40)
    words = shlex.split(SMALL.replace("--epochs 2", "--epochs 1"))
    assert main(["pretrain", "--data", str(tmp_path / "images"), *words, "--log-every", "2"]) == 0
    run = Run(next((tmp_path / "runs").glob("pretrain-*")), {})
    lines = [
        line for line in (run.folder / "train.log").read_text().splitlines() if " step " in line
    ]
    number = r"(-?\d+\.\d{4}) \((-?\d+\.\d{4})\)"
    pattern = (
        rf"epoch 1 step (\d)/4  time {number}  data {number}  loss {number}  left (\d:\d\d:\d\d)$"
    )
    first, second = (re.search(pattern, line).groups() for line in lines)
    assert (first[0], second[0]) == ("2", "4") and second[-1] == "0:00:00"
    assert first[1:6:2] == first[2:7:2], "at first the mean of all is that of the last"
    for now, mean in ((1, 2), (3, 4), (5, 6)):
        middle = (float(first[now]) + float(second[now])) / 2
        assert middle == pytest.approx(float(second[mean]), abs=2e-4)
    assert float(second[6]) == pytest.approx(run.history["loss"].iloc[-1], abs=1e-4)
    assert 0 <= float(second[3]) < float(second[1])


@pytest.mark.long
def test_resuming_is_what_happens_unless_fresh_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    save_images(tmp_path / "images")
    words = ["pretrain", "--data", str(tmp_path / "images"), *shlex.split(SMALL)]
    assert main(words) == 0
    run = next((tmp_path / "runs").glob("pretrain-*"))
    before = (run / "train.log").read_text()
    assert main(words) == 0
    assert (run / "train.log").read_text() == before, "it was loaded"
    (run / "metrics.json").unlink()
    sorted((run / "checkpoints").glob("epoch-000002*"))[0].unlink()
    assert main(words) == 0
    assert "resumes after epoch 1" in (run / "train.log").read_text()
    assert main([*words, "--fresh"]) == 0
    log = (run / "train.log").read_text()
    assert log.count("starts with") == 1 and "resumes" not in log


@pytest.mark.long
def test_the_papers_recipe_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path))
    monkeypatch.setitem(sources.DATASETS, "cifar10", cifar_of(0))
    words = ["--epochs", "1", "--batch-size", "16", "--precision", "float32"]
    assert main(["pretrain", "--recipe", "cifar-paper", *words]) == 0
    config = json.loads(next(tmp_path.glob("*/config.json")).read_text())["config"]
    assert (config["encoder"], config["stem"]) == ("resnet18", "small")
    assert "proj_dim=2048" in config["method"]
