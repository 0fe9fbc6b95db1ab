"""A streamed folder is known by its images' content and labels, which are read once."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simlab.data import file_digests as digests
from simlab.data import load_folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two classes of six BMP files, all of one size in bytes."""
    monkeypatch.setenv("SIMLAB_DATA", str(tmp_path / "downloads"))
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            path = tmp_path / "images" / name / f"{i}.bmp"
            save(path, generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return tmp_path / "images"


def save(path: Path, pixels: np.ndarray):
    Image.fromarray(pixels).save(path)
    os.utime(path, (1e9, 1e9))  # long ago


def digest(folder) -> str:
    return load_folder(str(folder), fits=0).digest()


def test_images_replaced_in_place_by_others_of_the_same_size_change_the_digest(folder):
    before = digest(folder)
    for path in folder.rglob("*.bmp"):
        pixels = np.asarray(Image.open(path))
        size = path.stat().st_size
        save(path, 255 - pixels)
        assert path.stat().st_size == size
    assert digest(folder) != before


def test_exchanged_classes_change_the_digest(folder):
    before = digest(folder)
    (folder / "ant").rename(folder / "other")
    (folder / "bee").rename(folder / "ant")
    (folder / "other").rename(folder / "bee")
    assert digest(folder) != before


def test_the_digest_is_the_same_by_any_spelling_of_the_path_and_of_a_copy(
    folder, tmp_path, monkeypatch
):
    before = digest(folder)
    assert digest(f"{folder}/../images/") == before
    monkeypatch.chdir(tmp_path)
    assert digest("images") == digest("./images") == before
    shutil.copytree(folder, tmp_path / "a copy")
    assert digest("a copy") == before
    (tmp_path / "link").symlink_to(folder)
    assert digest("link") == before


def test_a_file_is_read_once_until_it_changes(folder, monkeypatch):
    paths = sorted(folder.rglob("*.bmp"))
    monkeypatch.setattr(digests, "SETTLED", 0)
    first = digests.file_digests(paths)
    read = []
    digest_of_file = digests._digest_of_file
    monkeypatch.setattr(digests, "_digest_of_file", lambda f: read.append(f) or digest_of_file(f))
    assert digests.file_digests(paths) == first and not read
    save(paths[3], np.zeros((8, 8, 3), np.uint8))
    second = digests.file_digests(paths)
    assert read == [str(paths[3])] and [a == b for a, b in zip(first, second)].count(False) == 1


def test_a_file_that_was_written_just_now_is_not_cached(folder):
    """It may be written again within the resolution of the file system's clock."""
    paths = sorted(folder.rglob("*.bmp"))
    digests.file_digests(paths)
    assert digests._read_cache(digests._cache_path([str(path) for path in paths])) == {}


def test_a_long_first_digest_says_its_time(folder, monkeypatch, capsys):
    monkeypatch.setattr(digests, "SLOW", -1)
    digests.file_digests(sorted(folder.rglob("*.bmp")))
    assert "read 12 images for their digest, once, in 0 s" in capsys.readouterr().out


def test_without_a_place_for_the_cache_all_is_read(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in its place")
    before = digest(folder)
    monkeypatch.setenv("SIMLAB_DATA", str(tmp_path / "file"))
    assert digest(folder) == before
