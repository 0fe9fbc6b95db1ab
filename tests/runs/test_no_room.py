"""Files changed by hand are refused; where there is no room, nothing is lost."""

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
from stored_runs import (
    outcome,
    run_of,
    same,
)

from simlab.runs import Run, files


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


def assert_goes_on(folder: Path, reference: Run):
    """After a write failed in the second epoch: the first one is whole, and the run can go on."""
    run = Run(folder / reference.folder.name, {})
    assert run.load_checkpoint()["epoch"] == 1 and not run.finished
    assert not list(run.folder.rglob("*.part"))
    seen = []
    resumed = run_of(folder, on_epoch=lambda history: seen.append(len(history)))
    assert seen == [2, 3, 4]
    assert same(outcome(resumed), outcome(reference))


def test_a_file_that_grows_too_large_is_named_and_nothing_is_lost(reference, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(history):
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # less than a checkpoint

    try:
        with pytest.raises(OSError, match=r"epoch-000002-\w+.pt could not be written: File too"):
            run_of(tmp_path, on_epoch=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_goes_on(tmp_path, reference)


def test_a_full_disk_is_named_and_nothing_is_lost(reference, tmp_path):
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
        assert_goes_on(disk, reference)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
