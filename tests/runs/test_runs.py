"""A run is found again by what it is made of, and survives whatever happens to it meanwhile.

Run as a script, this file trains the same tiny run in a process of its own.
"""

import dataclasses
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from torch import Tensor

import simlab
from simlab.config import NOT_IDENTITY, PretrainConfig, SupervisedConfig
from simlab.data import Dataset, from_arrays
from simlab.methods.simsiam import SimSiamModule
from simlab.runs import Run, claim, digest, files, module_digest, save_metrics
from simlab.runs import run as runs
from simlab.train import monitor, pretrain, train_supervised
from simlab.train import run as train

PACKAGE = Path(simlab.__file__).parent
SHARED = {
    "encoder": "tiny", "augment": "scattered", "view_size": 8, "epochs": 4, "batch_size": 16,
    "lr": 0.5, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3, "schedule": "cosine",
    "warmup_epochs": 0.5, "precision": "float32", "seed": 3, "device": "cpu", "threads": 1,
    "keep_checkpoints": 3,
}  # fmt: skip
METHOD = "simsiam proj_layers=2 proj_dim=16 pred_dim=8 pred_lr=2"
HEADS = {"method": METHOD, "monitor_every": 1, "knn_k": 5, "knn_temperature": 0.1}


def config_of(**changes) -> PretrainConfig:
    return PretrainConfig(**SHARED | HEADS | changes)


def random_data() -> Dataset:
    """48 random images to train on, three batches, and 12 to test on, in four classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 4
    return from_arrays(images[:48], labels[:48], images[48:], labels[48:])


class Flat(nn.Module):
    """A quick encoder with BatchNorm and with dropout, which draws from the global generator."""

    def __init__(self):
        super().__init__()
        self.linear, self.bn = nn.Linear(64, 12), nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(torch.relu(self.bn(self.linear(x.flatten(1)))))


def flat() -> Flat:
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        return Flat()


def run_of(folder, config=None, data=None, **options) -> Run:
    """The tiny run in `folder`, with `Flat` as its encoder where not said otherwise."""
    options = {"encoder": flat(), "progress": False, "folder": str(folder)} | options
    return pretrain(config or config_of(), data or random_data(), **options)


def stop_after(epoch: int):
    """A callback that stops a run like Ctrl-C."""

    def on_epoch(history):
        if len(history) == epoch:
            raise KeyboardInterrupt

    return on_epoch


def outcome(run: Run) -> tuple:
    """Metrics but for the time, all that a checkpoint holds, and the encoder's file."""
    state = run.load_checkpoint()
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state["history"]]
    csv = run.history.drop(columns="seconds").fillna(-1).to_dict("records")
    states = {name: state[name] for name in ("epoch", "network", "optimizer", "scaler")}
    return rows, csv, states, run.load_encoder_state()


def same(a, b) -> bool:
    """Equal to the last bit, in nested dicts and lists of tensors and numbers."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """The run, never stopped. Not to be changed."""
    return run_of(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A runs folder in which the run stopped after three of its four epochs. Not to be changed."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        run_of(folder, on_epoch=stop_after(3))
    return folder


@pytest.fixture
def half(stopped, tmp_path) -> Run:
    """A copy of the stopped run."""
    shutil.copytree(stopped, tmp_path / "half")
    return Run(next((tmp_path / "half").glob("pretrain-*")), {})


@pytest.fixture
def done(whole, tmp_path) -> Run:
    """A copy of the finished run."""
    shutil.copytree(whole.folder.parent, tmp_path / "done")
    return Run(tmp_path / "done" / whole.folder.name, {})


@pytest.fixture
def no_training(monkeypatch):
    """A step of training is an error."""
    monkeypatch.setattr(SimSiamModule, "loss", None)


# ---------------------------------------------------------------------------------- found again


def test_a_finished_run_is_loaded_without_a_step(whole, monkeypatch):
    monkeypatch.setattr(train, "fit", None)
    again = run_of(whole.folder.parent)
    assert again.folder == whole.folder and again.finished
    assert same(again.encoder.state_dict(), whole.encoder.state_dict())
    assert again.result == whole.result


def test_fields_that_do_not_change_the_result_do_not_count(whole, no_training):
    other = {
        "device": "auto", "threads": 2, "data_folder": "elsewhere", "download": True,
        "log_every": 1, "keep_checkpoints": 1, "on_error": "skip",
    }  # fmt: skip
    assert set(other) == NOT_IDENTITY - {"init"}  # for which the weights stand
    assert run_of(whole.folder.parent, config_of(**other)).folder == whole.folder


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


def test_equal_data_are_the_same_run_and_any_change_in_them_is_another(whole):
    def name(data):
        extra = {"data": data.digest(), "encoder": module_digest(flat())}
        extra |= {"method": "", "augment": ""}  # both simlab's
        config = train.resolve(config_of(), data, flat())
        with claim("pretrain", config, extra, whole.folder.parent / "names") as run:
            return run.folder.name

    def changed(splits, change):
        data = random_data()
        for split in splits:
            change(getattr(data, split))
        return name(Dataset(data.name, data.train, data.test, data.unlabeled))

    assert name(random_data()) == whole.folder.name

    def pixel(part):
        part.images[5, 0, 3, 3] ^= 1

    def label(part):
        part.labels[5] = (part.labels[5] + 1) % 4

    def class_name(part):
        part.classes = ("other", *part.classes[1:])

    names = [changed([s], c) for s in ("train", "test") for c in (pixel, label)]
    names.append(changed(["train", "test"], class_name))  # the two splits share their classes
    assert len({whole.folder.name, *names}) == 6


def test_a_changed_pixel_is_trained_on_again(whole, no_training):
    data = random_data()
    data.train.images[0, 0, 0, 0] ^= 1
    with pytest.raises(TypeError, match="not callable"):
        run_of(whole.folder.parent, data=data)


def test_pretraining_and_supervised_training_are_different_runs(tmp_path):
    supervised = SupervisedConfig(**SHARED | {"epochs": 1})
    options = {"encoder": flat(), "folder": str(tmp_path), "progress": False}
    run = train_supervised(supervised, random_data(), **options)
    assert run.folder.name.startswith("supervised-")
    assert train_supervised(supervised, random_data(), **options).folder == run.folder
    assert run_of(tmp_path, config_of(epochs=1)).folder.name.startswith("pretrain-")


def test_fresh_starts_anew(done, whole):
    (done.folder / "note").write_text("of the old run")
    seen = []
    run = run_of(done.folder.parent, fresh=True, on_epoch=lambda history: seen.append(len(history)))
    assert run.folder == done.folder and seen == [1, 2, 3, 4]
    assert not (run.folder / "note").exists()
    assert same(outcome(run), outcome(whole))


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


# --------------------------------------------------------------------------- a module of the user's


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


# ---------------------------------------------------------------------------------- changed code


@pytest.mark.long
def test_changed_code_never_answers_with_an_old_run(whole, tmp_path):
    """The loss is broken in a copy of the package: trained anew. A new comment: loaded."""
    folder = shutil.copytree(whole.folder.parent, tmp_path / "runs")
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
    assert comment == {"steps": 0, "run": whole.folder.name}
    assert broken["steps"] == 12 and broken["run"] != whole.folder.name
    anew = Run(folder / broken["run"], {}).history
    assert not same(list(anew["loss"]), list(whole.history["loss"]))


# ------------------------------------------------------------------- several processes, and kill -9


def start(folder: Path, *, stall_at=0, mark="", wait_for="", package=PACKAGE.parent):
    """A process that asks for the run; see `main`."""
    arguments = [str(folder), str(stall_at), str(mark), str(wait_for)]
    return subprocess.Popen(
        [sys.executable, "-u", __file__, *arguments], text=True, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process) -> dict:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def wait(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def main(folder: str, stall_at: str, mark: str, wait_for: str):
    """Ask for the run once `wait_for` exists; at step `stall_at` make `mark` and hang."""
    steps, loss = 0, SimSiamModule.loss

    def counted(*args):
        nonlocal steps
        steps += 1
        if steps == int(stall_at):
            Path(mark).touch()
            time.sleep(600)
        return loss(*args)

    SimSiamModule.loss = counted
    wait(lambda: not wait_for or Path(wait_for).exists())
    run = run_of(folder)
    print(json.dumps({"steps": steps, "run": run.folder.name}))


@pytest.mark.long
def test_killed_in_an_epoch_one_that_waited_goes_on_bit_for_bit_and_the_other_loads(
    whole, tmp_path
):
    folder, mark = tmp_path / "runs", tmp_path / "mark"
    first = start(folder, stall_at=8, mark=mark)  # the second of the third epoch's three steps
    waiting = [start(folder, wait_for=mark) for _ in range(2)]
    try:
        wait(mark.exists)
        run = Run(folder / whole.folder.name, {})
        assert list(run.history["epoch"]) == [1, 2] and not run.finished
        for process in waiting:
            assert "another process is working on" in process.stdout.readline()
        assert all(process.poll() is None for process in waiting)
        os.kill(first.pid, signal.SIGKILL)
        found = [finish(process) for process in waiting]
    finally:
        for process in (first, *waiting):
            process.kill()
            process.wait()
            process.stdout.close()
    assert sorted(one["steps"] for one in found) == [0, 6]  # epochs three and four, and nothing
    assert {one["run"] for one in found} == {whole.folder.name}
    assert same(outcome(run), outcome(whole))
    assert "resumes after epoch 2" in (run.folder / "train.log").read_text()


@pytest.mark.parametrize(
    ("changes", "encoder"),
    [
        ({}, flat()),
        ({"optimizer": "adam", "lr": 0.02}, None),
        ({"precision": "bfloat16", "method": f"{METHOD} fix_pred_lr=false"}, None),
        ({"precision": "float16"}, flat()),
    ],
    ids=["dropout", "adam", "bfloat16", "float16"],
)
def test_stopped_between_epochs_and_resumed_gives_the_same_bits(changes, encoder, tmp_path):
    config = config_of(**{"epochs": 3} | changes)
    never = run_of(tmp_path / "never", config, encoder=encoder)
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run_of(tmp_path / "twice", config, encoder=encoder, on_epoch=stop_after(epoch))
        torch.rand(4)
    resumed = run_of(tmp_path / "twice", config, encoder=encoder)
    assert resumed.folder.name == never.folder.name
    assert same(outcome(resumed), outcome(never))
    assert resumed.history["seconds"].is_monotonic_increasing


def test_supervised_training_stopped_and_resumed_gives_the_same_bits(tmp_path):
    config = SupervisedConfig(**SHARED | {"epochs": 2, "labels": 40})
    runs_of = []
    for name in ("never", "stopped"):
        options = {"encoder": flat(), "folder": str(tmp_path / name), "progress": False}
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                train_supervised(config, random_data(), **options, on_epoch=stop_after(1))
        runs_of.append(train_supervised(config, random_data(), **options))
    assert same(outcome(runs_of[0]), outcome(runs_of[1]))


def test_a_run_that_died_before_its_last_file_finishes_without_a_step(whole, tmp_path, monkeypatch):
    write_json = runs.write_json

    def dies(path, content):
        if path.name == "metrics.json":
            raise KeyboardInterrupt
        write_json(path, content)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(runs, "write_json", dies)
        run_of(tmp_path)
    monkeypatch.setattr(SimSiamModule, "loss", None)
    run = run_of(tmp_path)
    assert run.finished and same(outcome(run), outcome(whole))


# ------------------------------------------------------------------------------------- checkpoints


def epochs_kept(run: Run) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in run.checkpoints.glob("epoch-*.pt"))


@pytest.mark.parametrize(
    ("keep", "accuracies", "kept"),
    [
        (3, [0.1, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7], [1, 2, 4, 5, 6, 7]),
        (1, [0.1, 0.2, 0.9, 0.4, 0.5, 0.6, 0.7], [1, 2, 3, 4, 7]),
        (1, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [1, 2, 4, 7]),
    ],
)
def test_checkpoints_of_the_newest_the_best_and_the_doubled_epochs_are_kept(
    keep, accuracies, kept, tmp_path, monkeypatch
):
    left = iter(accuracies)
    monkeypatch.setattr(monitor, "knn_accuracy", lambda *args: next(left))
    run = run_of(tmp_path, config_of(epochs=7, keep_checkpoints=keep))
    assert epochs_kept(run) == kept
    best = run.read_checkpoint(run.best_checkpoint())
    assert best["epoch"] == 1 + accuracies.index(max(accuracies)) == run.result["best"]["epoch"]


def test_the_encoder_of_an_earlier_epoch_is_what_a_run_stopped_there_would_hold(tmp_path):
    run = run_of(tmp_path, config_of(epochs=3))
    then, now = run.encoder_at(1), run.encoder_at(3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(now.state_dict().values(), run.encoder.state_dict().values(), strict=True)
    )
    network = run.read_checkpoint(next(run.checkpoints.glob("epoch-000001-*")))["network"]
    for name, value in then.state_dict().items():
        assert torch.equal(value, network[f"encoder.{name}"])
    assert any(not torch.equal(a, b) for a, b in zip(then.parameters(), now.parameters()))
    with pytest.raises(ValueError, match=r"epoch=9: .* \[1, 2, 3\]"):
        run.encoder_at(9)


def test_every_file_is_written_aside_and_renamed(tmp_path, monkeypatch):
    renamed, replace = [], os.replace

    def spy(part, path):
        assert not Path(path).exists() or Path(path).name == "metrics.csv"
        renamed.append(Path(path).name.split("-")[0])
        replace(part, path)

    monkeypatch.setattr(files.os, "replace", spy)
    run = run_of(tmp_path, config_of(epochs=1))
    wanted = [
        "config.json",
        "encoder.json",
        "knn.csv",
        "metrics.csv",
        "epoch",
        "encoder.pt",
        "metrics.json",
    ]
    assert renamed == wanted
    written = {path.name.split("-")[0] for path in run.folder.rglob("*") if path.is_file()}
    assert written == {*renamed, "train.log"}


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def evil_bytes(path: Path, zipped: bool) -> bytes:
    if not zipped:
        return pickle.dumps({"run": Evil(path)}, protocol=2)
    torch.save({"run": Evil(path)}, path.with_suffix(".pt"))
    return path.with_suffix(".pt").read_bytes()


def replaced(path: Path, data: bytes) -> Path:
    """The checkpoint at `path` with other bytes, under a name that fits them."""
    path.unlink()
    path = path.with_name(f"{path.stem.rsplit('-', 1)[0]}-{digest(data)}.pt")
    path.write_bytes(data)
    return path


def truncated(path, scratch):
    path.write_bytes(path.read_bytes()[:-100])
    return path, "damaged"


def flipped(path, scratch):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path, "damaged"


def emptied(path, scratch):
    path.write_bytes(b"")
    return path, "damaged"


def swapped(path, scratch):
    with pytest.raises(KeyboardInterrupt):
        run_of(scratch / "other", config_of(lr=0.1), on_epoch=stop_after(1))
    (other,) = (scratch / "other").glob("pretrain-*/checkpoints/*.pt")
    return replaced(path, other.read_bytes()), "belongs to another run, pretrain-"


def evil_pickle(path, scratch):
    return replaced(path, evil_bytes(scratch / "executed", zipped=False)), "refused"


def evil_zip(path, scratch):
    return replaced(path, evil_bytes(scratch / "executed", zipped=True)), "refused"


def no_state(path, scratch):
    torch.save([1, 2], scratch / "list.pt")
    return replaced(path, (scratch / "list.pt").read_bytes()), "expected a dict"


DAMAGES = [truncated, flipped, emptied, swapped, evil_pickle, evil_zip, no_state]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_checkpoint_is_named_and_the_one_before_it_is_used(
    damage, half, whole, tmp_path, capsys
):
    newest = max(half.checkpoints.glob("epoch-*.pt"))
    path, says = damage(newest, tmp_path)
    capsys.readouterr()
    run = run_of(half.folder.parent)
    told = capsys.readouterr().out
    log = (run.folder / "train.log").read_text()
    for text in (told, log):
        assert str(path) in text and says in text
    assert "resumes after epoch 2" in log
    assert not (tmp_path / "executed").exists()
    assert path.with_suffix(".damaged").exists()  # nothing is thrown away
    assert same(outcome(run), outcome(whole))


def test_the_trap_itself_works(tmp_path):
    """Read the usual way, the malicious files do make their file."""
    torch.load(_saved(evil_bytes(tmp_path / "zipped", zipped=True), tmp_path), weights_only=False)
    pickle.loads(evil_bytes(tmp_path / "plain", zipped=False))
    assert (tmp_path / "zipped").exists() and (tmp_path / "plain").exists()


def _saved(data: bytes, folder: Path) -> Path:
    (folder / "evil").write_bytes(data)
    return folder / "evil"


def test_without_a_whole_checkpoint_the_run_starts_anew(half, whole, capsys):
    for path in half.checkpoints.glob("epoch-*.pt"):
        truncated(path, None)
    run = run_of(half.folder.parent)
    assert capsys.readouterr().out.count("damaged: its bytes") == 3
    assert same(outcome(run), outcome(whole))


@pytest.mark.parametrize("damage", [truncated, flipped, emptied, evil_zip, None])
def test_a_bad_encoder_file_is_named_and_made_again_without_a_step(
    damage, done, whole, tmp_path, capsys, no_training
):
    path = done.folder / "encoder.pt"
    if damage is None:
        path.unlink()
    elif damage is evil_zip:
        path.write_bytes(evil_bytes(tmp_path / "executed", zipped=True))
    else:
        damage(path, tmp_path)
    run = run_of(done.folder.parent)
    assert (f"{path} is damaged" in capsys.readouterr().out) == (damage is not None)
    assert not (tmp_path / "executed").exists()
    assert run.finished and same(outcome(run), outcome(whole))
    assert same(run.encoder.state_dict(), whole.encoder.state_dict())


def test_a_malicious_encoder_file_with_a_digest_that_fits_is_not_executed(done, tmp_path):
    data = evil_bytes(tmp_path / "executed", zipped=True)
    done.finish({}, done.result)
    (done.folder / "encoder.pt").write_bytes(data)
    files.write_json(done.folder / "metrics.json", done.result | {"encoder_digest": digest(data)})
    with pytest.raises(ValueError, match=r"encoder.pt is refused"):
        run_of(done.folder.parent)
    assert not (tmp_path / "executed").exists()


def test_what_a_dead_process_was_writing_is_cleared_away(half, whole):
    for folder in (half.folder, half.checkpoints):
        (folder / ".encoder.pt.4711.part").write_bytes(b"half")
    run = run_of(half.folder.parent)
    assert not list(run.folder.rglob("*.part"))
    assert same(outcome(run), outcome(whole))


# ------------------------------------------------------------------------ changed by hand, no room


@pytest.mark.parametrize("text", ["{", "", "[]", "\udcff", None])
def test_a_config_changed_by_hand_is_refused(text, done):
    path = done.folder / "config.json"
    if text is None:
        content = json.loads(path.read_text())
        content["config"]["lr"] = 0.25
        text = json.dumps(content)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"^{path} is (not valid JSON|not what this run)"):
        run_of(done.folder.parent)
    assert run_of(done.folder.parent, fresh=True).finished


def test_metrics_that_are_no_json_are_named(done):
    (done.folder / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics.json is not valid JSON"):
        run_of(done.folder.parent)
    assert (done.folder / "encoder.pt").exists()  # nothing is wrong with that one


@pytest.mark.parametrize("below", ["", "deeper/down"])
def test_a_runs_folder_that_can_not_be_made_is_named(below, tmp_path):
    (tmp_path / "file").write_text("in its place")
    with pytest.raises(OSError, match=f"{tmp_path}/file.*could not be written"):
        run_of(tmp_path / "file" / below)


def test_a_failed_write_leaves_the_old_content_and_no_trace(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def fails(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(OSError, match="file could not be written: No space left") as caught:
        files.write_bytes(path, b"new")
    assert caught.value.errno == 28
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def assert_goes_on(folder: Path, whole: Run):
    """After a write failed in the second epoch: the first one is whole, and the run can go on."""
    run = Run(folder / whole.folder.name, {})
    assert run.load_checkpoint()["epoch"] == 1 and not run.finished
    assert not list(run.folder.rglob("*.part"))
    seen = []
    resumed = run_of(folder, on_epoch=lambda history: seen.append(len(history)))
    assert seen == [2, 3, 4]
    assert same(outcome(resumed), outcome(whole))


def test_a_file_that_grows_too_large_is_named_and_nothing_is_lost(whole, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(history):
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # less than a checkpoint

    try:
        with pytest.raises(OSError, match=r"epoch-000002-\w+.pt could not be written: File too"):
            run_of(tmp_path, on_epoch=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_goes_on(tmp_path, whole)


def test_a_full_disk_is_named_and_nothing_is_lost(whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is not permitted here")

    def fill(history):
        with pytest.raises(OSError, match="No space left"), open(disk / "filler", "wb", 0) as file:
            while True:
                file.write(bytes(4096))

    try:
        with pytest.raises(OSError, match=f"{disk}.*could not be written: No space left"):
            run_of(disk, on_epoch=fill)
        (disk / "filler").unlink()
        assert_goes_on(disk, whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ------------------------------------------------------------------------------------ what is read


def test_metrics_are_read_back_to_the_last_bit(tmp_path):
    run = Run(tmp_path, {})
    numbers = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 2.0000000000000004, -0.0, 1e22]
    rows = [{"epoch": i, "loss": x} for i, x in enumerate(numbers)] + [{"epoch": 7, "knn": 0.5}]
    run.save_history(rows)
    assert [x.hex() for x in run.history["loss"][:7]] == [x.hex() for x in numbers]
    assert run.history["epoch"].dtype == int and run.history["loss"].isna().sum() == 1


def test_a_run_says_what_it_is(whole, half):
    assert repr(whole) == f"Run({str(whole.folder)!r}, finished)"
    assert repr(half).endswith("unfinished)")
    assert whole.config["lr"] == 0.5 and not NOT_IDENTITY & set(whole.config)
    record = json.loads((whole.folder / "config.json").read_text())
    assert record == whole.identity and {"kind", "config", "code", "data"} <= set(record)


def test_a_notebook_shows_a_run_as_a_table(whole, half, tmp_path):
    table = whole._repr_html_()
    assert f"{whole.folder.name}: finished" in table and str(whole.folder) in table
    for name, value in (whole.result["final"] | whole.config).items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        assert f"<tr><th>{name}</th><td>{shown}</td></tr>" in table
    unfinished = Run(half.folder, whole.identity)._repr_html_()
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


if __name__ == "__main__":
    main(*sys.argv[1:])
