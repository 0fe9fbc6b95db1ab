"""Datasets by name, on a device, and from an installed wheel."""

import shutil
import tomllib

import pytest
import torch
from data_images import ROOT

from simlab.data import DATASETS, load_data
from simlab.data import fashion as module


@pytest.mark.parametrize(
    "name, message",
    [
        ("cifar-10", "did you mean 'cifar10'"),
        ("fashion_scattered", "did you mean 'fashion-scattered'"),
        (
            "imagenet",
            "known: cifar10, cifar100, emoji, fashion, fashion-coloured, fashion-scattered, stl10",
        ),
        ("", "dataset '' is unknown"),
    ],
)
def test_an_unknown_dataset_gets_the_nearest_right_name(name, message):
    with pytest.raises(ValueError, match=message):
        load_data(name)


def test_every_named_dataset_is_tested_in_this_folder():
    fashion = {"fashion", "fashion-scattered", "fashion-coloured"}
    assert set(DATASETS) == {*fashion, "emoji", "cifar10", "cifar100", "stl10"}


def test_a_size_that_a_dataset_does_not_have_is_refused(fashion_folder):
    assert load_data("fashion", str(fashion_folder), image_size=8).train.size == 8
    with pytest.raises(ValueError, match="image_size=9: fashion has images of 8 pixels"):
        load_data("fashion", str(fashion_folder), image_size=9)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_dataset_lives_on_the_device_that_was_asked_for(fashion_folder):
    data = load_data("fashion-scattered", str(fashion_folder), device="cuda")
    tensors = (
        data.train.images,
        data.train.labels,
        data.train.factors,
        data.normalize.mean,
        data.test.images,
    )
    assert all(tensor.device.type == "cuda" for tensor in tensors)
    assert data.digest() == load_data("fashion-scattered", str(fashion_folder)).digest()


# ---------------------------------------------------------------------------------------- the wheel


def test_laid_out_as_in_the_wheel_the_package_finds_its_images(tmp_path, monkeypatch, fashion):
    """The wheel itself is built and installed by test_wheel.py."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert all((ROOT / package / "__init__.py").exists() for package in wheel["packages"])
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, tmp_path / "site" / target)
    file = tmp_path / "site" / "simlab" / "data" / "fashion.py"
    monkeypatch.setattr(module, "__file__", str(file))
    assert module.bundled_folder() == tmp_path / "site" / "simlab" / "_data"
    assert load_data("fashion").digest() == fashion.digest()
