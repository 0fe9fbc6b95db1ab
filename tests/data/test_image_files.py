"""What images become: their values, colours, sizes and orientation."""

import warnings

import numpy as np
import pytest
import torch
from data_images import write_image
from PIL import Image

from simlab.data import files, load_data
from simlab.data.folders import load_folder
from simlab.data.pixels import image_tensor


def first_image(folder, **options):
    return load_folder(folder, **options).train.images[0]


def write_arrays(folder, arrays, ending="tif"):
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i}.{ending}")


def ramp(low, high, dtype):
    return np.linspace(low, high, 64).astype(dtype).reshape(8, 8)


# ---------------------------------------------------------------------------------- values and depth


@pytest.mark.parametrize(
    "low, high, dtype, ending",
    [
        (0, 65535, np.uint16, "png"),
        (0, 65535, np.uint16, "tif"),
        (0, 4095, np.uint16, "png"),
        (30000, 31000, np.uint16, "tif"),
        (-1000, 3000, np.int32, "tif"),
        (0, 1, np.float32, "tif"),
        (0, 65535, np.float32, "tif"),
        (-2, 2, np.float32, "tif"),
    ],
)
def test_values_of_more_than_8_bits_are_scaled_by_the_sets_own_range(
    tmp_path, low, high, dtype, ending
):
    values = ramp(low, high, dtype)
    write_arrays(tmp_path, [values] * 5, ending)
    data = load_folder(tmp_path)
    wanted = (values.astype(float) - low) / (high - low) * 255
    assert data.train.channels == 1
    assert np.abs(data.train.images[0, 0].numpy() - wanted).max() <= 0.51
    assert len(data.train.images.unique()) == 64
    assert any(f"their values, {low:g} to {high:g}, are scaled" in note for note in data.notes)


def test_the_range_is_that_of_all_images_and_not_of_each(tmp_path):
    write_arrays(tmp_path, [ramp(0, high, np.uint16) for high in (100, 200, 300, 400, 500)])
    data = load_folder(tmp_path)
    highest = {int(image.max()) for split in data.splits().values() for image in split.images}
    assert highest == {51, 102, 153, 204, 255}


def test_what_has_no_range_in_common_is_refused(tmp_path):
    write_arrays(tmp_path, [ramp(0, 1, np.float32)] * 3 + [ramp(0, 4095, np.uint16)] * 3)
    with pytest.raises(ValueError, match=r"modes F, I;16: expected values of one kind"):
        load_folder(tmp_path)


def test_an_image_of_nan_is_named(tmp_path):
    write_arrays(tmp_path, [ramp(0, 1, np.float32)] * 5)
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "5.tif")
    with pytest.raises(ValueError, match=r"5.tif \(it holds NaN or infinite values\)"):
        load_folder(tmp_path)


def test_colour_images_of_16_bits_are_counted(tmp_path):
    """Pillow has no such mode and gives their upper bytes."""
    import struct
    import zlib

    rows = b"".join(b"\0" + b"\x12\x34" * 24 for _ in range(8))  # filter 0, then 8 pixels RGB

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(png + chunk(b"IEND", b""))
    with pytest.warns(UserWarning, match="5 images with colours of 16 bits"):
        assert first_image(tmp_path).unique().tolist() == [0x12]


# ------------------------------------------------------------------------------------------- colour


def test_one_image_in_colour_keeps_the_colours(tmp_path):
    """A sample of twenty would miss it in most draws."""
    for i in range(100):
        write_image(tmp_path / f"{i:03}.png", mode="RGB" if i == 37 else "L", seed=i)
    assert load_folder(tmp_path).train.channels == 3
    assert load_folder(tmp_path, channels=1).train.channels == 1
    (tmp_path / "037.png").unlink()
    assert load_folder(tmp_path).train.channels == 1


def test_grey_or_colour_is_asked_for(tmp_path):
    array = write_image(tmp_path / "0.png")
    for i in range(1, 5):
        write_image(tmp_path / f"{i}.png", mode="L", seed=i)
    grey = load_data(tmp_path, channels=1)
    with Image.fromarray(array) as image:
        wanted = torch.from_numpy(np.array(image.convert("L")))
    images = torch.cat((grey.train.images, grey.test.images))
    assert any(torch.equal(image[0], wanted) for image in images)
    with pytest.raises(ValueError, match="channels=2: expected 1 .grey., 3 .colour. or 0"):
        load_data(tmp_path, channels=2)


def test_a_named_dataset_is_given_in_colour_or_grey(fashion_folder, fashion):
    grey = load_data("fashion", fashion_folder)
    colour = load_data("fashion", fashion_folder, channels=3)
    assert torch.equal(colour.train.images, grey.train.images.expand(-1, 3, -1, -1))
    assert colour.normalize.mean.tolist() == grey.normalize.mean.tolist() * 3
    assert load_data("fashion", fashion_folder, channels=1).digest() == grey.digest()
    for options in ({"fit": "squeeze"}, {"on_error": "skip"}):
        with pytest.raises(ValueError, match="is for folders: fashion"):
            load_data("fashion", fashion_folder, **options)


@pytest.mark.parametrize(
    "mode, ending", [("RGBA", "png"), ("LA", "png"), ("P", "gif"), ("P", "png")]
)
def test_what_is_transparent_is_white(tmp_path, mode, ending):
    image = Image.new("RGBA", (8, 8), (0, 255, 0, 0))  # invisible, and green
    image.paste((200, 0, 0, 255), (4, 0, 8, 8))
    for i in range(5):
        image.convert(mode).save(tmp_path / f"{i}.{ending}", transparency=None)
    if mode == "P":
        palette = image.convert("RGB").convert("P")
        clear = palette.getpixel((0, 0))
        for i in range(5):
            palette.save(tmp_path / f"{i}.{ending}", transparency=clear)
    data = load_folder(tmp_path)
    pixels = data.train.images[0]
    assert pixels[:, :, :4].unique().tolist() == [255]
    red = [200, 0, 0] if mode != "LA" else [60]
    assert np.abs(np.array(pixels[:, 0, 6].tolist()) - red).max() <= 4  # the palette's nearest
    assert "5 images with transparency, composed on white" in data.notes


# ------------------------------------------------------------------- orientation, frames and sizes


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_images_are_upright_as_exif_says(tmp_path, orientation, ending):
    upright = np.zeros((8, 8), np.uint8)
    upright[:4, :4] = 255
    upright[:4, 4:] = 128
    turned = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: np.rot90(upright, 2).T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(5):
        Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / f"{i}.{ending}", exif=exif)
    assert (
        np.abs(first_image(tmp_path)[0].numpy().astype(int) - upright).max() <= 20
    )  # JPEG's noise


def test_a_damaged_exif_block_is_passed_over(tmp_path):
    for i in range(5):
        array = write_image(tmp_path / f"{i}.png")
        Image.fromarray(array).save(tmp_path / f"{i}.png", exif=b"Exif\x00\x00MM\x00\x2anonsense")
    assert torch.equal(first_image(tmp_path), torch.from_numpy(array).permute(2, 0, 1))


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png"])
def test_the_first_of_several_frames_is_taken_and_this_is_said(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for i in range(5):
        write_image(tmp_path / f"{i}.png" if i else tmp_path / "x.png", seed=i)
    lossless = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"0.{ending}", save_all=True, append_images=frames[1:], **lossless)
    with pytest.warns(
        UserWarning, match="1 image with several frames, of which the first is taken"
    ):
        data = load_folder(tmp_path)
    images = torch.cat((data.train.images, data.test.images))
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    assert any(torch.equal(image, red) for image in images)


def test_the_median_is_the_size_and_not_the_first_image(tmp_path):
    write_image(tmp_path / "0.png", 1, 1)
    for i in range(1, 6):
        write_image(tmp_path / f"{i}.png", 20, 10 + i)
    data = load_folder(tmp_path)
    assert data.train.size == 12
    assert any("shorter sides from 1 to 15 pixels" in note for note in data.notes)
    assert load_folder(tmp_path, image_size=9).train.size == 9


def test_large_images_are_warned_of_where_nobody_chose_their_size(tmp_path):
    write_image(tmp_path / "0.png", 600, 520)
    for i in range(1, 5):
        (tmp_path / f"{i}.png").hardlink_to(tmp_path / "0.png")
    with pytest.warns(UserWarning, match="images of 520 x 520 pixels.*image_size=64"):
        load_folder(tmp_path, fits=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_folder(tmp_path, image_size=520, fits=0)


def test_long_images_are_cut_with_a_warning_or_squeezed(tmp_path):
    for i in range(5):
        array = write_image(tmp_path / f"{i}.png", 80, 8, seed=0)
    with pytest.warns(UserWarning, match="5 images more than 3 times as long as wide"):
        cut = first_image(tmp_path)
    assert torch.equal(cut, torch.from_numpy(array[:, 36:44]).permute(2, 0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        squeezed = first_image(tmp_path, fit="squeeze")
    with Image.fromarray(array) as image:
        wanted = np.array(image.resize((8, 8), Image.Resampling.BILINEAR))
    assert torch.equal(squeezed, torch.from_numpy(wanted).permute(2, 0, 1))
    with pytest.raises(ValueError, match="fit='crop': expected 'cut' or 'squeeze'"):
        load_data(tmp_path, fit="crop")


def test_an_image_beyond_pillows_limit_says_what_is_needed(tmp_path, monkeypatch):
    for i in range(5):
        write_image(tmp_path / f"{i}.png", 40 if i == 2 else 8, 40 if i == 2 else 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(
        ValueError, match=r"2.png \(.*1600 pixels.*PIL.Image.MAX_IMAGE_PIXELS to more"
    ):
        load_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(load_folder(tmp_path).train) == 4


# ------------------------------------------------------------------------------------ large photos


def photo(path, width, height):
    """A photo: smooth, with some noise."""
    draw = np.random.default_rng(0)
    small = Image.fromarray(draw.integers(0, 256, (6, 8, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + draw.integers(-5, 6, (height, width, 1))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def whole_photo(path, size, mode, fit):
    """The photo decoded whole; what was given stays as it was."""
    with Image.open(path) as image:
        full = image.size
        tensor = image_tensor(image, size, mode, fit)
        assert image.size == full
        return tensor


@pytest.mark.parametrize("fit", ["cut", "squeeze"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_large_jpeg_file_is_decoded_at_a_part_of_its_size(tmp_path, fit, mode, monkeypatch):
    photo(tmp_path / "large.jpg", 1200, 800)
    expected = whole_photo(tmp_path / "large.jpg", 40, mode, fit)
    sizes = []

    def noting(image, *args):
        tensor = image_tensor(image, *args)
        sizes.append(image.size)
        return tensor

    monkeypatch.setattr(files, "image_tensor", noting)
    got = files.ImageFiles((tmp_path / "large.jpg",), 40, mode, fit).read(0)
    assert sizes == [(300, 200)]  # a quarter: an eighth has not four times 40 pixels
    difference = (got.int() - expected.int()).abs().float()
    assert difference.mean() < 0.5 and difference.max() <= 2


def test_a_jpeg_file_that_is_not_large_is_decoded_whole(tmp_path):
    photo(tmp_path / "small.jpg", 300, 200)
    expected = whole_photo(tmp_path / "small.jpg", 40, "RGB", "cut")
    got = files.ImageFiles((tmp_path / "small.jpg",), 40, "RGB").read(0)
    assert torch.equal(got, expected)


def test_an_image_that_is_given_is_not_turned_in_place():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    image.info["exif"] = b""
    image.getexif()[0x0112] = 6
    before = np.asarray(image).copy()
    turned = image_tensor(image, 8, "L")
    assert np.array_equal(np.asarray(image), before)
    assert np.array_equal(turned[0].numpy(), np.rot90(before, -1))
