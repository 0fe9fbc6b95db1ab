"""Leaving domains out: what is in which split, and that the table is of the domain left out."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Images
from simlab.data.domains import by_colour, by_factor, domain_folder
from simlab.sweeps.domains import classify, leave_each_out, mean_and_worst
from simlab.train import train_supervised

SMALL = dict(epochs=1, batch_size=32, view_size=8, augment="none", device="cpu")


def numbered(n=400, size=8):
    """Images whose first pixel is their number modulo 251; two classes; factors x and angle."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 99, (n, 1, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % 2
    images[labels == 1] += 100  # bright ones: easy to tell
    factors = torch.rand(n, 2, generator=generator) * 360 - 180
    return Images(images, labels, ("dark", "bright"), factors, ("x", "angle"))


def keys(images):
    return {tuple(image.flatten().tolist()) for image in images.images}


@pytest.mark.parametrize("parts", [2, 4])
def test_ranges_of_a_factor_are_as_large_and_do_not_overlap(parts):
    domains = by_factor(numbered(), "angle", parts)
    values = domains.images.factors[:, 1]
    assert torch.bincount(domains.domain).tolist() == [400 // parts] * parts
    for i in range(parts - 1):
        assert values[domains.domain == i].max() < values[domains.domain == i + 1].min()
    assert len(set(domains.names)) == parts and domains.names[0].startswith("angle -1")


def test_the_three_splits_share_no_image_and_the_test_split_is_the_whole_left_out_domain():
    domains = by_factor(numbered(), "angle")
    name = domains.names[2]
    data, validation = domains.leave_out(name, seed=3)
    parts = [keys(p) for p in (data.train, validation, data.test)]
    assert [len(p) for p in parts] == [240, 60, 100]
    assert len(set.union(*parts)) == 400
    assert parts[2] == keys(domains.images.subset((domains.domain == 2).nonzero()[:, 0]))
    _, other = domains.leave_out(name, seed=4)
    assert keys(other) != parts[1] and not keys(other) & parts[2]


def test_the_normalisation_knows_nothing_of_the_left_out_domain():
    domains = by_colour(numbered())
    data, _ = domains.leave_out("red")
    assert torch.equal(data.normalize.mean, data.train.moments()[0])
    assert data.normalize.mean[0] < data.normalize.mean[1]


def test_dyed_images_keep_their_shape_in_their_own_colour():
    images = numbered()
    domains = by_colour(images, {"red": (1, 0, 0), "half blue": (0, 0, 0.5)})
    assert domains.names == ("red", "half blue") and domains.images.channels == 3
    red, blue = domains.domain == 0, domains.domain == 1
    assert torch.equal(domains.images.images[red, 0], images.images[red, 0])
    assert not domains.images.images[red, 1:].any() and 150 < int(red.sum()) < 250
    half = (images.images[blue, 0] / 2).round()
    assert torch.equal(domains.images.images[blue, 2].float(), half)
    with pytest.raises(ValueError, match="3 channels: expected grey ones"):
        by_colour(domains.images)


def write_folders(root, domains=("photo", "sketch", "toy"), classes=("ant", "bee"), n=6):
    for i, domain in enumerate(domains):
        for j, kind in enumerate(classes):
            (root / domain / kind).mkdir(parents=True)
            for k in range(n):
                colour = (20 + 40 * i, 20 + 40 * j, 5 * k)
                Image.new("RGB", (14, 12), colour).save(root / domain / kind / f"{k}.png")


def test_a_folder_of_domains_is_read_as_it_lies(tmp_path):
    write_folders(tmp_path)
    domains = domain_folder(str(tmp_path), image_size=10)
    assert domains.names == ("photo", "sketch", "toy")
    assert domains.images.classes == ("ant", "bee") and domains.images.size == 10
    first = domains.images.images[:, :, 0, 0]
    assert torch.equal(first[:, 0], 20 + 40 * domains.domain)
    assert torch.equal(first[:, 1], 20 + 40 * domains.images.labels)
    data, _ = domains.leave_out("toy")
    assert set(data.test.images[:, 0, 0, 0].tolist()) == {100} and len(data.test) == 12


def test_wrong_folders_names_and_classes_are_refused_with_what_was_expected(tmp_path):
    write_folders(tmp_path / "a", domains=("photo",))
    with pytest.raises(ValueError, match="one domain, photo"):
        domain_folder(str(tmp_path / "a"))
    (tmp_path / "a" / "stray").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "a" / "stray" / "1.png")
    with pytest.raises(ValueError, match="1.png is at the wrong depth"):
        domain_folder(str(tmp_path / "a"))
    write_folders(tmp_path / "b", domains=("photo", "toy"))
    write_folders(tmp_path / "b", domains=("toy ",), classes=("cow",))
    domains = domain_folder(str(tmp_path / "b"))
    with pytest.raises(ValueError, match="the class cow has images in 'toy ' only"):
        domains.leave_out("toy ")
    with pytest.raises(ValueError, match="did you mean 'photo'"):
        domains.leave_out("foto")
    with pytest.raises(ValueError, match="did you mean 'angle'"):
        by_factor(numbered(), "angel")


@pytest.mark.long
def test_the_table_holds_the_accuracy_of_each_left_out_domain_and_of_the_validation(tmp_path):
    domains = by_factor(numbered(), "x", parts=2)
    options = dict(progress=False, folder=str(tmp_path))
    config = SupervisedConfig(**SMALL)
    table = leave_each_out(domains, config, seeds=(0, 1), **options)
    assert list(table["domain"]) == [*domains.names] * 2 and list(table["seed"]) == [0, 0, 1, 1]
    data, validation = domains.leave_out(domains.names[0], seed=0)
    run = train_supervised(config, data, **options)
    for images, column in ((data.test, "test"), (validation, "validation")):
        right = classify(run, images, data).argmax(1) == images.labels
        assert table[column][0] == pytest.approx(float(right.float().mean()), abs=1e-6)
    assert len(list(tmp_path.glob("supervised-*"))) == 4


@pytest.mark.long
def test_a_pretraining_configuration_is_answered_for_by_a_probe(tmp_path):
    config = PretrainConfig(**SMALL, method="simsiam proj_dim=16 pred_dim=8", sim_layers="blocks.*")
    domains = by_factor(numbered(), "x", parts=2)
    table = leave_each_out(domains, config, progress=False, folder=str(tmp_path))
    assert len(table) == 2 and table["test"].between(0, 1).all()
    assert len(list(tmp_path.glob("pretrain-*"))) == 2


def test_mean_and_worst_are_over_the_domains_of_each_seed():
    table = pd.DataFrame(
        {"seed": [0, 0, 1, 1], "domain": list("abab"), "test": [0.5, 0.7, 0.9, 0.1]}
    )
    summary = mean_and_worst(table)
    assert np.allclose(summary["mean"], [0.6, 0.5]) and list(summary["worst"]) == [0.5, 0.1]
