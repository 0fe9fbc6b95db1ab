"""Datasets: what is in them, that their factors describe them, and what is said of broken files."""

import gzip
import hashlib
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from simlab import sources
from simlab.augment import resample
from simlab.data import Dataset, Images, from_arrays, load_data
from simlab.data.registry import DATASETS, FASHION_CLASSES, download_folder, read_idx
from simlab.data.scatter import (
    CANVAS,
    FACTOR_NAMES,
    MAX_ANGLE,
    MAX_SCALE,
    MIN_SCALE,
    colour,
    scatter,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fashion():
    return load_data("fashion")


@pytest.fixture(scope="module")
def scattered():
    return load_data("fashion-scattered")


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to reach another computer fails, and is written down."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise OSError("the network is down")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


def some_images(n=10, c=1, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, c, side, side), dtype=torch.uint8, generator=generator)


# ----------------------------------------------------------------------------- what comes along


def test_the_images_that_come_along_are_a_stratified_subset(fashion):
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
    assert scattered.train.factor_names == FACTOR_NAMES
    assert not torch.equal(scattered.train.factors[:2000], scattered.test.factors)
    # by its brightness, each image is the one it is said to be: area goes with scale squared
    ink = fashion.train.images.float().sum((1, 2, 3)) * scattered.train.factors[:, 3] ** 2
    found = scattered.train.images.float().sum((1, 2, 3))
    assert float(torch.corrcoef(torch.stack((ink, found)))[0, 1]) > 0.99


# ------------------------------------------------------------------------------- scattered images


def test_the_same_seed_scatters_to_the_same_bits():
    x = some_images(20)
    first, again, other = scatter(x, 3), scatter(x, 3), scatter(x, 4)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1]) and not torch.equal(first[0], other[0])


def test_factors_are_uniform_in_their_range_and_keep_the_upright_image_on_the_canvas():
    x = torch.zeros(4000, 1, 28, 28, dtype=torch.uint8)
    at_x, at_y, angle, scale = scatter(x, 0)[1].unbind(1)
    room = (CANVAS - 28 * scale) / 2
    for values, low, high in (
        (at_x / room, -1, 1), (at_y / room, -1, 1), (angle, -MAX_ANGLE, MAX_ANGLE),
        (scale, MIN_SCALE, MAX_SCALE),
    ):  # fmt: skip
        share = (values - low) / (high - low)
        assert 0 <= float(share.min()) < 0.01 and 0.99 < float(share.max()) <= 1.00001
        assert abs(float(share.mean()) - 0.5) < 0.02
    assert float(torch.corrcoef(torch.stack((at_x / room, at_y / room, angle, scale))).sub(
        torch.eye(4)).abs().max()) < 0.07  # fmt: skip


def test_place_angle_and_scale_are_where_the_image_went():
    """Two dots, one in the middle and one 8 pixels to its right, found again by centres of mass."""
    at = torch.arange(28) - 13.5

    def dot(x, y):
        return torch.exp(-((at[None, :] - x) ** 2 + (at[:, None] - y) ** 2) / 4.5)

    # the middle's dot in channel 0, the other one in channel 1
    image = torch.stack((dot(0, 0), dot(8, 0), dot(0, 0))).mul(250).round().to(torch.uint8)
    images, factors = scatter(image.repeat(60, 1, 1, 1), 1)
    canvas = torch.arange(CANVAS) - (CANVAS - 1) / 2
    mass = images.double()
    x = (mass.sum(2) * canvas).sum(2) / mass.sum((2, 3))  # [N, 3]
    y = (mass.sum(3) * canvas).sum(2) / mass.sum((2, 3))
    at_x, at_y, angle, scale = factors.unbind(1)
    assert float((x[:, 0] - at_x).abs().max()) < 0.1  # pixels
    assert float((y[:, 0] - at_y).abs().max()) < 0.1
    right, up = x[:, 1] - x[:, 0], y[:, 0] - y[:, 1]
    inside = ((x[:, 1].abs() < 12) & (y[:, 1].abs() < 12)).nonzero()[:, 0]  # dot not cut off
    assert len(inside) > 30
    length = torch.hypot(right, up)[inside]
    torch.testing.assert_close(length, 8 * scale[inside].double(), atol=0.15, rtol=0)
    turned = torch.rad2deg(torch.atan2(up, right))[inside]  # counter-clockwise
    off = (turned - angle[inside] + 180).remainder(360) - 180
    assert float(off.abs().max()) < 2.0


def test_undoing_the_factors_gives_the_image_back(fashion):
    original = fashion.train.images[:200]
    images, factors = scatter(original, 5)
    x, y, angle, scale = factors.unbind(1)
    side = 28 * scale
    middle = CANVAS / 2
    box = torch.stack((middle + y - side / 2, middle + x - side / 2, side, side), dim=1)
    back = resample(images.float(), box, torch.zeros(200, dtype=torch.bool), -angle, 28)
    error = (back - original).abs().mean((1, 2, 3)) / 255
    large = scale > 0.85  # smaller ones have lost detail
    shuffled = (back[torch.randperm(200)] - original).abs().mean() / 255
    assert float(error[large].mean()) < 0.05 < 3 * float(error[large].mean()) < float(shuffled)


def test_images_that_do_not_fit_on_the_canvas_are_refused():
    with pytest.raises(ValueError, match="40 x 40 pixels do not fit on a canvas of 32"):
        scatter(torch.zeros(1, 1, 40, 40, dtype=torch.uint8), 0)


# -------------------------------------------------------------------------------- coloured images


def test_ink_and_ground_are_where_the_factors_say_and_grey_values_mix_them():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).repeat(500, 1, 3, 1)
    images, factors = colour(x, 0)
    ink, ground = factors[:, :3], factors[:, 3:]
    for column, share in enumerate((0, 0.2, 1)):
        mixed = 255 * (share * ink + (1 - share) * ground)  # [N, 3]
        assert float((images[:, :, 1, column] - mixed).abs().max()) < 0.51


def test_ink_is_light_and_ground_dark_and_they_say_nothing_about_each_other():
    _, factors = colour(torch.zeros(4000, 1, 2, 2, dtype=torch.uint8), 1)
    for part, low in ((factors[:, :3], 0.6), (factors[:, 3:], 0.0)):
        assert low <= float(part.min()) < low + 0.005
        assert low + 0.395 < float(part.max()) <= low + 0.4001
    assert float((torch.corrcoef(factors.T) - torch.eye(6)).abs().max()) < 0.07


def test_the_coloured_set_is_the_scattered_one_in_fixed_colours(idx_folder):
    scattered = load_data("fashion-scattered", str(idx_folder))
    data, again = (load_data("fashion-coloured", str(idx_folder)) for _ in range(2))
    assert data.digest() == again.digest() and data.train.images.shape[1:] == (3, 32, 32)
    assert torch.equal(data.train.labels, scattered.train.labels)
    assert torch.equal(data.train.factors[:, :4], scattered.train.factors)
    assert (
        data.train.factor_names[3:5] == ("scale", "ink red") and data.train.factors.shape[1] == 10
    )
    n = len(data.test)
    assert not torch.equal(data.train.factors[:n, 4:], data.test.factors[:, 4:])


# ------------------------------------------------------------------------ moments, digests, subsets


@pytest.mark.parametrize("c", [1, 3])
def test_moments_are_exact(c):
    x = some_images(50, c, 9)
    x[:, -1] //= 3
    mean, std = Images(x, torch.zeros(50).long(), ("a",)).moments()
    exact = x.double() / 255
    torch.testing.assert_close(mean, exact.mean((0, 2, 3)).float(), atol=1e-7, rtol=0)
    wanted = exact.std((0, 2, 3), correction=0).float()
    torch.testing.assert_close(std, wanted, atol=1e-7, rtol=0)


def test_a_constant_set_is_centred_and_left_at_its_scale():
    x = torch.full((4, 1, 5, 5), 51, dtype=torch.uint8)
    mean, std = Images(x, torch.zeros(4).long(), ("a",)).moments()
    assert mean.tolist() == pytest.approx([0.2]) and std.tolist() == [1.0]


def test_the_unlabeled_images_are_what_pretraining_sees_and_is_normalised_with():
    train, test, more = (
        Images(some_images(10, seed=i) // (i + 1), torch.full((10,), -1)) for i in range(3)
    )
    data = Dataset("d", train, test, more)
    assert data.pretrain is more and Dataset("d", train, test).pretrain is train
    assert torch.equal(data.mean, more.moments()[0])
    moved = data.to("cpu")
    assert torch.equal(moved.mean, data.mean) and torch.equal(moved.unlabeled.images, more.images)


def test_a_pixel_a_label_or_a_class_name_changes_the_digest():
    x, y = some_images(6), torch.tensor([0, 1, 0, 1, 0, 1])
    base = Images(x, y, ("a", "b"))
    other_pixel, other_label = x.clone(), y.clone()
    other_pixel[3, 0, 4, 4] ^= 1
    other_label[5] = 0
    changed = (
        replace(base, images=other_pixel),
        replace(base, labels=other_label),
        replace(base, classes=("a", "c")),
        Images(x.view(6, 1, 8, 8)[:5], y[:5], ("a", "b")),
    )
    assert len({base.digest(), *(part.digest() for part in changed)}) == 5
    assert base.digest() == replace(base, images=x.clone(), labels=y.clone()).digest()
    whole = Dataset("d", base, base)
    assert whole.digest() != Dataset("d", base, changed[0]).digest()
    assert whole.digest() != Dataset("d", base, base, changed[0]).digest()


def test_a_subset_keeps_labels_and_factors_beside_their_images(scattered):
    index = torch.tensor([5, 3, 9000])
    part = scattered.train.subset(index)
    for name in ("images", "labels", "factors"):
        assert torch.equal(getattr(part, name), getattr(scattered.train, name)[index])


def test_batches_follow_the_order_and_keep_what_is_left_over():
    images = Images(some_images(10), torch.full((10,), -1))
    order = torch.randperm(10)
    batches = list(images.batches(order, 4))
    assert [len(index) for index, _ in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([index for index, _ in batches]), order)
    assert torch.equal(torch.cat([batch for _, batch in batches]), images.batch[order])


@pytest.mark.parametrize(
    "images, labels, classes, message",
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), ("a",), r"uint8 \[N, C, H, W\]"),
        (some_images(2)[0], torch.zeros(1).long(), ("a",), r"uint8 \[N, C, H, W\]"),
        (some_images(2)[:0], torch.zeros(0).long(), ("a",), "not one image"),
        (some_images(2, 4), torch.zeros(2).long(), ("a",), "1 or 3 channels, not 4"),
        (some_images(2)[..., :5], torch.zeros(2).long(), ("a",), "square, not 8 x 5"),
        (some_images(2), torch.zeros(3).long(), ("a",), r"2 images but labels of shape \(3,\)"),
        (some_images(2), torch.zeros(2), ("a",), "int64, not torch.float32"),
        (
            some_images(2),
            torch.tensor([0, 2]),
            ("a", "b"),
            "label 2 of image 1 is out of range",
        ),
        (some_images(2), torch.tensor([-2, 0]), ("a",), "label -2 of image 0"),
        (some_images(2), torch.tensor([0, -1]), (), "label 0 of image 0"),
    ],
)
def test_images_that_make_no_sense_are_refused(images, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        Images(images, labels, classes)


def test_splits_that_do_not_go_together_are_refused():
    one = Images(some_images(5), torch.zeros(5).long(), ("a",))
    with pytest.raises(ValueError, match="1 x 8 and of 3 x 8"):
        Dataset("d", one, replace(one, images=some_images(5, 3)))
    with pytest.raises(ValueError, match="1 x 8 and of 1 x 9"):
        Dataset("d", one, one, replace(one, images=some_images(5, 1, 9)))
    with pytest.raises(ValueError, match="classes are not the training's"):
        Dataset("d", one, replace(one, classes=("b",)))


# -------------------------------------------------------------------------------- in-memory arrays


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW", "NHW1"])
def test_arrays_of_every_layout_are_taken(kind, layout):
    c = {"NHWC": 3, "NCHW": 3}.get(layout, 1)
    x = some_images(10, c)
    array = {"NHW": x[:, 0], "NCHW": x}.get(layout, x.permute(0, 2, 3, 1))
    data = from_arrays(kind(array.numpy()), kind(np.arange(10) % 3))
    assert torch.equal(data.train.images, x[[0, 1, 2, 3, 5, 6, 7, 8]])
    assert torch.equal(data.test.images, x[[4, 9]])  # every fifth is held out
    assert data.test.labels.tolist() == [1, 0] and data.classes == ("0", "1", "2")


def test_both_splits_of_arrays_have_the_same_classes():
    x = some_images(6)
    data = from_arrays(x, [0, 1, 0, 1, 0, 1], x[:2], [0, 3])
    assert data.classes == data.test.classes == ("0", "1", "2", "3")
    assert from_arrays(x, [0] * 6, x, [1] * 6, classes=["cat", "dog"]).classes == ("cat", "dog")
    assert from_arrays(x).train.labels.tolist() == [-1] * 5


def test_arrays_are_copied():
    array = some_images(6).numpy()
    data = from_arrays(array, test_images=array)
    digest = data.digest()
    array[:] = 0
    assert data.digest() == digest


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"images": np.zeros((6, 8, 8))}, "must be uint8"),
        ({"images": some_images(6), "labels": np.zeros(6)}, "whole numbers, not torch.float64"),
        ({"images": some_images(6), "labels": [0] * 5}, "labels of shape"),
        ({"images": some_images(4)}, "4 images are too few"),
        ({"images": some_images(6), "test_labels": [0]}, "test_labels, but no test_images"),
        ({"images": some_images(6), "labels": [2] * 6, "classes": ("a", "b")}, "out of range"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "not one image"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(**arrays)


# --------------------------------------------------------------------------------------- IDX files


def write_idx(path, array, shape=None):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *(shape or array.shape))
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_folder(tmp_path):
    """Four tiny files like Fashion-MNIST's."""
    for split, n in (("train", 20), ("t10k", 10)):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", some_images(n)[:, 0].numpy())
        labels = (np.arange(n) % 10).astype(np.uint8)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", labels)
    return tmp_path


def test_a_folder_of_idx_files_is_read(idx_folder):
    data = load_data("fashion", str(idx_folder))
    assert torch.equal(data.train.images, some_images(20))
    assert data.test.labels.tolist() == list(range(10))
    scattered = load_data("fashion-scattered", str(idx_folder))
    assert scattered.train.images.shape == (20, 1, 32, 32)


def test_unpacked_files_and_torchvisions_folders_are_read_too(idx_folder, tmp_path):
    raw = tmp_path / "downloads" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in idx_folder.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    unpacked = load_data("fashion", str(tmp_path / "downloads"))
    assert unpacked.digest() == load_data("fashion", str(idx_folder)).digest()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


def no_gzip(path):
    path.write_bytes(b"<html>404</html>")


def too_few_bytes(path):
    write_idx(path, np.zeros((3, 8, 8) if "images" in path.name else 3, np.uint8),
              (4, 8, 8) if "images" in path.name else (4,))  # fmt: skip


def wrong_magic(path):
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[2] = 13  # floats
    path.write_bytes(gzip.compress(bytes(raw)))


def only_a_header(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:3]))


def folder_instead(path):
    path.unlink()
    path.mkdir()


def gone(path):
    path.unlink()


@pytest.mark.parametrize("which", ["train-images-idx3", "t10k-labels-idx1"])
@pytest.mark.parametrize(
    "damage, message",
    [
        (gone, "is missing.*give their folder, or download=True"),
        (cut_short, "is damaged or cut short.*fetch the file again"),
        (no_gzip, "is damaged or cut short.*fetch the file again"),
        (folder_instead, "is damaged or cut short"),
        (too_few_bytes, "says .* but holds .*fetch the file again"),
        (wrong_magic, "is no IDX file of bytes.*fetch the file again"),
        (only_a_header, "is no IDX file of bytes"),
    ],
)
def test_a_broken_idx_file_is_named(idx_folder, which, damage, message):
    path = idx_folder / f"{which}-ubyte.gz"
    damage(path)
    with pytest.raises((FileNotFoundError, ValueError), match=f"{path.name} {message}"):
        load_data("fashion", str(idx_folder))


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.arange(19).astype(np.uint8) % 10, "20 images but labels of shape"),
        (np.full(20, 10, np.uint8), "label 10 of image 0 is out of range"),
    ],
)
def test_labels_that_do_not_fit_are_named_with_both_files(idx_folder, labels, message):
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", labels)
    both = "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz"
    with pytest.raises(ValueError, match=f"{both}: {message}.*fetch both again"):
        load_data("fashion", str(idx_folder))


def test_files_without_one_image_are_refused(idx_folder):
    write_idx(idx_folder / "train-images-idx3-ubyte.gz", np.zeros((0, 8, 8), np.uint8))
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="not one image"):
        load_data("fashion", str(idx_folder))


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=40), packed=st.booleans())
def test_no_file_of_any_bytes_gives_anything_but_an_error_or_its_images(
    tmp_path_factory, content, packed
):
    path = tmp_path_factory.mktemp("idx") / "any.gz"
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        assert read_idx(path, 1).numel() == len(content) - 8
    except ValueError as error:
        assert str(path) in str(error)


# ---------------------------------------------------------------------------------- torchvision's


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def make_cifar(root, number, monkeypatch):
    """Tiny CIFAR batches in their official format, whose MD5 sums torchvision is told of."""
    make = {10: torchvision.datasets.CIFAR10, 100: torchvision.datasets.CIFAR100}[number]
    folder = root / make.base_folder
    folder.mkdir(parents=True)
    names = [f"class {i}" for i in range(number)]
    meta = {"label_names" if number == 10 else "fine_label_names": names}
    (folder / make.meta["filename"]).write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(make, "meta", make.meta | {"md5": md5(folder / make.meta["filename"])})
    key = "labels" if number == 10 else "fine_labels"
    for kind in ("train_list", "test_list"):
        files = []
        for seed, (name, _) in enumerate(getattr(make, kind)):
            pixels = some_images(4, 3, 32, seed).reshape(4, -1).numpy()
            batch = {"data": pixels, key: [seed, 1, 2, number - 1]}
            (folder / name).write_bytes(pickle.dumps(batch))
            files.append([name, md5(folder / name)])
        monkeypatch.setattr(make, kind, files)
    return folder


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


def test_what_comes_along_needs_no_network(no_network, fashion):
    assert load_data("fashion").digest() == fashion.digest()
    assert no_network == []


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


# ----------------------------------------------------------------------------------------- by name


@pytest.mark.parametrize(
    "name, message",
    [
        ("cifar-10", "did you mean 'cifar10'"),
        ("fashion_scattered", "did you mean 'fashion-scattered'"),
        (
            "imagenet",
            "known: cifar10, cifar100, fashion, fashion-coloured, fashion-scattered, stl10",
        ),
        ("", "dataset '' is unknown"),
    ],
)
def test_an_unknown_data_set_gets_the_nearest_right_name(name, message):
    with pytest.raises(ValueError, match=message):
        load_data(name)


def test_every_named_set_is_tested_here():
    fashion = {"fashion", "fashion-scattered", "fashion-coloured"}
    assert set(DATASETS) == {*fashion, "cifar10", "cifar100", "stl10"}


def test_a_size_that_a_set_does_not_have_is_refused(idx_folder):
    assert load_data("fashion", str(idx_folder), image_size=8).train.size == 8
    with pytest.raises(ValueError, match="image_size=9: fashion has images of 8 pixels"):
        load_data("fashion", str(idx_folder), image_size=9)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_data_set_lives_on_the_device_that_was_asked_for(idx_folder):
    data = load_data("fashion-scattered", str(idx_folder), device="cuda")
    parts = (data.train.images, data.train.labels, data.train.factors, data.mean, data.test.images)
    assert all(part.device.type == "cuda" for part in parts)
    assert data.digest() == load_data("fashion-scattered", str(idx_folder)).digest()


# ---------------------------------------------------------------------------------------- the wheel


def test_laid_out_as_in_the_wheel_the_package_finds_its_images(tmp_path, monkeypatch, fashion):
    """The wheel itself is built and installed by the next test."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert all((ROOT / package / "__init__.py").exists() for package in wheel["packages"])
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, tmp_path / "site" / target)
    module = Path(sources.__file__).relative_to(ROOT)
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "site" / module))
    assert sources.come_along() == tmp_path / "site" / "simlab" / "_data"
    assert load_data("fashion").digest() == fashion.digest()


@pytest.mark.slow
def test_an_installed_wheel_brings_the_images_into_an_empty_folder(tmp_path, fashion):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], capture_output=True, text=True
    )
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip(f"the build backend can't be fetched here: {built.stderr[-200:]}")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    code = (
        "import simlab; from simlab.data import load_data; "
        "print(simlab.__file__); print(load_data('fashion').digest())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env={"PYTHONPATH": str(site), "HOME": str(empty)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    file, digest = found.stdout.split()
    assert Path(file).is_relative_to(site)
    assert digest == fashion.digest()


def test_a_known_angle_is_given_as_cosine_and_sine_so_that_its_ends_meet():
    factors = torch.tensor([[3.0, -180.0], [5.0, 180.0], [7.0, 90.0]])
    images, labels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3).long()
    known = Images(images, labels, ("one",), factors, ("x", "angle")).known()
    assert torch.equal(known["x"], factors[:, :1])
    expected = torch.tensor([[-1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(known["angle"], expected, atol=1e-6, rtol=0)
    assert Images(images, labels, ("one",)).known() == {}
    with pytest.raises(ValueError, match="shorter"):  # a name without its column
        Images(images, labels, ("one",), factors, ("x", "angle", "y")).known()
