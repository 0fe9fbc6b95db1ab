"""Callbacks see all of a run and change nothing; TensorBoard's files are read back."""

import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
from PIL import Image

from simlab import cli
from simlab.config import PretrainConfig
from simlab.data import from_arrays
from simlab.train import Callback, pretrain
from simlab.train.callbacks import make_callbacks

CONFIG = PretrainConfig(
    view_size=8, epochs=3, batch_size=16, monitor_every=2, knn_k=5, precision="float32",
    method="simsiam proj_dim=8 pred_dim=4", augment="scattered", device="cpu", threads=1, seed=3,
)  # fmt: skip


def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (44, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(44) % 4
    return from_arrays(images[:32], labels[:32], images[32:], labels[32:])


class Flat(nn.Module):
    """Its dropout draws from torch's global generator."""

    def __init__(self):
        super().__init__()
        self.linear, self.bn, self.dropout = nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Dropout(0.3)

    def forward(self, x):
        return self.dropout(torch.relu(self.bn(self.linear(x.flatten(1)))))


def run_of(folder, callbacks=(), **options):
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        encoder = Flat()
    quiet = {"encoder": encoder, "progress": False, "folder": str(folder)}
    return pretrain(CONFIG, data(), callbacks=callbacks, **quiet | options)


class Recorder(Callback):
    """Notes what it sees, and draws random numbers meanwhile."""

    def __init__(self, stop_after: int = 0, stop_at_step: int = 0):
        self.stop_after, self.stop_at_step = stop_after, stop_at_step
        self.starts, self.steps, self.rows, self.ends = [], [], [], []

    def on_start(self, run):
        assert not self.rows
        self.starts.append(run.name)

    def on_step(self, run, step, loss, lr):
        torch.rand(5)
        self.steps.append((step, float(loss), lr, loss.requires_grad))
        if step == self.stop_at_step:
            raise KeyboardInterrupt

    def on_epoch(self, run, row):
        torch.rand(5)
        self.rows.append(row)
        if row["epoch"] == self.stop_after:
            raise KeyboardInterrupt

    def on_end(self, run):
        self.ends.append((run.finished, run.result["final"]["epoch"], run.encoder.training))


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A run that is stopped after its first epoch, resumed, and asked for once more."""
    folder = tmp_path_factory.mktemp("runs")
    first, second, third = Recorder(stop_after=1), Recorder(), Recorder()
    with pytest.raises(KeyboardInterrupt):
        run_of(folder, [first])
    run = run_of(folder, [second])
    again = run_of(folder, [third])
    assert again.folder == run.folder
    return run, first, second, third


def test_a_callback_sees_each_step_and_the_row_of_each_epoch(seen):
    run, first, second, _ = seen
    assert [step for step, *_ in first.steps] == [1, 2]
    assert [step for step, *_ in second.steps] == [3, 4, 5, 6]
    assert not any(requires_grad for *_, requires_grad in second.steps)
    for row, (a, b) in zip(second.rows[1:], [second.steps[:2], second.steps[2:]]):
        assert (a[1] + b[1]) / 2 == pytest.approx(row["loss"], rel=1e-5)
        assert b[2] == row["lr"]


def test_a_resumed_and_a_stored_run_replay_their_history(seen):
    run, first, second, third = seen
    columns = ["epoch", "loss", "lr", "std_ratio"]
    for rows in (second.rows, third.rows):
        assert [{c: row[c] for c in columns} for row in rows] == (
            run.history[columns].to_dict("records")
        )
    assert ["knn" in row for row in third.rows] == [False, True, True]  # no NaN where none was
    assert first.rows == second.rows[:1] and not third.steps


def test_start_and_end_are_seen_once_and_the_end_when_the_run_is_finished(seen):
    run, first, second, third = seen
    assert first.starts == second.starts == third.starts == [run.name]
    assert first.ends == [] and second.ends == third.ends == [(True, 3, False)]


def test_a_callback_that_draws_random_numbers_changes_nothing(seen, tmp_path):
    run, *_ = seen
    plain = run_of(tmp_path)
    assert plain.name == run.name
    weights = run.encoder.state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in plain.encoder.state_dict().items())


@pytest.mark.parametrize(
    "callbacks, error, says",
    [
        (["tensorbord"], ValueError, "did you mean 'tensorboard'"),
        (["no_such_module:A"], ValueError, "no module 'no_such_module'"),
        (["simlab.train.callbacks:Calback"], ValueError, "did you mean 'Callback'"),
        ([Recorder], TypeError, "Recorder is a class"),
        ([print], TypeError, "no simlab.Callback"),
        (Recorder(), TypeError, "expected a list"),
        ("tensorboard", TypeError, "expected a list"),
    ],
)
def test_what_is_no_callback_is_refused_by_name(callbacks, error, says, tmp_path):
    with pytest.raises(error, match=says):
        run_of(tmp_path / "runs", callbacks)
    assert not (tmp_path / "runs").exists()


def test_a_callback_of_the_current_folder_is_called_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "my_loggers.py").write_text(
        "import simlab\n\nclass A(simlab.Callback):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (callback,) = make_callbacks(["my_loggers:A"])
    assert type(callback).__name__ == "A"


# ----------------------------------------------------------------------------------- TensorBoard


def scalars(folder):
    """What TensorBoard itself reads from a folder: (step, value) by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def test_tensorboard_reads_back_the_history_of_a_trained_resumed_and_stored_run(tmp_path):
    pytest.importorskip("tensorboard")
    from simlab.train import TensorBoard

    writer = TensorBoard(every=1)
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path, [writer, Recorder(stop_at_step=3)])  # which is trained again
    run = run_of(tmp_path, [writer])
    steps = scalars(run.folder / "tensorboard" / "steps")
    assert [step for step, _ in steps["train/loss"]] == [1, 2, 3, 4, 5, 6]
    for _ in range(2):  # stored: the files are written anew, and no point is there twice
        points = scalars(run.folder / "tensorboard")
        history = run.history
        for tag, column in (("train/loss", "loss"), ("train/lr", "lr"), ("test/knn", "knn")):
            rows = history[history[column].notna()]
            assert [step for step, _ in points[tag]] == list(rows["epoch"])
            assert [value for _, value in points[tag]] == pytest.approx(
                list(rows[column]), rel=1e-6
            )
        run_of(tmp_path, ["tensorboard"])


def test_the_command_line_writes_event_files_and_calls_a_logger(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    generator = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / "images" / f"class-{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    (tmp_path / "loud.py").write_text(
        "import simlab\n\nclass A(simlab.Callback):\n"
        "    def on_epoch(self, run, row):\n        print('epoch', row['epoch'], 'is over')\n"
    )
    flags = "--data images --view-size 8 --batch-size 8 --epochs 1 --device cpu --encoder tiny"
    options = ["--knn-k", "2", "--tensorboard", "--callback", "loud:A"]
    assert cli.main(["pretrain", *flags.split(), *options]) == 0
    assert "epoch 1 is over" in capsys.readouterr().out
    (run,) = (tmp_path / "runs").glob("pretrain-*")
    assert scalars(run / "tensorboard")["test/knn"][0][0] == 1


def test_without_the_package_tensorboard_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        run_of(tmp_path, ["tensorboard"])
