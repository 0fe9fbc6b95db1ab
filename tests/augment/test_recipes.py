"""Recipes: the published settings, and how a text is read."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simlab.augment import RECIPES, Augment, parse_augment


def test_recipes_are_the_published_ones():
    simclr, simsiam = RECIPES["simclr"], RECIPES["simsiam-imagenet"]
    assert (simclr.crop_min, simclr.brightness, simclr.hue, simclr.grey) == (0.08, 0.8, 0.2, 0.2)
    assert (simsiam.crop_min, simsiam.brightness, simsiam.hue, simsiam.blur) == (0.2, 0.4, 0.1, 0.5)
    assert RECIPES["simsiam-cifar"] == replace(simsiam, blur=0.0)
    assert RECIPES["scattered"].rotate > 0


def test_a_recipe_is_read_with_its_changes():
    assert parse_augment("simclr blur=0 crop_min=0.2") == replace(
        RECIPES["simclr"], blur=0.0, crop_min=0.2
    )
    assert parse_augment(" simclr ") == RECIPES["simclr"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("simcrl", "did you mean 'simclr'"),
        ("", "known: none"),
        ("simclr blurr=0", "did you mean 'blur'"),
        ("simclr blur", "expected name=number, not 'blur'"),
        ("simclr blur=often", "expected name=number, not 'blur=often'"),
        ("simclr blur=nan", "blur=nan: expected a number from 0 to 1"),
        ("simclr crop_min=0", "crop_min=0.0: expected a number from 0.001"),
        ("simclr crop_min=0.9 crop_max=0.5", "crop_min=0.9: expected a number from 0.001 to 0.5"),
        ("simclr hue=0.6", "hue=0.6"),
        ("simclr ratio=0.5", "ratio=0.5"),
        ("simclr blur_sigma_min=3", "blur_sigma_min=3.0: expected a number from 0.01 to 2.0"),
    ],
)
def test_a_wrong_recipe_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_augment(text)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([f.name for f in fields(Augment)]),
    value=st.one_of(st.just(math.nan), st.floats(max_value=-1e-9), st.floats(min_value=180.001)),
)
def test_no_strength_out_of_its_range_is_taken(name, value):
    with pytest.raises(ValueError, match="expected a number"):
        replace(Augment(), **{name: value})
