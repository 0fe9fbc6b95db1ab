"""A run is found again by what it is made of, and by nothing else."""

import dataclasses
import json
import shutil

import pytest
import torch
import torch.nn as nn
from stored_runs import (
    METHOD,
    PACKAGE,
    SHARED,
    config_of,
    finish,
    flat,
    outcome,
    random_data,
    run_of,
    same,
    start,
)

from simlab.config import NOT_IDENTITY, SupervisedConfig
from simlab.data import Dataset
from simlab.runs import Run, claim, module_digest, save_metrics
from simlab.train import run as train
from simlab.train import train_supervised


def test_a_finished_run_is_loaded_without_a_step(reference, monkeypatch):
    monkeypatch.setattr(train, "fit", None)
    again = run_of(reference.folder.parent)
    assert again.folder == reference.folder and again.finished
    assert same(again.encoder.state_dict(), reference.encoder.state_dict())
    assert again.result == reference.result


def test_fields_that_do_not_change_the_result_do_not_count(reference, no_training):
    other = {
        "device": "auto", "threads": 2, "data_folder": "elsewhere", "download": True,
        "log_every": 1, "keep_checkpoints": 1, "on_error": "skip", "channels": 1,
        "decoding_threads": 3,
    }  # fmt: skip
    assert set(other) == NOT_IDENTITY - {"init"}  # for which the weights stand
    assert run_of(reference.folder.parent, config_of(**other)).folder == reference.folder


def test_auto_and_the_choice_it_stands_for_are_the_same_run(tmp_path, no_training):
    open_method = METHOD.replace("proj_layers=2", "proj_layers=0")

    def folder(**changes):
        config = config_of(encoder="auto", augment="auto", method=open_method, precision="auto")
        config = dataclasses.replace(config, **changes)
        with pytest.raises(TypeError, match="not callable"):  # the first step
            run_of(tmp_path, config, encoder=None)
        return max(tmp_path.glob("pretrain-*"), key=lambda path: path.stat().st_mtime_ns).name

    device = torch.device("cpu")
    explicit = {
        "encoder": "tiny", "augment": "scattered-light", "method": METHOD, "stem": "small",
        "precision": train.resolve(config_of(precision="auto"), random_data())
        .precision, "image_size": 8, "data": "arrays",
    }  # fmt: skip
    first = folder(device=str(device))
    for field, value in explicit.items():
        assert folder(**{field: value}) == first, field
    assert folder(**explicit) == first
    assert len(list(tmp_path.glob("pretrain-*"))) == 1
    folder(encoder="small")
    assert len(list(tmp_path.glob("pretrain-*"))) == 2


def test_equal_data_are_the_same_run_and_any_change_in_them_is_another(reference):
    def name(data):
        extra = {"data": data.digest(), "encoder": module_digest(flat())}
        extra |= {"method": "", "augment": ""}  # both simlab's
        config = train.resolve(config_of(), data, flat())
        with claim("pretrain", config, extra, reference.folder.parent / "names") as run:
            return run.folder.name

    def changed(splits, change):
        data = random_data()
        for split in splits:
            change(getattr(data, split))
        return name(Dataset(data.name, data.train, data.test, data.unlabeled))

    assert name(random_data()) == reference.folder.name

    def pixel(split):
        split.images[5, 0, 3, 3] ^= 1

    def label(split):
        split.labels[5] = (split.labels[5] + 1) % 4

    def class_name(split):
        split.classes = ("other", *split.classes[1:])

    names = [changed([s], c) for s in ("train", "test") for c in (pixel, label)]
    names.append(changed(["train", "test"], class_name))  # the two splits share their classes
    assert len({reference.folder.name, *names}) == 6


def test_a_changed_pixel_is_trained_on_again(reference, no_training):
    data = random_data()
    data.train.images[0, 0, 0, 0] ^= 1
    with pytest.raises(TypeError, match="not callable"):
        run_of(reference.folder.parent, data=data)


def test_pretraining_and_supervised_training_are_different_runs(tmp_path):
    supervised = SupervisedConfig(**SHARED | {"epochs": 1})
    options = {"encoder": flat(), "folder": str(tmp_path), "progress": False}
    run = train_supervised(supervised, random_data(), **options)
    assert run.folder.name.startswith("supervised-")
    assert train_supervised(supervised, random_data(), **options).folder == run.folder
    assert run_of(tmp_path, config_of(epochs=1)).folder.name.startswith("pretrain-")


def test_fresh_starts_anew(done, reference):
    (done.folder / "note").write_text("of the old run")
    seen = []
    run = run_of(done.folder.parent, fresh=True, on_epoch=lambda history: seen.append(len(history)))
    assert run.folder == done.folder and seen == [1, 2, 3, 4]
    assert not (run.folder / "note").exists()
    assert same(outcome(run), outcome(reference))


def test_the_runs_folder_is_the_one_of_the_environment(monkeypatch, tmp_path, no_training):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "mine"))
    with pytest.raises(TypeError, match="not callable"):
        run_of("")
    assert list((tmp_path / "mine").glob("pretrain-*"))


def test_a_notebooks_numbers_go_where_the_sweep_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    assert save_metrics("01", {"a": 1}) == tmp_path / "runs" / "book" / "01" / "metrics.json"
    monkeypatch.setenv("SIMLAB_OUT", str(tmp_path / "out"))
    assert json.loads(save_metrics("01", {"a": 2}).read_text()) == {"a": 2}


def test_a_users_module_is_known_by_its_layers_and_weights():
    assert module_digest(flat()) == module_digest(flat())
    weight, layer, buffer, precision = flat(), flat(), flat(), flat().double()
    weight.linear.weight.data[0, 0] += 1e-6
    layer.dropout.p = 0.2
    buffer.bn.num_batches_tracked += 1
    assert len({module_digest(m) for m in (flat(), weight, layer, buffer, precision)}) == 5


def test_a_users_module_is_known_by_its_code():
    """The same layers and weights: only what is done with them differs."""

    def relu():
        class Own(nn.Linear):
            def forward(self, x):
                return super().forward(x.flatten(1)).relu()

        return Own(4, 2)

    def tanh():
        class Own(nn.Linear):
            def forward(self, x):
                return super().forward(x.flatten(1)).tanh()

        return Own(4, 2)

    def inherited():
        class Own(type(relu())):
            pass

        return Own(4, 2)

    made = [relu(), relu(), tanh(), inherited()]
    for module in made:
        module.load_state_dict(made[0].state_dict())
    made += [nn.Sequential(made[0]), nn.Sequential(made[2])]
    a, b, c, d, inside_a, inside_c = (module_digest(module) for module in made)
    assert a == b and len({a, c, d, inside_a, inside_c}) == 5


@pytest.mark.long
def test_changed_code_never_answers_with_an_old_run(reference, tmp_path):
    """The loss is broken in a copy of the package: trained anew. A new comment: loaded."""
    folder = shutil.copytree(reference.folder.parent, tmp_path / "runs")
    started = {}
    for name, old, new in (
        (
            "comment",
            "import dataclasses\n",
            "import dataclasses  # a comment\n",
        ),
        ("broken", "return -mean_cosine", "return mean_cosine"),
    ):
        copy = shutil.copytree(
            PACKAGE, tmp_path / name / "simlab", ignore=shutil.ignore_patterns("__pycache__")
        )
        path = copy / "methods" / "simsiam.py"
        source = path.read_text()
        assert source.count(old) == 1
        path.write_text(source.replace(old, new))
        started[name] = start(folder, package=copy.parent)
    comment, broken = (finish(started[name]) for name in ("comment", "broken"))
    assert comment == {"steps": 0, "run": reference.folder.name}
    assert broken["steps"] == 12 and broken["run"] != reference.folder.name
    anew = Run(folder / broken["run"], {}).history
    assert not same(list(anew["loss"]), list(reference.history["loss"]))


def test_metrics_are_read_back_to_the_last_bit(tmp_path):
    run = Run(tmp_path, {})
    numbers = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 2.0000000000000004, -0.0, 1e22]
    rows = [{"epoch": i, "loss": x} for i, x in enumerate(numbers)] + [{"epoch": 7, "knn": 0.5}]
    run.save_history(rows)
    assert [x.hex() for x in run.history["loss"][:7]] == [x.hex() for x in numbers]
    assert run.history["epoch"].dtype == int and run.history["loss"].isna().sum() == 1


def test_a_run_says_what_it_is(reference, half):
    assert repr(reference) == f"Run({str(reference.folder)!r}, finished)"
    assert repr(half).endswith("unfinished)")
    assert reference.config["lr"] == 0.5 and not NOT_IDENTITY & set(reference.config)
    record = json.loads((reference.folder / "config.json").read_text())
    assert record == reference.identity and {"kind", "config", "code", "data"} <= set(record)


def test_a_notebook_shows_a_run_as_a_table(reference, half, tmp_path):
    table = reference._repr_html_()
    assert f"{reference.folder.name}: finished" in table and str(reference.folder) in table
    for name, value in (reference.result["final"] | reference.config).items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        assert f"<tr><th>{name}</th><td>{text}</td></tr>" in table
    unfinished = Run(half.folder, reference.identity)._repr_html_()
    assert "not finished" in unfinished and METHOD.split()[1] in unfinished
    hostile = Run(tmp_path, {"config": {"data": "<script>"}})._repr_html_()
    assert "&lt;script&gt;" in hostile and "<script>" not in hostile


def test_a_run_that_is_only_read_writes_nothing(half):
    before = {path: path.stat().st_mtime_ns for path in half.folder.rglob("*")}
    reader = Run(half.folder, half.identity, read_only=True)
    state = reader.load_checkpoint()
    reader.log("a line")
    reader.log_knn(4, 0.5)
    reader.save_history([{"epoch": 4}])
    reader.save_checkpoint(4, state, keep=1)
    reader.finish({}, {})
    assert {path: path.stat().st_mtime_ns for path in half.folder.rglob("*")} == before
