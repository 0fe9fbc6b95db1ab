"""How folders are understood: splits by any of their names, classes, and what is refused."""

import os
import warnings

import pytest
import torch
from data_images import write_folders, write_image

from simlab.data import load_data
from simlab.data.folders import load_folder

CLASSES = ("cat", "dog")


def counts(data):
    """How many images of each class are in each split, -1 for those without a label."""
    return {
        name: {int(label): int((split.labels == label).sum()) for label in split.labels.unique()}
        for name, split in data.splits().items()
    }


def load_quietly(folder):
    """The dataset of a folder that nothing is wrong with."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_data(folder)


@pytest.mark.parametrize(
    "train, test",
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("training", "testing"),
        ("Training", "Testing"),
        ("train", "valid"),
        ("train", "validation"),
        ("train", "Test"),
        ("seg_train", "seg_test"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("trainset", "TestSet"),
        ("cifar_trainset", "cifar_valset"),
        ("train/train", "test/test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("archive/flowers/train", "archive/flowers/test"),
        ("flowers/TRAIN/TRAIN", "flowers/Valid/Valid"),
    ],
)
def test_splits_are_known_by_any_of_their_names(tmp_path, train, test):
    write_folders(tmp_path, *(f"{train}/{c}" for c in CLASSES), number=3)
    write_folders(tmp_path, *(f"{test}/{c}" for c in CLASSES), number=2, start=50)
    data = load_quietly(tmp_path)
    assert data.classes == CLASSES
    assert counts(data) == {"train": {0: 3, 1: 3}, "test": {0: 2, 1: 2}}
    alone = load_folder(str(tmp_path / train))  # held out of the same images
    names = {
        bytes(image.numpy().tobytes())
        for split in alone.splits().values()
        for image in split.images
    }
    assert {image.numpy().tobytes() for image in data.train.images} == names


def test_unlabelled_images_are_for_pretraining(tmp_path):
    write_folders(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", "unlabeled", number=2)
    data = load_quietly(tmp_path)
    assert counts(data) == {"train": {0: 2, 1: 2}, "test": {0: 2, 1: 2}, "unlabeled": {-1: 2}}
    assert data.pretrain is data.unlabeled
    (tmp_path / "unlabeled").rename(tmp_path / "Unlabelled")
    assert load_quietly(tmp_path).digest() == data.digest()


def test_a_validation_split_beside_a_test_split_is_left_out_and_said(tmp_path):
    write_folders(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog")
    with pytest.warns(UserWarning, match=r"val \(6 images\) left out: test is the test"):
        data = load_data(tmp_path)
    assert counts(data) == {"train": {0: 3, 1: 3}, "test": {0: 3, 1: 3}}
    assert any("val (6 images) left out" in note for note in data.notes)


def test_a_folder_beside_the_splits_is_left_out_and_said(tmp_path):
    write_folders(
        tmp_path, "seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog", "seg_pred"
    )
    write_image(tmp_path / "cover.png")
    with pytest.warns(UserWarning) as seen:
        data = load_data(tmp_path)
    texts = [str(warning.message) for warning in seen]
    assert any("seg_pred (3 images) left out" in text for text in texts)
    assert "1 image beside the splits left out" in texts
    assert counts(data) == {"train": {0: 3, 1: 3}, "test": {0: 3, 1: 3}}


@pytest.mark.parametrize(
    "folders, message",
    [
        (["train/cat", "car"], "the folders car, train: are train splits or classes?"),
        (
            ["train", "test", "car"],
            "the folders car, test, train: are test, train splits or classes?",
        ),
        (["test", "car"], "the folders car, test, but no training split"),
        (["train/cat", "training/cat", "test/cat"], "train and training: expected one train split"),
        (
            ["train/cat", "test/cat", "Valid/cat", "val/cat"],
            "Valid and val: expected one val split",
        ),
        (["bottle/train", "bottle/test", "cable/train", "cable/test"], "a class can't hold splits"),
        (["a_train/x", "a_test/x", "b_train/x", "b_test/x"], "more than one set of splits"),
        (["train/train/cat", "train/test/cat"], "which are splits"),
        (["archive/cat", "archive/dog"], "has one folder, archive, with the folders cat, dog"),
        (
            ["train/cat", "test/Cat"],
            "test has classes that .*train has not: Cat; did you mean 'cat'",
        ),
    ],
)
def test_what_is_not_understood_is_refused_with_what_was_seen_and_expected(
    tmp_path, folders, message
):
    write_folders(tmp_path, *folders, number=5)
    with pytest.raises(ValueError, match=message) as error:
        load_data(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_classes_may_hold_a_splits_name_among_others(tmp_path):
    write_folders(tmp_path, "bullet train", "test tube", "trainer", number=5)
    assert load_quietly(tmp_path).classes == ("bullet train", "test tube", "trainer")


def test_what_is_odd_is_said(tmp_path):
    write_folders(tmp_path / "one", "cat", number=5)
    with pytest.warns(UserWarning, match="of one class, cat"):
        load_data(tmp_path / "one")
    write_folders(tmp_path / "domains", "photo/cat", "photo/dog", "toy/cat", "toy/dog")
    with pytest.warns(UserWarning, match="photo, toy are the classes, and each has cat, dog"):
        load_data(tmp_path / "domains")
    write_folders(tmp_path / "mixed", ".", "cat", "dog", number=5)
    with pytest.warns(
        UserWarning, match="5 images right in .*mixed, beside the classes, have no label"
    ):
        load_data(tmp_path / "mixed")
    write_folders(tmp_path / "kaggle", "train/cat", "train/dog", "test")
    with pytest.warns(UserWarning, match="no test image has a label"):
        load_data(tmp_path / "kaggle")


# ------------------------------------------------------------------------- links and what is left out


def test_links_are_followed_and_cycles_cut(tmp_path):
    store, root = tmp_path / "store", tmp_path / "root"
    write_folders(store, "n02", "n03", "file", number=6)
    write_folders(root, "n01", number=6, start=1000)
    (root / "n02").symlink_to(store / "n02")
    (root / "n03").symlink_to(store / "n03")
    (root / "n04").mkdir()
    for path in (store / "file").iterdir():
        (root / "n04" / path.name).symlink_to(path)
    assert load_quietly(root).classes == ("n01", "n02", "n03", "n04")
    (root / "n01" / "up").symlink_to(root)
    (root / "n01" / "itself").symlink_to(root / "n01" / "itself")
    with pytest.warns(UserWarning, match="1 link to a folder above it") as seen:
        data = load_data(root)
    assert "1 broken link" in str(seen[0].message)
    assert len(data.train) + len(data.test) == 24 and len(data.classes) == 4


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    write_folders(tmp_path, "cat", "dog", number=5)
    for i in range(3):
        (tmp_path / "cat" / f"{i}.heic").write_bytes(b"not decoded here")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match="4 files left out: 3 .heic, 1 broken link"):
        data = load_data(tmp_path)
    assert len(data.train) + len(data.test) == 10


def test_texts_beside_the_images_are_noted_and_nobody_is_warned(tmp_path):
    write_folders(tmp_path, "cat", "dog", number=5)
    (tmp_path / "labels.csv").write_text("none")
    assert any("1 file left out: 1 .csv" in note for note in load_quietly(tmp_path).notes)


def test_a_folder_of_other_files_says_which(tmp_path):
    (tmp_path / "a.heic").touch()
    with pytest.raises(FileNotFoundError, match="holds no images .*1 file left out: 1 .heic"):
        load_data(tmp_path)


@pytest.mark.parametrize("ending", ["gif", "ppm", "pgm", "jfif", "JPG", "webp", "tiff", "bmp"])
def test_every_format_that_is_common_is_taken(tmp_path, ending):
    mode = "L" if ending == "pgm" else "RGB"
    for i in range(5):
        write_image(tmp_path / f"{i}.{ending}", mode=mode, seed=i)
    data = load_quietly(tmp_path)
    assert len(data.train) == 4 and data.train.channels == len(mode)


def test_paths_are_given_as_path_and_with_the_users_home(tmp_path, monkeypatch):
    write_folders(tmp_path / "images", "cat", "dog", number=5)
    wanted = load_quietly(tmp_path / "images")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    data = load_quietly("~/images")
    assert data.name == "~/images" and data.digest() == wanted.digest()
    assert load_quietly(str(tmp_path / "images")).digest() == wanted.digest()


@pytest.mark.skipif(os.name == "nt", reason="Windows has names in Unicode alone")
def test_a_class_in_bytes_that_are_no_utf8_is_spelled_out(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    try:
        write_folders(tmp_path, name, "tea", number=5)
    except OSError:
        pytest.skip("this file system takes Unicode alone")
    for fits in (0, 2**20):
        data = load_folder(str(tmp_path), fits=fits)
        assert data.classes == (r"caf\xe9", "tea") and len(data.digest()) == 16
        assert torch.equal(data.train.labels.bincount(), torch.tensor([4, 4]))
