"""The bundled emoji: things in colour, each drawn by several designers."""

import re
import shutil

import pytest
import torch
import torch.nn.functional as F
from data_images import ROOT

from simlab.data import Images, by_factor, emoji, emoji_source, load_data
from simlab.train.partners import draw_partners, partner_groups

FOLDER = ROOT / "data" / "emoji"


@pytest.fixture(scope="module")
def data():
    return load_data("emoji")


def column(images, factor):
    return images.factors[:, images.factor_names.index(factor)].long()


def test_1906_things_are_drawn_by_two_designers_and_most_by_four(data):
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (3, 32, 32)
    designers = torch.cat([column(split, "designer") for split in (data.train, data.test)])
    assert torch.bincount(designers).tolist() == [1906, 1906, 1595, 1595]
    things = torch.cat([column(split, "thing") for split in (data.train, data.test)])
    assert set(torch.bincount(things).tolist()) == {2, 4}


def test_the_classes_are_unicodes_nine_categories_and_a_thing_has_one(data):
    assert len(data.classes) == 9
    assert {"Flags", "Food & Drink", "People & Body"} <= set(data.classes)
    rows = emoji.read_things()
    for split in (data.train, data.test):
        for index in range(0, len(split), 50):
            row = rows[int(column(split, "thing")[index])]
            assert data.classes[split.labels[index]] == row["category"]


def test_the_test_split_holds_out_things_of_every_category(data):
    train, test = (set(column(split, "thing").tolist()) for split in (data.train, data.test))
    assert not train & test and len(train | test) == 1906
    assert len(test) == 382
    assert set(data.test.labels.tolist()) == set(range(9))


def test_the_drawing_is_of_the_thing_that_the_table_names(data):
    """A tomato is red, a blueberry blue and a snowman white, whoever drew them."""
    names = data.train.factor_levels["thing"]
    everything = [*zip(data.train.images, column(data.train, "thing"), strict=True)]
    everything += [*zip(data.test.images, column(data.test, "thing"), strict=True)]
    mean_colour = {"tomato": 0, "green apple": 1, "blue heart": 2}
    count = 0
    for image, thing in everything:
        if names[thing] in mean_colour:
            is_ink = image.float().mean(0) < 230
            colour = image.float()[:, is_ink].mean(1)
            assert int(colour.argmax()) == mean_colour[names[thing]], names[thing]
            count += 1
    assert count == 3 * 4


def test_paper_is_white_and_no_drawing_is_empty(data):
    for split in (data.train, data.test):
        pixels = split.images.flatten(1).float()
        assert float(pixels.std(1).min()) > 1
        assert float((pixels == 255).float().mean()) > 0.2


def test_the_digest_is_that_of_the_files_that_were_committed(data):
    assert data.digest() == "c5bf85246fc226c5"


def test_designers_are_domains(data):
    domains = by_factor(data.train, "designer")
    assert domains.names == emoji.DESIGNERS
    left_out, validation = domains.leave_out("twemoji")
    assert len(left_out.test) == int((column(data.train, "designer") == 1).sum())
    assert set(column(left_out.train, "designer").tolist()) == {0, 2, 3}
    assert set(column(validation, "designer").tolist()) == {0, 2, 3}


def test_another_designers_drawing_is_the_second_view(data):
    groups = partner_groups(data.train, "thing")
    partners = draw_partners(groups, torch.Generator().manual_seed(0))
    things, designers = column(data.train, "thing"), column(data.train, "designer")
    assert torch.equal(things[partners], things)
    assert bool((designers[partners] != designers).all())


def test_pixels_find_the_same_thing_in_another_style_far_above_chance_and_far_from_always(data):
    """The nearest of 382 by cosine is right for two in five."""
    things, designers = column(data.test, "thing"), column(data.test, "designer")
    pixels = data.test.images.flatten(1).float() / 255
    pixels = F.normalize(pixels - pixels.mean(0), dim=1)
    noto, twemoji = (pixels[designers == number] for number in (0, 1))
    assert torch.equal(things[designers == 0], things[designers == 1])
    right = (noto @ twemoji.T).argmax(1) == torch.arange(len(noto))
    assert 0.3 < float(right.float().mean()) < 0.6


def test_every_image_has_a_source_and_every_designer_a_licence(data):
    sources = [emoji_source(data.test, index) for index in (0, 400, 800, len(data.test) - 1)]
    pattern = r"(emoji-datasource-(google|twitter)|fluentui-emoji)@[\d.]+/(img|icons)/.+\.(png|svg)"
    assert all(re.fullmatch(pattern, source) for source in sources)
    readme = (FOLDER / "README.md").read_text()
    for licence in (FOLDER / "licenses").iterdir():
        assert f"licenses/{licence.name}" in readme
    script = (ROOT / "data" / "make_emoji.py").read_text()
    for package in emoji.PACKAGES.values():
        name, version = package.split("@")
        assert f"{name} {version}" in readme
        assert re.search(rf'"{name}": \(\s+"{version}"', script)


def test_a_quantity_is_read_out_and_a_level_is_not(data):
    assert data.train.factor_targets() == {}
    assert "thing" in data.train.factor_names


def test_levels_that_do_not_fit_their_factor_are_refused(data):
    images, labels = data.test.images[:3], data.test.labels[:3]
    factors = torch.tensor([[0.0], [1.0], [2.0]])
    with pytest.raises(
        ValueError, match=r"style 2 of image 2: expected a whole number from 0 to 1"
    ):
        Images(images, labels, data.classes, factors, ("style",), {"style": ("a", "b")})
    with pytest.raises(ValueError, match="'stile'; did you mean 'style'"):
        Images(images, labels, data.classes, factors, ("style",), {"stile": ("a", "b", "c")})


@pytest.mark.parametrize("options", [{"folder": "somewhere"}, {"download": True}])
def test_emoji_have_no_other_version(options):
    with pytest.raises(ValueError, match="emoji ships with simlab: expected no folder"):
        load_data("emoji", **options)


def test_a_missing_a_damaged_and_a_short_sheet_are_named(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "emoji")
    monkeypatch.setattr(emoji, "bundled_folder", lambda: tmp_path)
    sheet = tmp_path / "emoji" / "noto.webp"
    shutil.copy(tmp_path / "emoji" / "fluent-flat.webp", sheet)
    with pytest.raises(ValueError, match="noto.webp has 1600 drawings: expected 1906"):
        load_data("emoji")
    sheet.write_bytes(sheet.read_bytes()[:1000])
    with pytest.raises(ValueError, match="noto.webp is damaged"):
        load_data("emoji")
    sheet.unlink()
    with pytest.raises(FileNotFoundError, match="noto.webp is missing"):
        load_data("emoji")
