"""Checkpoints: which are kept, and what happens to broken ones."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from stored_runs import (
    config_of,
    outcome,
    run_of,
    same,
    stop_after,
)

from simlab.runs import Run, digest, files
from simlab.train import monitor


def epochs_kept(run: Run) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in run.checkpoints.glob("epoch-*.pt"))


@pytest.mark.parametrize(
    ("keep", "accuracies", "expected"),
    [
        (3, [0.1, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7], [1, 2, 4, 5, 6, 7]),
        (1, [0.1, 0.2, 0.9, 0.4, 0.5, 0.6, 0.7], [1, 2, 3, 4, 7]),
        (1, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [1, 2, 4, 7]),
    ],
)
def test_checkpoints_of_the_newest_the_best_and_the_doubled_epochs_are_kept(
    keep, accuracies, expected, tmp_path, monkeypatch
):
    left = iter(accuracies)
    monkeypatch.setattr(monitor, "knn_accuracy", lambda *args: next(left))
    run = run_of(tmp_path, config_of(epochs=7, keep_checkpoints=keep))
    assert epochs_kept(run) == expected
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

    def spy(source, path):
        assert not Path(path).exists() or Path(path).name == "metrics.csv"
        renamed.append(Path(path).name.split("-")[0])
        replace(source, path)

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
    damage, half, reference, tmp_path, capsys
):
    newest = max(half.checkpoints.glob("epoch-*.pt"))
    path, says = damage(newest, tmp_path)
    capsys.readouterr()
    run = run_of(half.folder.parent)
    output = capsys.readouterr().out
    log = (run.folder / "train.log").read_text()
    for text in (output, log):
        assert str(path) in text and says in text
    assert "resumes after epoch 2" in log
    assert not (tmp_path / "executed").exists()
    assert path.with_suffix(".damaged").exists()  # nothing is thrown away
    assert same(outcome(run), outcome(reference))


def test_the_trap_itself_works(tmp_path):
    """Read the usual way, the malicious files do make their file."""
    torch.load(_saved(evil_bytes(tmp_path / "zipped", zipped=True), tmp_path), weights_only=False)
    pickle.loads(evil_bytes(tmp_path / "plain", zipped=False))
    assert (tmp_path / "zipped").exists() and (tmp_path / "plain").exists()


def _saved(data: bytes, folder: Path) -> Path:
    (folder / "evil").write_bytes(data)
    return folder / "evil"


def test_without_a_whole_checkpoint_the_run_starts_anew(half, reference, capsys):
    for path in half.checkpoints.glob("epoch-*.pt"):
        truncated(path, None)
    run = run_of(half.folder.parent)
    assert capsys.readouterr().out.count("damaged: its bytes") == 3
    assert same(outcome(run), outcome(reference))


@pytest.mark.parametrize("damage", [truncated, flipped, emptied, evil_zip, None])
def test_a_bad_encoder_file_is_named_and_made_again_without_a_step(
    damage, done, reference, tmp_path, capsys, no_training
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
    assert run.finished and same(outcome(run), outcome(reference))
    assert same(run.encoder.state_dict(), reference.encoder.state_dict())


def test_a_malicious_encoder_file_with_a_digest_that_fits_is_not_executed(done, tmp_path):
    data = evil_bytes(tmp_path / "executed", zipped=True)
    done.finish({}, done.result)
    (done.folder / "encoder.pt").write_bytes(data)
    files.write_json(done.folder / "metrics.json", done.result | {"encoder_digest": digest(data)})
    with pytest.raises(ValueError, match=r"encoder.pt is refused"):
        run_of(done.folder.parent)
    assert not (tmp_path / "executed").exists()


def test_what_a_dead_process_was_writing_is_cleared_away(half, reference):
    for folder in (half.folder, half.checkpoints):
        (folder / ".encoder.pt.4711.part").write_bytes(b"half")
    run = run_of(half.folder.parent)
    assert not list(run.folder.rglob("*.part"))
    assert same(outcome(run), outcome(reference))
