"""Fashion-MNIST: the bundled file, torchvision's folder, and what is said of damaged files."""

import runpy

import numpy as np
import pytest
import torch
from data_images import ROOT, some_images, write_idx

from simlab.data import fashion as module
from simlab.data import load_data
from simlab.data.fashion import FASHION_CLASSES
from simlab.data.nuisances import CANVAS, POSE_FACTORS

# ----------------------------------------------------------------------------- the bundled images


def test_the_bundled_images_are_a_class_balanced_subset(fashion):
    assert fashion.train.images.shape == (10000, 1, 28, 28)
    assert fashion.test.images.shape == (2000, 1, 28, 28)
    assert fashion.classes == FASHION_CLASSES
    assert fashion.train.labels.bincount().tolist() == [1000] * 10
    assert fashion.test.labels.bincount().tolist() == [200] * 10


def test_they_are_small_and_have_their_licence_and_source_beside_them():
    files = list((ROOT / "data" / "fashion").iterdir())
    assert sum(f.stat().st_size for f in files) < 6e6
    assert "MIT" in (ROOT / "data" / "fashion" / "LICENSE").read_text()
    readme = (ROOT / "data" / "README.md").read_text()
    assert "Zalando" in readme and "make_fashion_subset.py" in readme


def test_training_and_test_images_do_not_overlap(fashion):
    train = {bytes(image.numpy()) for image in fashion.train.images}
    assert not any(bytes(image.numpy()) in train for image in fashion.test.images)


def test_the_scattered_set_has_the_same_clothes_on_a_larger_canvas(fashion, scattered):
    assert scattered.train.images.shape == (10000, 1, CANVAS, CANVAS)
    assert torch.equal(scattered.train.labels, fashion.train.labels)
    assert torch.equal(scattered.test.labels, fashion.test.labels)
    assert scattered.train.factors.shape == (10000, 4)
    assert scattered.train.factor_names == POSE_FACTORS
    assert not torch.equal(scattered.train.factors[:2000], scattered.test.factors)
    # by its brightness, each image is the one it is said to be: area goes with scale squared
    expected = fashion.train.images.float().sum((1, 2, 3)) * scattered.train.factors[:, 3] ** 2
    brightness = scattered.train.images.float().sum((1, 2, 3))
    assert float(torch.corrcoef(torch.stack((expected, brightness)))[0, 1]) > 0.99


def test_the_bundled_images_need_no_network(no_network, fashion):
    assert load_data("fashion").digest() == fashion.digest()
    assert no_network == []


FASHION_DIGESTS = {
    "fashion": "498940da98ca7b48",
    "fashion-scattered": "f33a13dbf74fdb6a",
    "fashion-coloured": "415e85ad034005b9",
}


@pytest.mark.parametrize("name", FASHION_DIGESTS)
def test_the_bundled_datasets_are_the_same_to_the_last_bit_for_ever(name):
    assert load_data(name).digest() == FASHION_DIGESTS[name]


def write_npz(path, **changes):
    """A file like the bundled one, with other arrays; None leaves one out."""
    arrays = {}
    for split, n in (("train", 20), ("test", 10)):
        arrays[f"{split}_images"] = some_images(n)[:, 0].numpy()
        arrays[f"{split}_labels"] = (np.arange(n) % 10).astype(np.uint8)
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def replace_by_html(path):
    path.write_bytes(b"<html>404</html>")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # within the first images: the archive's checksum finds it
    path.write_bytes(content)


def add_a_pickle(path):
    write_npz(path, train_images=np.array([print], dtype=object))


def leave_out_labels(path):
    write_npz(path, test_labels=None)


@pytest.mark.parametrize(
    "damage", [truncate, replace_by_html, flip_a_bit, add_a_pickle, leave_out_labels]
)
def test_a_damaged_bundled_file_is_named_and_no_pickle_is_loaded(tmp_path, monkeypatch, damage):
    path = tmp_path / "fashion" / "fashion.npz"
    path.parent.mkdir()
    write_npz(path)
    monkeypatch.setattr(module, "bundled_folder", lambda: tmp_path)
    assert len(load_data("fashion").train) == 20
    damage(path)
    with pytest.raises(ValueError, match=r"fashion.npz is damaged \(.*install it"):
        load_data("fashion")


def test_a_missing_bundled_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "bundled_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="fashion.npz is missing; .*install it"):
        load_data("fashion")


def test_the_script_that_made_the_bundled_file_makes_the_same_bytes_again(tmp_path):
    """From itself: the first 1,000 and 200 images of each class are all that it has."""
    bundled = ROOT / "data" / "fashion" / "fashion.npz"
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    with np.load(bundled, allow_pickle=False) as arrays:
        for split, name in (("train", "train"), ("test", "t10k")):
            write_idx(raw / f"{name}-images-idx3-ubyte", arrays[f"{split}_images"])
            write_idx(raw / f"{name}-labels-idx1-ubyte", arrays[f"{split}_labels"])
    script = runpy.run_path(str(ROOT / "data" / "make_fashion_subset.py"))
    script["main"](str(tmp_path), tmp_path / "again" / "fashion.npz")
    assert (tmp_path / "again" / "fashion.npz").read_bytes() == bundled.read_bytes()


# ---------------------------------------------------------------------- a folder of torchvision's


def test_a_folder_of_torchvisions_files_is_read(fashion_folder):
    data = load_data("fashion", str(fashion_folder))
    assert torch.equal(data.train.images, some_images(20))
    assert data.test.labels.tolist() == list(range(10))
    scattered = load_data("fashion-scattered", str(fashion_folder))
    assert scattered.train.images.shape == (20, 1, 32, 32)


def other_magic(path):
    path.write_bytes(b"\0\0\r" + path.read_bytes()[3:])  # floats


def only_a_header(path):
    path.write_bytes(path.read_bytes()[:3])


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", [truncate, replace_by_html, other_magic, only_a_header])
def test_a_damaged_file_in_the_folder_is_named(fashion_folder, name, damage):
    path = fashion_folder / "FashionMNIST" / "raw" / name
    write_idx(path, np.zeros((300, 8, 8) if "images" in name else 300, np.uint8))
    damage(path)
    with pytest.raises(ValueError, match=f"{name}.* damaged .*delete them and fetch them again"):
        load_data("fashion", str(fashion_folder))


def test_missing_files_are_named(fashion_folder):
    (fashion_folder / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    message = "fashion: t10k-labels-idx1-ubyte missing .*simlab data fashion --download"
    with pytest.raises(FileNotFoundError, match=message):
        load_data("fashion", str(fashion_folder))


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.arange(19).astype(np.uint8) % 10, "20 images but labels of shape"),
        (np.full(20, 10, np.uint8), "label 10 of image 0 is out of range"),
    ],
)
def test_labels_that_do_not_fit_are_named_with_both_files(fashion_folder, labels, message):
    write_idx(fashion_folder / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte", labels)
    both = "train-images-idx3-ubyte and train-labels-idx1-ubyte"
    with pytest.raises(ValueError, match=f"{both} do not fit each other .*{message}"):
        load_data("fashion", str(fashion_folder))


def test_a_damaged_file_is_no_failed_download(fashion_folder, no_network):
    truncate(fashion_folder / "FashionMNIST" / "raw" / "train-images-idx3-ubyte")
    with pytest.raises(ValueError, match="delete them and fetch them again"):
        load_data("fashion", str(fashion_folder), download=True)
    assert no_network == []
