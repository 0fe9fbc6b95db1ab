"""What is held out where there is no test split: a fifth of each class, by seed and by groups."""

import csv

import pytest
import torch
from data_images import some_images, write_folders

from simlab.data import from_arrays, held_out, load_data


def side_counts(labels, is_test):
    return [
        (int((~is_test & (labels == c)).sum()), int((is_test & (labels == c)).sum()))
        for c in labels.unique()
    ]


@pytest.mark.parametrize("period", [5, 10, 2])
def test_ordered_labels_are_in_both_splits(period):
    """Every fifth image would be of one class or two."""
    labels = torch.arange(200) % period
    each = 200 // period
    assert side_counts(labels, held_out(labels)) == [(each * 4 // 5, each // 5)] * period


def test_a_fifth_is_rounded_and_two_images_are_shared():
    sizes = (1, 2, 3, 4, 7, 8, 12, 13, 100)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    tests = [test for _, test in side_counts(labels, held_out(labels))]
    assert tests == [0, 1, 1, 1, 1, 2, 2, 3, 20]


def test_the_draw_is_random_by_seed_and_not_every_fifth():
    labels = torch.zeros(100, dtype=torch.int64)
    first, same, other = held_out(labels), held_out(labels, seed=0), held_out(labels, seed=1)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert len({int(i) % 5 for i in first.nonzero()}) > 1


def test_unlabelled_images_are_drawn_like_a_class():
    labels = torch.tensor([-1] * 50 + [0] * 10 + [1] * 10)
    assert side_counts(labels, held_out(labels)) == [(40, 10), (8, 2), (8, 2)]


def test_groups_stay_on_one_side_and_classes_on_both():
    """Five views of each of 40 objects: near copies must not be on both sides."""
    objects = torch.arange(200) // 5
    labels = objects % 4
    is_test = held_out(labels, objects.tolist())
    assert all(is_test[objects == o].unique().numel() == 1 for o in range(40))
    assert side_counts(labels, is_test) == [(40, 10)] * 4


def test_groups_of_unlike_sizes_come_near_a_fifth():
    sizes = torch.tensor([30, 1, 2, 25, 3, 4, 5, 6, 7, 8, 9])
    groups = torch.repeat_interleave(torch.arange(11), sizes)
    is_test = held_out(torch.zeros(100, dtype=torch.int64), groups.tolist())
    assert 15 <= int(is_test.sum()) <= 25


def test_a_class_of_one_group_is_learned_and_not_tested():
    labels = torch.arange(20) % 2
    groups = ["a" if label else i for i, label in enumerate(labels.tolist())]
    assert side_counts(labels, held_out(labels, groups)) == [(8, 2), (10, 0)]
    with pytest.warns(UserWarning, match="1 class in the training split alone.*: 1"):
        from_arrays(some_images(20), labels, groups=groups)


def test_what_can_not_be_held_out_is_refused():
    with pytest.raises(ValueError, match="4 images are too few"):
        held_out(torch.zeros(4))
    with pytest.raises(ValueError, match="6 images but 5 groups"):
        held_out(torch.zeros(6), [0] * 5)
    with pytest.raises(ValueError, match="no group could be held out"):
        held_out(torch.zeros(6), [0] * 6)
    with pytest.raises(ValueError, match="expected no test images"):
        from_arrays(some_images(6), test_images=some_images(6), groups=[0] * 6)


# -------------------------------------------------------------------------------- groups of a folder


def write_groups(root, rows):
    with open(root / "groups.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "group"), *rows])


def test_a_folders_groups_are_in_a_file(tmp_path):
    write_folders(tmp_path, "cat", "dog", number=12)
    paths = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(12)]
    group_of = {path: f"{path[:3]}{i % 12 // 3}" for i, path in enumerate(paths)}
    write_groups(tmp_path, group_of.items())
    data = load_data(tmp_path)
    assert len(data.test) == 6 and sorted(data.test.labels.tolist()) == [0] * 3 + [1] * 3
    path_of = load_whole(tmp_path, paths)
    groups_held_out = {group_of[path_of[image.numpy().tobytes()]] for image in data.test.images}
    assert len(groups_held_out) == 2
    assert any("whole groups by groups.csv" in note for note in data.notes)


def load_whole(root, paths):
    """The path of each image by its pixels."""
    write_folders(root.parent / "empty", "test/cat", "test/dog")
    (root.parent / "empty" / "train").symlink_to(root)
    data = load_data(root.parent / "empty")
    return dict(zip((image.numpy().tobytes() for image in data.train.images), sorted(paths)))


def test_a_file_of_groups_that_does_not_fit_is_refused(tmp_path):
    write_folders(tmp_path, "cat", "dog", number=5)
    write_groups(tmp_path, [("cat/0.png", "a")])
    message = "does not name the image cat/1.png; did you mean 'cat/0.png'"
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path)
    (tmp_path / "groups.csv").write_text("file,patient\n")
    with pytest.raises(ValueError, match=r"the columns \['file', 'patient'\]: expected path and"):
        load_data(tmp_path)


def test_a_file_of_groups_beside_a_test_split_is_not_used_and_this_is_said(tmp_path):
    write_folders(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    write_groups(tmp_path, [])
    with pytest.warns(UserWarning, match="groups.csv is not used"):
        load_data(tmp_path)


def test_classes_on_one_side_are_named():
    x = some_images(6)
    with pytest.warns(UserWarning) as seen:
        from_arrays(x, [0, 1, 0, 1, 0, 1], x[:2], [0, 2], classes=["a", "b", "c", "d"])
    texts = [str(warning.message) for warning in seen]
    assert texts == [
        "1 class in the training split alone, so never tested: b",
        "1 class in the test split alone, so never learned: c",
        "1 class without any image: d",
    ]
    with pytest.warns(UserWarning, match="no training image has a label"):
        from_arrays(x, [-1] * 6, x, [0, 1] * 3)
