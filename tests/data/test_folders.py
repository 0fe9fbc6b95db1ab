"""Folders of images: which layouts are understood, how images are cut, and streaming."""

import os
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from data_images import write_image
from PIL import Image

from simlab.compute.distributed import share_of_cores
from simlab.data import files, folders, held_out, load_data
from simlab.data.folders import StreamedImages, load_folder


def pixels(array):
    """uint8 [C, H, W] of an array as PIL has it."""
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).copy()).permute(2, 0, 1)


@pytest.fixture
def two_splits(tmp_path):
    """train/ and test/ of the classes cat and dog, ten and four images each."""
    for split, n in (("train", 10), ("test", 4)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(n):
                write_image(
                    tmp_path / split / name / f"{i:02}.png", seed=1000 * c + i + 100 * (n == 4)
                )
    return tmp_path


# ------------------------------------------------------------------------------------------ layouts


def test_splits_and_classes_are_folders(two_splits):
    data = load_data(str(two_splits))
    assert data.classes == ("cat", "dog") and data.name == str(two_splits)
    assert data.train.labels.tolist() == [0] * 10 + [1] * 10
    assert data.test.labels.tolist() == [0] * 4 + [1] * 4
    wanted = [write_image(two_splits / "train" / "cat" / f"{i:02}.png", seed=i) for i in range(10)]
    assert torch.equal(data.train.images[:10], torch.stack([pixels(a) for a in wanted]))


def test_without_a_test_split_a_fifth_of_each_class_is_held_out(two_splits):
    data = load_data(str(two_splits / "train"))
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    all_images = load_data(str(two_splits)).train.images
    is_test = held_out(torch.tensor([0] * 10 + [1] * 10))
    assert torch.equal(data.test.images, all_images[is_test])
    assert torch.equal(data.train.images, all_images[~is_test])


def test_a_flat_folder_has_no_classes(tmp_path):
    for i in range(10):
        write_image(tmp_path / f"{i}.png", seed=i)
    data = load_data(str(tmp_path))
    assert data.classes == () and len(data.train) == 8
    assert set(data.train.labels.tolist()) == {-1} == set(data.test.labels.tolist())


def test_images_in_folders_of_a_class_belong_to_it(two_splits):
    write_image(two_splits / "train" / "dog" / "small" / "new.png")
    assert load_data(str(two_splits)).train.labels.bincount().tolist() == [10, 11]


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    """Vehicles: the label is the folder within the split, not any folder on the way."""
    for split in ("train", "test"):
        for name in ("car", "test", "train"):
            for i in range(3):
                write_image(tmp_path / split / name / f"{i}.png")
    data = load_data(str(tmp_path))
    assert data.classes == ("car", "test", "train")
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_other_files_and_hidden_ones_are_passed_over(two_splits):
    train = two_splits / "train"
    (train / "cat" / "notes.txt").write_text("no image")
    (train / "cat" / "._00.png").write_bytes(b"what macOS leaves behind")
    (train / ".cache").mkdir()
    (train / ".cache" / "thumb.png").write_bytes(b"nothing")
    data = load_data(str(two_splits))
    assert data.classes == ("cat", "dog") and len(data.train) == 20


# ------------------------------------------------------------------------------ how images are cut


@pytest.mark.parametrize("width, height", [(40, 24), (24, 40), (33, 32), (16, 16), (9, 12)])
def test_images_are_cut_in_the_middle_and_resized_as_pil_does_with_antialiasing(
    tmp_path, width, height
):
    for i in range(5):
        write_image(tmp_path / f"{i}.png", width, height, seed=i)
    data = load_folder(str(tmp_path), image_size=16)
    with Image.open(tmp_path / "0.png") as image:
        side = min(image.size)
        left, top = (width - side) // 2, (height - side) // 2
        middle = image.crop((left, top, left + side, top + side))
        wanted = pixels(np.asarray(middle.resize((16, 16), Image.Resampling.BILINEAR)))
    assert torch.equal(data.train.images[0], wanted)
    assert data.train.size == 16


def test_shrinking_averages_a_checkerboard_to_grey(tmp_path):
    board = np.indices((64, 64)).sum(0) % 2 * 255
    for i in range(5):
        Image.fromarray(board.astype(np.uint8)).save(tmp_path / f"{i}.png")
    inside = load_folder(str(tmp_path), image_size=16).train.images[:, :, 2:-2, 2:-2].float()
    assert float((inside - 127.5).abs().max()) < 3


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "P", "1"])
def test_other_modes_are_converted(tmp_path, mode):
    for i in range(5):
        array = write_image(tmp_path / f"{i}.tif", seed=i)
        Image.fromarray(array).convert(mode).save(tmp_path / f"{i}.tif")
    data = load_folder(str(tmp_path))
    assert data.train.channels == (1 if mode == "1" else 3)
    assert len(data.train.images.unique()) > (1 if mode == "1" else 5)


# ------------------------------------------------------------------------------------------- errors


def test_folders_that_make_no_sense_are_refused(tmp_path, two_splits):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        load_data(str(tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        FileNotFoundError, match="empty holds no images .*one folder for each class"
    ):
        load_data(str(empty))
    for i in range(4):
        write_image(empty / f"{i}.png")
    with pytest.raises(ValueError, match="empty: 4 images are too few .*at least 5"):
        load_data(str(empty))
    write_image(two_splits / "test" / "horse" / "0.png")
    with pytest.raises(ValueError, match=r"test has classes that .*train has not: horse"):
        load_data(str(two_splits))


# ---------------------------------------------------------------------------------------- streaming


@pytest.fixture
def both(two_splits):
    return load_folder(str(two_splits)), load_folder(str(two_splits), fits=0)


def test_streamed_images_are_the_same_images(both):
    loaded, streamed = both
    for split in ("train", "test"):
        a, b = getattr(loaded, split), getattr(streamed, split)
        assert isinstance(b, StreamedImages) and not isinstance(a, StreamedImages)
        assert (len(a), a.channels, a.size, a.classes) == (len(b), b.channels, b.size, b.classes)
        assert torch.equal(a.labels, b.labels) and a.device == b.device
        index = torch.tensor([5, 0, 7])
        assert torch.equal(a.subset(index).images, b.subset(index).images)
        assert torch.equal(a.subset(index).labels, b.subset(index).labels)
    assert loaded.normalize == streamed.normalize


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_streamed_batches_are_the_same_batches_in_the_same_order(both, batch_size):
    loaded, streamed = both
    order = torch.randperm(20)
    a, b = (list(data.train.batches(order, batch_size)) for data in both)
    assert len(a) == len(b)
    for (index_a, images_a), (index_b, images_b) in zip(a, b, strict=True):
        assert torch.equal(index_a, index_b) and torch.equal(images_a, images_b)


def test_a_part_is_kept_in_memory_where_it_fits_and_else_streamed_as_the_same_images(
    both, monkeypatch
):
    """What supervised training takes: some or all labelled images of a folder."""
    loaded, streamed = both
    index = torch.tensor([3, 12, 5, 19])
    expected = loaded.train.select(index)
    in_memory = streamed.train.select(index)
    assert torch.equal(in_memory.images, expected.images)
    monkeypatch.setattr(folders, "FITS", 0)
    selection = streamed.train.select(index)
    assert isinstance(selection, StreamedImages) and torch.equal(selection.labels, expected.labels)
    ((_, images),) = selection.batches(torch.arange(4), 4)
    assert torch.equal(images, expected.images)
    assert selection.normalize == streamed.normalize


def test_asking_for_all_streamed_images_says_what_to_do_instead(both):
    with pytest.raises(
        AttributeError, match=r"20 images are streamed.*batches\(\), or subset\(index\)"
    ):
        _ = both[1].train.images


def test_a_streamed_sets_moments_are_measured_once(both, monkeypatch):
    """Moving a set must not decode 2,000 images again."""
    streamed = both[1]
    monkeypatch.setattr(StreamedImages, "moments", lambda self: pytest.fail("measured again"))
    assert streamed.to("cpu").normalize == streamed.normalize


def test_a_changed_file_changes_the_streamed_digest(both, two_splits):
    before = both[1].digest()
    assert load_folder(str(two_splits), fits=0).digest() == before
    write_image(two_splits / "train" / "cat" / "03.png", 20, 20)
    assert load_folder(str(two_splits), fits=0).digest() != before
    assert both[0].digest() != load_folder(str(two_splits)).digest()


def test_what_fits_is_kept_and_what_does_not_is_streamed(two_splits):
    size = 28 * 3 * 8 * 8  # bytes
    assert not isinstance(load_folder(str(two_splits), fits=size).train, StreamedImages)
    assert isinstance(load_folder(str(two_splits), fits=size - 1).train, StreamedImages)


def test_streaming_decodes_a_few_batches_ahead_and_never_the_whole_set(both, monkeypatch):
    read, decoded = files.ImageFiles.read, []

    def counted(self, index):
        decoded.append(index)
        return read(self, index)

    monkeypatch.setattr(files.ImageFiles, "read", counted)
    batches = both[1].train.batches(torch.arange(20), 2)
    for number in range(1, 4):
        next(batches)
        assert number * 2 <= len(decoded) <= (number + folders.AHEAD) * 2 < 20
    batches.close()
    left = len(decoded)
    assert left < 20
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
    assert len(decoded) == left, "decoding went on after the loop was left"


def test_streaming_holds_a_few_batches_in_memory(tmp_path):
    """40 images of 120 kB, of which at most four batches of two are held."""
    write_image(tmp_path / "00.png", 200, 200)
    for i in range(1, 40):
        (tmp_path / f"{i:02}.png").hardlink_to(tmp_path / "00.png")
    streamed = load_folder(str(tmp_path), fits=0).train
    tracemalloc.start()
    for _, images in streamed.batches(torch.arange(len(streamed)), 2):
        assert images.numel() == 2 * 3 * 200 * 200
    peak = tracemalloc.get_traced_memory()[1]  # NumPy's arrays, in which decoded images are held
    tracemalloc.stop()
    assert peak < 0.5 * 32 * 3 * 200 * 200


def test_a_streamed_image_that_cannot_be_read_is_named_in_training_too(both, two_splits):
    (two_splits / "train" / "dog" / "05.png").write_bytes(b"broken meanwhile")
    with pytest.raises(ValueError, match=r"cannot decode the image .*dog.05.png"):
        list(both[1].train.batches(torch.arange(20), 4))


def test_as_many_threads_decode_as_were_asked_for(two_splits, monkeypatch):
    meeting = threading.Barrier(3, timeout=20)
    read = files.ImageFiles.read

    def meet(self, index):
        meeting.wait()  # until three of them are here
        return read(self, index)

    data = load_folder(str(two_splits), fits=0, threads=3)
    assert data.train.files.threads == data.to("cpu").test.files.threads == 3
    monkeypatch.setattr(files.ImageFiles, "read", meet)
    list(data.train.batches(torch.arange(3), 3))
    meeting = threading.Barrier(2, timeout=0.2)
    with pytest.raises(threading.BrokenBarrierError):
        list(data.with_threads(1).train.batches(torch.arange(2), 2))
    assert data.digest() == data.with_threads(1).digest()
    with pytest.raises(ValueError, match="threads=-1: expected at least 0"):
        load_folder(str(two_splits), threads=-1)


def test_threads_of_a_process_share_the_cores_with_the_others_on_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(24)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert share_of_cores() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "48")
    assert share_of_cores() == 1
