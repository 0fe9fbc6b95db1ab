"""Images that cannot be decoded: all are named in one list, or left out and counted."""

import pytest
import torch
from data_images import write_folders, write_image

from simlab.data import StreamedImages, domain_folder, load_data
from simlab.data.folders import load_folder


@pytest.fixture
def broken(tmp_path):
    """Ten images of two classes, three of them broken: empty, cut short, and a text."""
    write_folders(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", number=5)
    for folder, name, content in (("train/cat", 1, b""), ("train/dog", 2, b"text")):
        (tmp_path / folder / f"{name}.png").write_bytes(content)
    truncated_file = tmp_path / "test" / "cat" / "3.png"
    truncated_file.write_bytes(truncated_file.read_bytes()[:-60])
    return tmp_path


def test_all_broken_images_are_in_one_list(broken):
    with pytest.raises(ValueError, match="cannot decode 3 images: .*fix or delete") as error:
        load_data(broken)
    for name in ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png"):
        assert str(broken / name) in str(error.value)
    (broken / "train" / "cat" / "1.png").unlink()
    with pytest.raises(ValueError, match="cannot decode 2 images"):  # streamed ones too
        load_folder(broken, fits=0)


@pytest.mark.parametrize("fits", [0, 2**20])
def test_broken_images_are_left_out_and_counted(broken, fits):
    with pytest.warns(UserWarning, match="3 images left out that can't be decoded: .*cat.1.png"):
        data = load_folder(broken, fits=fits, on_error="skip")
    assert isinstance(data.train, StreamedImages) == (fits == 0)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.test.labels.tolist() == [0] * 4 + [1] * 5
    for path in ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png"):
        (broken / path).unlink()
    wanted = load_folder(broken)
    for split, images in data.splits().items():
        everything = torch.arange(len(images))
        expected = wanted.splits()[split].images
        assert torch.equal(images.subset(everything).images, expected)


@pytest.mark.parametrize("damage", [b"no image", b"", "truncated"])
@pytest.mark.parametrize("at", [0, 7])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage, at, ending):
    for i in range(10):
        write_image(tmp_path / f"{i}.{ending}", 32, 32, seed=i)
    path = tmp_path / f"{at}.{ending}"
    path.write_bytes(path.read_bytes()[:300] if damage == "truncated" else damage)
    with pytest.raises(
        ValueError, match=f"cannot decode the image .*{at}.{ending} .*fix or delete"
    ):
        load_folder(tmp_path)


def test_many_broken_images_are_listed_in_part(tmp_path):
    for i in range(30):
        (tmp_path / f"{i:02}.png").touch()
    with pytest.raises(ValueError, match="cannot decode 30 images: .*19.png .*; and 10 more; fix"):
        load_folder(tmp_path)
    with pytest.raises(ValueError, match="cannot decode 30 images"):
        load_folder(tmp_path, on_error="skip")
    with pytest.raises(ValueError, match="on_error='ignore': expected 'raise' or 'skip'"):
        load_folder(tmp_path, on_error="ignore")


def test_domains_are_read_by_the_same_rules(tmp_path):
    write_folders(tmp_path, "photo/cat", "photo/dog", "toy/cat", "toy/dog")
    (tmp_path / "toy" / "cat" / "0.heic").touch()
    with pytest.warns(UserWarning, match="1 file left out: 1 .heic"):
        domains = domain_folder(tmp_path, channels=1)
    assert domains.images.channels == 1 and domains.names == ("photo", "toy")
    (tmp_path / "toy" / "cat" / "0.png").write_bytes(b"")
    (tmp_path / "toy" / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot decode 2 images"):
        domain_folder(tmp_path)
