"""Transforms: parity with torchvision given the same parameters, and `Normalize`."""

import itertools
import math

import pytest
import torch
import torchvision.transforms.functional as tv1
import torchvision.transforms.v2.functional as tv2
from augment_images import MEAN, NORMALIZE, STD, floats, images, seeded
from torchvision.transforms import InterpolationMode

from simlab.augment import (
    Normalize,
    adjust_hue,
    color_jitter,
    gaussian_blur,
    resample,
    rgb_to_grayscale,
    solarize,
)

ORDERS = list(itertools.permutations(range(3)))
both_apis = pytest.mark.parametrize("tv", [tv1, tv2], ids=["v1", "v2"])


def plain(n, h, w):
    """Box, flip and angle that change nothing."""
    box = torch.tensor([0.0, 0.0, h, w]).repeat(n, 1)
    return box, torch.zeros(n, dtype=torch.bool), torch.zeros(n)


# ---------------------------------------------------------------- parity: crop, flip and rotation


@both_apis
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("c", [1, 3])
def test_enlarging_crops_and_flips_are_torchvisions_to_1e_5(tv, size, c):
    x = floats(8, c, 32, 36)
    boxes = [(0, 0, 24, 32), (3, 5, 20, 22), (31, 35, 1, 1), (0, 10, 7, 26), (12, 0, 20, 9),
             (2, 2, 24, 32), (8, 4, 1, 20), (10, 30, 22, 6)]  # fmt: skip
    flip = torch.arange(8) % 2 == 1
    got = resample(x, torch.tensor(boxes).float(), flip, torch.zeros(8), size)
    for i, (top, left, height, width) in enumerate(boxes):
        wanted = tv.resized_crop(x[i : i + 1], top, left, height, width, list(size), antialias=True)
        wanted = tv2.horizontal_flip(wanted) if flip[i] else wanted
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-5, rtol=0)


def test_shrinking_crops_are_torchvisions_without_antialiasing():
    x, (box, flip, angle) = floats(4), plain(4, 32, 32)
    wanted = tv2.resized_crop(x, 0, 0, 32, 32, [20, 20], antialias=False)
    torch.testing.assert_close(resample(x, box, flip, angle, 20), wanted, atol=1e-5, rtol=0)


@both_apis
@pytest.mark.parametrize("h, w", [(32, 32), (24, 33)])
def test_rotation_is_torchvisions_to_1e_4_and_counter_clockwise(tv, h, w):
    angles = [-180.0, -90.0, -33.3, 0.0, 7.0, 45.0, 90.0, 123.0]
    x, (box, flip, _) = floats(8, 3, h, w), plain(8, h, w)
    got = resample(x, box, flip, torch.tensor(angles), (h, w))
    for i, angle in enumerate(angles):
        wanted = tv.rotate(x[i : i + 1], angle, InterpolationMode.BILINEAR)
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-4, rtol=0)


def test_a_flip_comes_after_the_rotation():
    x, (box, _, _) = floats(2), plain(2, 32, 32)
    got = resample(x, box, torch.tensor([True, True]), torch.tensor([30.0, -75.0]), 32)
    for i, angle in enumerate((30.0, -75.0)):
        wanted = tv2.horizontal_flip(tv2.rotate(x[i : i + 1], angle, InterpolationMode.BILINEAR))
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-4, rtol=0)


def test_nothing_outside_a_crop_bleeds_into_it():
    x = torch.ones(1, 1, 32, 32)
    x[:, :, 8:20, 10:30] = 0.25
    got = resample(x, torch.tensor([[8.0, 10.0, 12.0, 20.0]]), *plain(1, 1, 1)[1:], 32)
    assert torch.allclose(got, torch.full_like(got, 0.25))


# -------------------------------------------------------------------------------- parity: colour


@both_apis
@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("c", [1, 3])
def test_blends_are_torchvisions_to_1e_6(tv, kind, c):
    x, strengths = floats(6, c), torch.tensor([0.0, 0.3, 0.9, 1.0, 1.4, 2.0])
    index = ("brightness", "contrast", "saturation").index(kind)
    factors = torch.ones(6, 3)
    factors[:, index] = strengths
    got = color_jitter(x, factors, torch.full((6, 1), index), None)
    for i, factor in enumerate(strengths.tolist()):
        wanted = getattr(tv, f"adjust_{kind}")(x[i : i + 1], factor)
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-6, rtol=0)


@both_apis
def test_hue_is_torchvisions_hsv_to_1e_5(tv):
    shifts = [-0.5, -0.37, -0.1, 0.0, 0.05, 0.1, 0.29, 0.5]
    x = floats(8)
    x[:, :, 5] = torch.randint(0, 2, (8, 3, 32), generator=seeded()).float()  # pure colours
    got = adjust_hue(x, torch.tensor(shifts))
    for i, shift in enumerate(shifts):
        wanted = tv.adjust_hue(x[i : i + 1], shift)
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-5, rtol=0)


def test_a_third_of_the_colour_wheel_makes_red_green_and_leaves_grey_alone():
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.4, 0.4, 0.4]])
    changed = adjust_hue(colours[:, :, None, None], torch.full((4,), 1 / 3))[:, :, 0, 0]
    torch.testing.assert_close(changed, colours[[1, 2, 0, 3]], atol=1e-6, rtol=0)


@both_apis
def test_jitter_is_torchvisions_to_1e_5_in_every_one_of_the_24_orders(tv):
    """Quarter k of the batch has its hue shift after k of the other steps."""
    x = floats(1).repeat(24, 1, 1, 1)
    order = torch.tensor([list(o) for o in ORDERS]).repeat(4, 1)  # all six in each quarter
    factors = 0.6 + 0.8 * torch.rand(24, 3, generator=seeded(1))
    shift = 0.2 * torch.rand(24, generator=seeded(2)) - 0.1
    before = x.clone()
    got = color_jitter(x, factors, order, shift)
    assert torch.equal(x, before), "the input must not change"
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for i in range(24):
        steps = order[i].tolist()
        steps.insert(i // 6, 3)
        wanted = x[i : i + 1]
        for step in steps:
            wanted = adjust[step](wanted, float([*factors[i], shift[i]][step]))
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-5, rtol=0)


def test_the_order_of_the_jitter_matters():
    x = floats(1).repeat(24, 1, 1, 1)
    order = torch.tensor([list(o) for o in ORDERS]).repeat(4, 1)
    factors = torch.tensor([1.4, 0.6, 1.4]).repeat(24, 1)
    seen = color_jitter(x, factors, order, torch.full((24,), 0.1)).flatten(1)
    differ = torch.cdist(seen, seen, p=math.inf) > 1e-3
    assert differ.sum() > 24 * 23 / 2  # most pairs: where nothing is clamped, some steps commute


@both_apis
def test_grey_is_torchvisions(tv):
    x = floats()
    torch.testing.assert_close(rgb_to_grayscale(x), tv.rgb_to_grayscale(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("h, w", [(1, 1), (1, 6), (6, 1)])
def test_a_single_pixel_is_blurred_to_itself(h, w):
    x = torch.rand(2, 3, h, w)
    got = gaussian_blur(x, torch.tensor([0.5, 2.0]))
    assert got.shape == x.shape and got.amax() <= x.amax() + 1e-6
    if h == w:
        torch.testing.assert_close(got, x)


@both_apis
@pytest.mark.parametrize("c, side, kernel", [(3, 32, 3), (1, 48, 5), (3, 64, 7)])
def test_blur_is_torchvisions_to_1e_5_with_a_kernel_of_a_tenth(tv, c, side, kernel):
    x, sigmas = floats(4, c, side, side), [0.1, 0.6, 1.1, 2.0]
    got = gaussian_blur(x, torch.tensor(sigmas))
    for i, sigma in enumerate(sigmas):
        wanted = tv.gaussian_blur(x[i : i + 1], [kernel, kernel], [sigma, sigma])
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-5, rtol=0)


@both_apis
@pytest.mark.parametrize("c", [1, 3])
def test_solarisation_is_torchvisions_of_every_value_of_a_byte(tv, c):
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, c, 1, 1)
    wanted = tv.solarize(values, 128).float() / 255
    torch.testing.assert_close(solarize(values.float() / 255), wanted, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------- Normalize


@pytest.mark.parametrize("c", [1, 3])
def test_normalised_images_have_the_mean_and_std_taken_out_and_are_undone(c):
    x = images(5, c, 20, 28)
    normalised = NORMALIZE[c](x)
    wanted = (x.float() / 255 - MEAN[:c, None, None]) / STD[:c, None, None]
    torch.testing.assert_close(normalised, wanted)
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(NORMALIZE[c].undo(normalised), x / 255, atol=1e-6, rtol=0)
    beyond = NORMALIZE[c].undo(torch.full((1, c, 2, 2), 99.0))
    assert torch.equal(beyond, torch.ones(1, c, 2, 2))


def test_normalisations_of_equal_values_are_equal_and_print_them():
    normalize = Normalize(MEAN, STD)
    assert normalize == Normalize([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]) == normalize.to("cpu")
    assert len({normalize, Normalize(MEAN.clone(), STD), Normalize(STD, STD)}) == 2
    assert normalize != Normalize(MEAN, MEAN) and normalize != "normalize"
    assert repr(normalize) == "Normalize(mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])"


@pytest.mark.parametrize(
    "mean, std, message",
    [
        ([0.5], [0.2, 0.2], "mean has 1 channels and std 2"),
        (0.5, 0.2, r"mean has shape \(\): expected one number per channel"),
        ([0.5], [0.0], r"std=\[0.0\]: expected numbers above 0"),
        ([0.5], [math.nan], "expected numbers above 0"),
    ],
)
def test_a_normalisation_that_divides_by_nothing_or_fits_no_image_is_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Normalize(mean, std)


def test_float_images_are_refused_since_they_would_be_divided_by_255_twice():
    with pytest.raises(ValueError, match=r"images are torch.float32: expected uint8"):
        NORMALIZE[3](floats())
