"""Images and Dataset: moments, digests, subsets, the normalisation, and how they are shown."""

import base64
import io
import re
from dataclasses import replace

import pytest
import torch
from data_images import some_images
from PIL import Image

from simlab.augment import Normalize
from simlab.data import Dataset, Images, load_folder

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


def test_a_constant_dataset_is_centred_and_left_at_its_scale():
    x = torch.full((4, 1, 5, 5), 51, dtype=torch.uint8)
    mean, std = Images(x, torch.zeros(4).long(), ("a",)).moments()
    assert mean.tolist() == pytest.approx([0.2]) and std.tolist() == [1.0]


def test_the_unlabeled_images_are_what_pretraining_sees_and_is_normalised_with():
    train, test, more = (
        Images(some_images(10, seed=i) // (i + 1), torch.full((10,), -1)) for i in range(3)
    )
    data = Dataset("d", train, test, more)
    assert data.pretrain.images is more.images
    assert Dataset("d", train, test).pretrain.images is train.images
    assert torch.equal(data.normalize.mean, more.moments()[0])
    moved = data.to("cpu")
    assert torch.equal(moved.normalize.mean, data.normalize.mean) and torch.equal(
        moved.unlabeled.images, more.images
    )


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
    assert len({base.digest(), *(variant.digest() for variant in changed)}) == 5
    assert base.digest() == replace(base, images=x.clone(), labels=y.clone()).digest()
    data = Dataset("d", base, base)
    assert data.digest() != Dataset("d", base, changed[0]).digest()
    assert data.digest() != Dataset("d", base, base, changed[0]).digest()


def test_a_subset_keeps_labels_and_factors_beside_their_images(scattered):
    index = torch.tensor([5, 3, 9000])
    subset = scattered.train.subset(index)
    for name in ("images", "labels", "factors"):
        assert torch.equal(getattr(subset, name), getattr(scattered.train, name)[index])


def test_batches_follow_the_order_and_include_the_last_incomplete_one():
    images = Images(some_images(10), torch.full((10,), -1))
    order = torch.randperm(10)
    batches = list(images.batches(order, 4))
    assert [len(index) for index, _ in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([index for index, _ in batches]), order)
    assert torch.equal(torch.cat([batch for _, batch in batches]), images.images[order])


@pytest.mark.parametrize(
    "images, labels, classes, message",
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), ("a",), r"uint8 \[N, C, H, W\]"),
        (some_images(2)[0], torch.zeros(1).long(), ("a",), r"uint8 \[N, C, H, W\]"),
        (some_images(2)[:0], torch.zeros(0).long(), ("a",), "dataset is empty"),
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


def test_splits_of_several_shapes_or_classes_are_refused():
    one = Images(some_images(5), torch.zeros(5).long(), ("a",))
    with pytest.raises(ValueError, match=r"\[1, 8, 8\] and \[3, 8, 8\]"):
        Dataset("d", one, replace(one, images=some_images(5, 3)))
    with pytest.raises(ValueError, match=r"\[1, 8, 8\] and \[1, 9, 9\]"):
        Dataset("d", one, one, replace(one, images=some_images(5, 1, 9)))
    with pytest.raises(
        ValueError, match="the test split has the classes b and the training split a"
    ):
        Dataset("d", one, replace(one, classes=("b",)))


def test_an_angle_is_a_target_as_cosine_and_sine_so_that_its_ends_meet():
    factors = torch.tensor([[3.0, -180.0], [5.0, 180.0], [7.0, 90.0]])
    images, labels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3).long()
    targets = Images(images, labels, ("one",), factors, ("x", "angle")).factor_targets()
    assert torch.equal(targets["x"], factors[:, :1])
    expected = torch.tensor([[-1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(targets["angle"], expected, atol=1e-6, rtol=0)
    assert Images(images, labels, ("one",)).factor_targets() == {}


@pytest.mark.parametrize("names", [("x",), ("x", "angle", "y"), ()])
def test_factors_that_do_not_fit_their_names_are_refused(names):
    factors = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"factors of shape \(3, 2\): expected \(3, "):
        Images(some_images(3), torch.zeros(3).long(), ("one",), factors, names)


# ------------------------------------------------------------------------------ the normalisation


def halves(normalize=None):
    images = Images(some_images(10), torch.arange(10) % 2, ("a", "b"))
    train, test = images.subset(torch.arange(6)), images.subset(torch.arange(6, 10))
    return Dataset("halves", train, test, normalize=normalize)


def test_every_split_and_subset_carries_the_datasets_normalisation():
    data = halves()
    assert data.normalize == Normalize(*data.train.moments())
    more = Dataset("more", data.train, data.test, data.test)
    assert more.normalize == Normalize(*data.test.moments()) != data.normalize
    for split in (more.train, more.test, more.unlabeled, more.test.subset(torch.tensor([1]))):
        assert split.normalize == more.normalize
    assert more.to("cpu").test.normalize == more.normalize
    assert data.train.normalize != more.normalize, "the other dataset's split must not change"


def test_a_given_normalisation_is_part_of_the_digest_and_a_measured_one_is_not():
    data = halves()
    given = halves(Normalize([0.0], [1.0]))
    assert given.test.normalize == Normalize([0.0], [1.0])
    assert given.digest() != data.digest()
    assert given.to("cpu").digest() == given.digest() != halves(Normalize([0.1], [1.0])).digest()
    assert halves(data.normalize).digest() == data.digest() == data.to("cpu").digest()


# ------------------------------------------------------------------------------- how they are shown


def test_a_dataset_prints_what_is_in_it_and_no_tensor(scattered):
    assert repr(scattered) == (
        "Dataset('fashion-scattered', train 10000, test 2000 images [1, 32, 32], "
        "10 classes, on cpu)"
    )
    assert repr(scattered.train) == (
        "Images(10000 images [1, 32, 32], 10 classes, factors x, y, angle, scale, on cpu)"
    )


def test_datasets_and_images_can_be_compared():
    data = halves()
    assert data == data and data != halves() and data.train == data.train
    assert data.train != data.test and data.train in (data.test, data.train)


def image_of(page):
    """The thumbnails of a dataset's page, as an array, and their alternative text."""
    alt, source = re.search('<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', page).groups()
    return Image.open(io.BytesIO(base64.b64decode(source))), alt


def rows_of(page):
    rows = re.findall("<tr>(.*?)</tr>", page)
    return [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def test_a_notebook_shows_thumbnails_with_a_text_and_the_counts_by_split_and_class(scattered):
    page = scattered._repr_html_()
    image, alt = image_of(page)
    assert image.size == (596, 176)  # ten columns of three, 56 pixels each
    assert len(set(image.convert("L").tobytes())) > 100, "an empty sheet"
    assert alt.startswith("Training images of fashion-scattered, a column for each class: T-shirt")
    assert "32 × 32 pixels" in page and "factors x, y, angle, scale" in page
    rows = rows_of(page)
    assert rows[0] == ["class", "train", "test"] and rows[-1] == ["all", "10000", "2000"]
    assert rows[1] == ["T-shirt/top", "1000", "200"] and len(rows) == 12


def test_a_column_of_thumbnails_holds_the_first_images_of_its_class():
    data = halves()
    image = image_of(data._repr_html_())[0].convert("L")
    for column, index in enumerate((0, 1)):  # the first image of class 0 and of class 1
        tile = image.crop((60 * column, 0, 60 * column + 56, 56)).resize((8, 8), 0)
        assert list(tile.tobytes()) == data.train.images[index, 0].flatten().tolist()


def test_many_classes_and_unlabelled_images_are_summed_up_and_names_are_escaped():
    names = tuple(f"<b>{i}" for i in range(30))
    train = Images(some_images(40), torch.arange(40) % 31 - 1, names)
    page = Dataset("a<b", train, train)._repr_html_()
    assert "a&lt;b" in page and "<b>3" not in page and "10 of 30 classes are shown" in page
    rows = rows_of(page)
    assert rows[-3:] == [
        ["10 more classes", "10", "10"], ["unlabelled", "2", "2"], ["all", "40", "40"]
    ]  # fmt: skip
    assert sum(int(row[1]) for row in rows[1:-1]) == 40
    unlabelled = Images(some_images(5, 3), torch.full((5,), -1))
    assert "have no labels" in image_of(Dataset("d", unlabelled, unlabelled)._repr_html_())[1]


@pytest.fixture
def streamed(tmp_path):
    for i in range(10):
        pixels = some_images(1, 3, 9, seed=i)[0].permute(1, 2, 0).numpy()
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return load_folder(str(tmp_path), fits=0)


def test_a_streamed_dataset_is_shown_compared_and_searched_without_decoding_all(streamed):
    """Each of these three has raised MemoryError."""
    assert "train 8, test 2 images [3, 9, 9], 2 classes" in repr(streamed)
    assert repr(streamed.train).startswith("StreamedImages(8 images [3, 9, 9], 2 classes")
    assert streamed == streamed and streamed.train != streamed.test
    assert not hasattr(streamed.train, "images") and hasattr(streamed.train, "labels")


def test_thumbnails_of_a_streamed_dataset_are_decoded_and_a_broken_file_is_named(
    streamed, tmp_path
):
    assert image_of(streamed._repr_html_())[0].size == (116, 176)
    (tmp_path / "a" / "0.png").write_bytes(b"broken")
    page = streamed._repr_html_()
    assert "No thumbnails: cannot decode the image" in page and "0.png" in page
    assert rows_of(page)[-1] == ["all", "8", "2"]
