"""Datasets of other libraries: torch's, torchvision's, Hugging Face's, and lists of pairs."""

import tracemalloc

import numpy as np
import pytest
import torch
from data_images import some_images, write_folders, write_image
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, random_split
from torchvision import datasets
from torchvision.transforms import v2

import simlab
from simlab.data import from_dataset, load_data

TO_FLOAT = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def images_of(data):
    return {image.numpy().tobytes() for split in data.splits().values() for image in split.images}


@pytest.mark.parametrize("scale", [1, 255])
def test_tensors_of_torch(scale):
    x = some_images(20, 3)
    labels = torch.arange(20) % 2
    data = simlab.from_dataset(TensorDataset(x / scale if scale > 1 else x, labels))
    assert torch.equal(
        data.test.images[:1], x[[i for i in range(20) if torch.equal(x[i], data.test.images[0])]]
    )
    assert len(data.train) == 16 and data.classes == ("0", "1") and data.name == "TensorDataset"
    assert images_of(data) == {image.numpy().tobytes() for image in x}
    alone = from_dataset(TensorDataset(x))
    assert alone.train.labels.unique().tolist() == [-1]


def test_torchvisions_image_folder_equals_simlabs(tmp_path):
    write_folders(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    for i in range(3):
        write_image(tmp_path / "train" / "cat" / f"{i}.png", 20, 9, seed=i)
    wanted = load_data(tmp_path, image_size=8)
    for transform in (None, TO_FLOAT):
        train, test = (datasets.ImageFolder(tmp_path / s, transform) for s in ("train", "test"))
        data = from_dataset(train, test, image_size=8)
        assert data.classes == wanted.classes
        assert torch.equal(data.train.labels, wanted.train.labels)
        difference = data.train.images.int() - wanted.train.images.int()
        assert int(difference.abs().max()) <= 1 and data.digest()[0]
    assert any("floats in 0 .. 1" in note for note in data.notes)


def test_torchvisions_own_sets_and_subsets_keep_their_classes(fashion_folder):
    stored = datasets.FashionMNIST(fashion_folder, train=True)
    wanted = load_data("fashion", fashion_folder)
    data = from_dataset(stored, datasets.FashionMNIST(fashion_folder, train=False))
    assert torch.equal(data.train.images, wanted.train.images)
    assert data.classes == wanted.classes and data.name == "FashionMNIST"
    subset = Subset(random_split(stored, [15, 5])[0], range(10))
    with pytest.warns(UserWarning):  # ten images of ten classes
        assert from_dataset(subset).classes == wanted.classes


class Rows:
    """Shaped as datasets.Dataset: rows by index, and features that know the classes."""

    def __init__(self, rows, features=None):
        self.rows = rows
        self.features = features

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class ClassLabel:
    def __init__(self, names):
        self.names = names


class Value:
    pass


FEATURES = {"id": Value(), "img": type("Image", (), {})(), "fine": ClassLabel(["cat", "dog"])}


def some_rows(*keys, number=10):
    image, *labels = keys
    x = some_images(number, 3)
    rows = []
    for i in range(number):
        row = {"id": i, image: Image.fromarray(x[i].permute(1, 2, 0).numpy())}
        rows.append(row | {label: i % 2 for label in labels})
    return rows


def test_rows_as_hugging_face_has_them():
    data = from_dataset(Rows(some_rows("img", "fine"), FEATURES))
    assert data.classes == ("cat", "dog") and len(data.train) == 8
    assert images_of(data) == {image.numpy().tobytes() for image in some_images(10, 3)}
    plain = from_dataset(Rows(some_rows("image", "label")))
    assert plain.classes == ("0", "1") and plain.digest() != data.digest()
    assert torch.equal(plain.train.images, data.train.images)
    assert from_dataset(Rows(some_rows("image"))).classes == ()
    chosen = from_dataset(Rows(some_rows("image", "coarse", "fine")), label_key="fine")
    assert chosen.digest() == plain.digest()


def test_rows_of_which_several_could_be_meant_ask_which():
    with pytest.raises(ValueError, match="several labels, label, target: give label_key"):
        from_dataset(Rows(some_rows("image", "label", "target")))
    with pytest.raises(ValueError, match="the keys id, image, mask, of which image, mask could be"):
        from_dataset(Rows([row | {"mask": row["image"]} for row in some_rows("image")]))
    with pytest.raises(ValueError, match="a row has no 'lable'; did you mean 'label'"):
        from_dataset(Rows(some_rows("image", "label")), label_key="lable")


def test_a_list_of_pairs():
    pairs = [(Image.new("L", (8 + i, 8), 20 * i), "ab"[i % 2]) for i in range(10)]
    data = from_dataset(pairs)
    assert data.classes == ("a", "b") and data.train.images.shape == (8, 1, 8, 8)
    pairs[3] = (Image.new("RGB", (9, 9), "red"), "b")
    assert from_dataset(pairs).train.channels == 3
    assert from_dataset(pairs, channels=1).train.channels == 1
    assert from_dataset(pairs, groups=[i // 2 for i in range(10)]).classes == ("a", "b")


class Large:
    """40 images of 480 kB, made when they are asked for."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return Image.fromarray(np.full((400, 400, 3), index, np.uint8)), index % 2


def test_memory_holds_the_small_images_and_one_large_one():
    tracemalloc.start()
    data = from_dataset(Large(), image_size=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 3 * 400 * 400  # of 40
    assert (
        sorted(image.unique().item() for image in data.train.images)[:3]
        == sorted({image.unique().item() for image in data.train.images})[:3]
    )
    with pytest.raises(
        ValueError, match="40 images at image_size=16 take .*a larger fits.*streams it"
    ):
        from_dataset(Large(), image_size=16, fits=1000)
    assert from_dataset(Large(), image_size=16, fit="squeeze").fit == "squeeze"


class Stream(IterableDataset):
    def __iter__(self):
        yield from some_images(6)


@pytest.mark.parametrize(
    "dataset, error, message",
    [
        (DataLoader(TensorDataset(some_images(6))), TypeError, "give its dataset, loader.dataset"),
        (Stream(), TypeError, "Stream has no items by index: .*streaming=True"),
        ({"train": [], "test": []}, TypeError, r"dict holds several \(train, test\): give one"),
        (7, TypeError, "int has no items by index"),
        ([], ValueError, "the dataset is empty"),
        ([("a.png", 1)] * 6, TypeError, "the first item is a tuple of str, int: expected an image"),
        (TensorDataset(torch.randn(6, 3, 8, 8)), ValueError, "before the normalisation"),
        (TensorDataset(some_images(6).int() * 9), ValueError, "expected 0 .. 255"),
        (TensorDataset(some_images(6), torch.zeros(6, 40)), ValueError, r"label of image 0 has the shape \(40,\)"),
        ([(Image.new("I;16", (8, 8)), 0)] * 6, ValueError, "image 0 has more than 8 bits"),
    ],
)  # fmt: skip
def test_what_is_no_such_dataset_is_refused_with_what_to_do(dataset, error, message):
    with pytest.raises(error, match=message):
        from_dataset(dataset)


def test_random_augmentation_is_refused(tmp_path):
    write_folders(tmp_path, "cat", "dog")
    views = datasets.ImageFolder(tmp_path, v2.RandomResizedCrop(8, scale=(0.1, 0.3)))
    with pytest.raises(ValueError, match="the first image differs each time"):
        from_dataset(views)


def test_values_that_change_their_kind_on_the_way_are_named():
    x = some_images(300).float() / 255
    x[101] *= 255
    with pytest.raises(ValueError, match="image 101 holds .* the first ones 0 to 1"):
        from_dataset(TensorDataset(x))
