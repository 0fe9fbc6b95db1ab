"""torchvision's datasets: official files, damaged files, and no network unless asked for."""

from pathlib import Path

import pytest
import torch
import torchvision
from cifar_files import make_cifar, md5
from data_images import ROOT, some_images

from simlab.data import download_folder, load_data


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("number, batches", [(10, 5), (100, 1)])
def test_cifar_is_read_from_its_official_files(tmp_path, monkeypatch, number, batches):
    make_cifar(tmp_path, number, monkeypatch)
    data = load_data(f"cifar{number}", str(tmp_path))
    assert data.name == f"cifar{number}"
    wanted = torch.cat([some_images(4, 3, 32, seed) for seed in range(batches)])
    assert torch.equal(data.train.images, wanted)
    assert torch.equal(data.test.images, some_images(4, 3, 32))
    wanted = [label for seed in range(batches) for label in (seed, 1, 2, number - 1)]
    assert data.train.labels.tolist() == wanted
    assert data.classes == tuple(f"class {i}" for i in range(number))


def test_a_damaged_cifar_file_is_named(tmp_path, monkeypatch):
    folder = make_cifar(tmp_path, 10, monkeypatch)
    cut_short(folder / "data_batch_3")
    (folder / "test_batch").unlink()
    with pytest.raises(
        FileNotFoundError, match="data_batch_3, .*test_batch missing or damaged"
    ) as e:
        load_data("cifar10", str(tmp_path))
    assert "data_batch_2" not in str(e.value) and "download=True" in str(e.value)


def test_stl10_is_read_from_its_official_files_with_its_unlabeled_images(tmp_path, monkeypatch):
    make = torchvision.datasets.STL10
    folder = tmp_path / make.base_folder
    folder.mkdir()
    wanted = {}
    for seed, (split, n) in enumerate({"train": 5, "test": 3, "unlabeled": 4}.items()):
        wanted[split] = some_images(n, 3, 96, seed)
        columns_first = wanted[split].transpose(2, 3).contiguous().numpy()
        (folder / f"{split}_X.bin").write_bytes(columns_first.tobytes())
        if split != "unlabeled":
            (folder / f"{split}_y.bin").write_bytes(bytes(range(1, n + 1)))
    names = [f"class{i}" for i in range(10)]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    for kind in ("train_list", "test_list"):
        files = [[name, md5(folder / name)] for name, _ in getattr(make, kind)]
        monkeypatch.setattr(make, kind, files)
    data = load_data("stl10", str(tmp_path))
    assert torch.equal(data.train.images, wanted["train"])
    assert torch.equal(data.test.images, wanted["test"])
    assert torch.equal(data.pretrain.images, wanted["unlabeled"])
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.unlabeled.labels.tolist() == [-1] * 4 and data.classes == tuple(names)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_without_download_nothing_touches_the_network_and_the_error_says_what_to_do(
    tmp_path, no_network, name
):
    with pytest.raises(
        FileNotFoundError, match=f"download=True, or `simlab data {name} --download"
    ) as e:
        load_data(name, str(tmp_path))
    assert str(tmp_path) in str(e.value)
    assert no_network == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "fashion"])
def test_a_failed_download_is_a_connection_error(tmp_path, no_network, name):
    with pytest.raises(ConnectionError, match=f"could not be downloaded to {tmp_path}"):
        load_data(name, str(tmp_path), download=True)
    assert no_network


def test_downloads_go_where_they_are_told(tmp_path, monkeypatch):
    monkeypatch.delenv("SIMLAB_DATA", raising=False)
    assert download_folder() == ROOT / "data" / "downloads"
    monkeypatch.setenv("SIMLAB_DATA", str(tmp_path))
    assert download_folder() == tmp_path
    assert download_folder("elsewhere") == Path("elsewhere")
