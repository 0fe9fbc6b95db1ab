"""Arrays and images in memory as a dataset: layouts, values, labels, classes, what is refused."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from data_images import some_images
from PIL import Image

from simlab.data import from_arrays, held_out


def dataset_of(images, labels=None, **options):
    """The dataset of images that all are in both splits, so that their order is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return from_arrays(images, labels, images, labels, **options)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW", "NHW1"])
def test_arrays_of_every_layout_are_taken(kind, layout):
    c = {"NHWC": 3, "NCHW": 3}.get(layout, 1)
    x = some_images(20, c)
    array = {"NHW": x[:, 0], "NCHW": x}.get(layout, x.permute(0, 2, 3, 1))
    labels = np.arange(20) % 3
    data = from_arrays(kind(array.numpy()), kind(labels))
    is_test = held_out(torch.from_numpy(labels))
    assert torch.equal(data.train.images, x[~is_test])
    assert torch.equal(data.test.images, x[is_test])
    assert data.test.labels.tolist() == labels[is_test].tolist()
    assert data.classes == ("0", "1", "2")


def test_both_splits_of_arrays_have_the_same_classes():
    x = some_images(6)
    data = from_arrays(x, [0, 1, 0, 1, 0, 1], x[:2], [0, 2])
    assert data.classes == data.test.classes == ("0", "1", "2")
    assert from_arrays(x, [0] * 6, x, [1] * 6, classes=["cat", "dog"]).classes == ("cat", "dog")
    assert from_arrays(x).train.labels.tolist() == [-1] * 5


def test_arrays_are_copied():
    array = some_images(6).numpy()
    data = from_arrays(array, test_images=array)
    digest = data.digest()
    array[:] = 0
    assert data.digest() == digest


# ------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    "change, note",
    [
        (lambda x: (x / np.float32(255)).astype(np.float32), "floats in 0 .. 1, multiplied by 255"),
        (lambda x: x / 255, "floats in 0 .. 1, multiplied by 255"),
        (lambda x: x.astype(np.float32), "floats in 0 .. 255, rounded"),
        (lambda x: x.astype(np.int64), ""),
        (lambda x: x.astype(np.uint16), ""),
        (lambda x: x.astype(np.uint16) * 257, "whole numbers from 0 to 65535, scaled to 0 .. 255"),
        (lambda x: x.astype(np.int32) * 4 - 500, "whole numbers from -500 to 520, scaled"),
    ],
)
def test_values_of_every_kind_become_the_same_bytes_and_it_is_said(kind, change, note):
    x = some_images(10, 3)
    x[0, 0, 0, :2] = torch.tensor([0, 255])
    data = dataset_of(kind(change(x.numpy())))
    assert torch.equal(data.train.images, x)
    assert [text for text in data.notes if note and note in text] == list(data.notes)


def test_booleans_are_black_and_white():
    x = some_images(6) > 100
    assert torch.equal(dataset_of(x).train.images, x.to(torch.uint8) * 255)


def test_four_channels_are_composed_on_white():
    rgba = some_images(6, 4)
    rgba[0, 3] = 0
    rgba[1, 3] = 255
    for array in (rgba, rgba.permute(0, 2, 3, 1)):
        images = dataset_of(array).train.images
        assert images.shape == (6, 3, 8, 8)
        assert images[0].unique().tolist() == [255] and torch.equal(images[1], rgba[1, :3])
        opacity = rgba[2:, 3:] / 255
        wanted = rgba[2:, :3] * opacity + 255 * (1 - opacity)
        assert float((images[2:] - wanted).abs().max()) <= 0.51


def test_grey_or_colour_is_asked_for():
    x = some_images(6)
    assert torch.equal(dataset_of(x, channels=3).train.images, x.repeat(1, 3, 1, 1))
    colour = some_images(6, 3)
    wanted = [np.array(Image.fromarray(c.permute(1, 2, 0).numpy()).convert("L")) for c in colour]
    assert np.array_equal(dataset_of(colour, channels=1).train.images[:, 0], wanted)


def test_images_that_are_all_but_black_are_warned_of():
    with pytest.warns(UserWarning, match="no value of the images is above 1, of 255"):
        from_arrays(some_images(6) // 128)


# ------------------------------------------------------------------------------------ lists of images


def test_a_list_of_pil_images_of_several_sizes():
    sizes = [(8, 8), (20, 10), (9, 30), (10, 10), (12, 40)]
    images = [Image.new("L", size, i) for i, size in enumerate(sizes)]
    data = dataset_of(images, list("abcab"))
    assert data.train.images.shape == (5, 1, 10, 10) and data.classes == ("a", "b", "c")
    assert data.train.images[:, 0, 5, 5].tolist() == [0, 1, 2, 3, 4]
    assert any("shorter sides from 8 to 12" in note for note in data.notes)
    images[3] = Image.new("RGBA", (10, 10), (0, 255, 0, 0))
    mixed = dataset_of(images, image_size=6).train.images
    assert mixed.shape == (5, 3, 6, 6) and mixed[3].unique().tolist() == [255]
    assert dataset_of(images, channels=1).train.channels == 1


def test_a_list_of_arrays_of_several_sizes():
    arrays = [np.full((8 + i, 9), i / 4, np.float32) for i in range(5)]
    data = dataset_of(arrays)
    assert data.train.images[:, 0, 4, 4].tolist() == [0, 64, 128, 191, 255]
    ragged = np.empty(5, dtype=object)
    ragged[:] = arrays
    assert dataset_of(ragged).digest() == data.digest()
    square = [np.full((9, 9), 7 * i, np.uint8) for i in range(5)]
    assert dataset_of(square).train.size == 9
    assert dataset_of(square, image_size=4).train.images[:, 0, 1, 1].tolist() == [0, 7, 14, 21, 28]
    wide = [np.tile(np.arange(40, dtype=np.uint8), (8, 1))] * 5
    cut, squeezed = (
        dataset_of(wide, image_size=8, fit=fit).train.images[0, 0, 0] for fit in ("cut", "squeeze")
    )
    assert cut.tolist() == list(range(16, 24))
    assert squeezed[0] < 5 and squeezed[-1] > 35
    # for what a run encodes later
    assert dataset_of(wide, image_size=8, fit="squeeze").fit == "squeeze"


# ------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "labels, classes",
    [
        ([1, 0, 2, 0, 1, 2], "012"),
        (np.array([1, 0, 2, 0, 1, 2], np.uint8), "012"),
        (torch.tensor([[1], [0], [2], [0], [1], [2]]), "012"),
        (np.eye(3)[[1, 0, 2, 0, 1, 2]], "012"),
        (torch.eye(3, dtype=torch.int64)[[1, 0, 2, 0, 1, 2]], "012"),
        ([torch.tensor(label) for label in (1, 0, 2, 0, 1, 2)], "012"),
        (list("bacabc"), "abc"),
        (np.array(list("bacabc")), "abc"),
        ([b"b", b"a", b"c", b"a", b"b", b"c"], "abc"),
        (pd.Series(list("bacabc")), "abc"),
        (pd.Series(list("bacabc")).astype("category"), "abc"),
        (pd.Categorical(list("acbcab"), categories=["c", "a", "b"]), "cab"),
        (pd.Series([1, 0, 2, 0, 1, 2], dtype="Int64"), "012"),
    ],
)
def test_labels_of_every_kind(labels, classes):
    data = dataset_of(some_images(6), labels)
    assert data.train.labels.tolist() == [1, 0, 2, 0, 1, 2]
    assert data.classes == tuple(classes)


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", None, "b", "a", "a"],
        pd.Series(["b", "a", None, "b", "a", "a"]),
        pd.Series(["b", "a", None, "b", "a", "a"]).astype("category"),
        pd.Series([1, 0, None, 1, 0, 0], dtype="Int64"),
        [1, 0, -1, 1, 0, 0],
    ],
)
def test_a_missing_label_is_minus_one(labels):
    assert dataset_of(some_images(6), labels).train.labels.tolist() == [1, 0, -1, 1, 0, 0]


@pytest.mark.parametrize("values", [(1, 2, 3), (0, 255), (0, 1, 7)])
def test_labels_that_leave_numbers_out_leave_no_class_without_images(values):
    labels = np.resize(values, 6)
    with pytest.warns(UserWarning, match="the labels .* are 0 to .* here"):
        data = from_arrays(some_images(6), labels, some_images(6), labels)
    assert data.classes == tuple(map(str, values))
    assert data.train.labels.tolist() == [values.index(label) for label in labels]


def test_names_are_looked_up_among_given_classes():
    x = some_images(6)
    labels = list("cacaac")
    assert from_arrays(x, labels, x, labels, classes=["c", "b", "a"]).train.labels.tolist() == [
        0, 2, 0, 2, 2, 0
    ]  # fmt: skip
    with pytest.raises(ValueError, match="the label 'dgo' is no class; did you mean 'dog'"):
        from_arrays(x, ["dgo"] * 6, classes=["cat", "dog"])


# ------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"images": some_images(6), "labels": np.zeros(6)}, "whole numbers or names, not float64"),
        ({"images": some_images(6), "labels": [0] * 5}, "labels of shape"),
        ({"images": some_images(6), "labels": np.ones((6, 3))}, r"row 0 is \[1.0, 1.0, 1.0\]"),
        ({"images": some_images(6), "labels": np.zeros((6, 2, 2))}, r"shape \(6, 2, 2\): expected"),
        ({"images": some_images(6), "labels": [-2, 0, 0, 0, 0, 0]}, "a label is -2"),
        ({"images": some_images(4)}, "4 images are too few"),
        ({"images": some_images(6), "test_labels": [0]}, "given, but no test_images"),
        ({"images": some_images(6), "labels": [2] * 6, "classes": ("a", "b")}, "out of range"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "dataset is empty"),
        ({"images": []}, "dataset is empty"),
        ({"images": np.full((6, 8, 8), np.nan)}, "NaN or infinite"),
        ({"images": torch.full((6, 8, 8), torch.inf)}, "NaN or infinite"),
        ({"images": torch.randn(6, 3, 8, 8)}, "floats from -.*those before the normalisation"),
        (
            {"images": np.full((6, 8, 8), 2.5)},
            "floats from 2.5 to 2.5: expected 0 .. 1 or 0 .. 255",
        ),
        ({"images": some_images(6, 2)}, r"shape \(6, 2, 8, 8\): expected 1, 3 or 4"),
        ({"images": some_images(6)[0, 0]}, r"shape \(8, 8\): expected \[N, H, W\]"),
        ({"images": some_images(6)[..., :5]}, "must be square, not 8 x 5; give them as a list"),
        (
            {"images": some_images(6), "test_images": some_images(6) / 255},
            "the same kind of values",
        ),
        ({"images": [Image.new("I;16", (8, 8))] * 6}, "image 0 has more than 8 bits"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(**arrays)


@pytest.mark.parametrize(
    "images, message",
    [
        (
            [(Image.new("L", (8, 8)), 1)] * 6,
            r"list of \(image, label\) or of rows use from_dataset",
        ),
        (torch.utils.data.TensorDataset(some_images(6)), "TensorDataset: .* see from_dataset"),
        (torch.utils.data.DataLoader(some_images(6)), "DataLoader: .* see from_dataset"),
        ("images", "images is a str"),
        (np.array(["a"] * 6), "expected numbers, or a list of images"),
        (["a.png"] * 6, "expected numbers, or a list of images"),
        (torch.zeros(6, 8, 8, dtype=torch.complex64), "expected real numbers"),
    ],
)
def test_what_is_no_array_of_images_is_pointed_to_what_takes_it(images, message):
    with pytest.raises(TypeError, match=message):
        from_arrays(images)
