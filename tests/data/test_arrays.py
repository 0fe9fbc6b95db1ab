"""Arrays in memory as a dataset: layouts, labels, classes, and what is refused."""

import numpy as np
import pytest
import torch
from data_images import some_images

from simlab.data import from_arrays


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
        (
            {"images": some_images(6), "test_labels": [0]},
            "test_labels were given, but no test_images",
        ),
        ({"images": some_images(6), "labels": [2] * 6, "classes": ("a", "b")}, "out of range"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "dataset is empty"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(**arrays)
