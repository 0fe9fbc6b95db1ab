"""Nuisances: the factors say where each image went and which colours it got."""

import pytest
import torch
from data_images import some_images

from simlab.augment import resample
from simlab.data import load_data
from simlab.data.nuisances import (
    CANVAS,
    MAX_ANGLE,
    MAX_SCALE,
    MIN_SCALE,
    random_colours,
    random_pose,
)

# ------------------------------------------------------------------------------- random poses


def test_the_same_seed_scatters_to_the_same_bits():
    x = some_images(20)
    first, again, other = random_pose(x, 3), random_pose(x, 3), random_pose(x, 4)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1]) and not torch.equal(first[0], other[0])


def test_factors_are_uniform_in_their_range_and_keep_the_upright_image_on_the_canvas():
    x = torch.zeros(4000, 1, 28, 28, dtype=torch.uint8)
    at_x, at_y, angle, scale = random_pose(x, 0)[1].unbind(1)
    room = (CANVAS - 28 * scale) / 2
    for values, low, high in (
        (at_x / room, -1, 1), (at_y / room, -1, 1), (angle, -MAX_ANGLE, MAX_ANGLE),
        (scale, MIN_SCALE, MAX_SCALE),
    ):  # fmt: skip
        share = (values - low) / (high - low)
        assert 0 <= float(share.min()) < 0.01 and 0.99 < float(share.max()) <= 1.00001
        assert abs(float(share.mean()) - 0.5) < 0.02
    assert float(torch.corrcoef(torch.stack((at_x / room, at_y / room, angle, scale))).sub(
        torch.eye(4)).abs().max()) < 0.07  # fmt: skip


def test_position_angle_and_scale_are_where_the_image_went():
    """Two dots, one in the middle and one 8 pixels to its right, by their centres of mass."""
    at = torch.arange(28) - 13.5

    def dot(x, y):
        return torch.exp(-((at[None, :] - x) ** 2 + (at[:, None] - y) ** 2) / 4.5)

    # the middle's dot in channel 0, the other one in channel 1
    image = torch.stack((dot(0, 0), dot(8, 0), dot(0, 0))).mul(250).round().to(torch.uint8)
    images, factors = random_pose(image.repeat(60, 1, 1, 1), 1)
    canvas = torch.arange(CANVAS) - (CANVAS - 1) / 2
    mass = images.double()
    x = (mass.sum(2) * canvas).sum(2) / mass.sum((2, 3))  # [N, 3]
    y = (mass.sum(3) * canvas).sum(2) / mass.sum((2, 3))
    at_x, at_y, angle, scale = factors.unbind(1)
    assert float((x[:, 0] - at_x).abs().max()) < 0.1  # pixels
    assert float((y[:, 0] - at_y).abs().max()) < 0.1
    right, up = x[:, 1] - x[:, 0], y[:, 0] - y[:, 1]
    inside = ((x[:, 1].abs() < 12) & (y[:, 1].abs() < 12)).nonzero()[:, 0]  # dot not cut off
    assert len(inside) > 30
    length = torch.hypot(right, up)[inside]
    torch.testing.assert_close(length, 8 * scale[inside].double(), atol=0.15, rtol=0)
    seen_angle = torch.rad2deg(torch.atan2(up, right))[inside]  # counter-clockwise
    off = (seen_angle - angle[inside] + 180).remainder(360) - 180
    assert float(off.abs().max()) < 2.0


def test_undoing_the_factors_gives_the_image_back(fashion):
    original = fashion.train.images[:200]
    images, factors = random_pose(original, 5)
    x, y, angle, scale = factors.unbind(1)
    side = 28 * scale
    middle = CANVAS / 2
    box = torch.stack((middle + y - side / 2, middle + x - side / 2, side, side), dim=1)
    back = resample(images.float(), box, torch.zeros(200, dtype=torch.bool), -angle, 28)
    error = (back - original).abs().mean((1, 2, 3)) / 255
    large = scale > 0.85  # smaller ones have lost detail
    shuffled = (back[torch.randperm(200)] - original).abs().mean() / 255
    assert float(error[large].mean()) < 0.05 < 3 * float(error[large].mean()) < float(shuffled)


def test_images_that_do_not_fit_on_the_canvas_are_refused():
    with pytest.raises(ValueError, match="40 x 40 pixels do not fit on a canvas of 32"):
        random_pose(torch.zeros(1, 1, 40, 40, dtype=torch.uint8), 0)


# -------------------------------------------------------------------------------- random colours


def test_foreground_and_background_are_where_the_factors_say_and_grey_values_mix_them():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).repeat(500, 1, 3, 1)
    images, factors = random_colours(x, 0)
    foreground, background = factors[:, :3], factors[:, 3:]
    for column, share in enumerate((0, 0.2, 1)):
        mixed = 255 * (share * foreground + (1 - share) * background)  # [N, 3]
        assert float((images[:, :, 1, column] - mixed).abs().max()) < 0.51


def test_the_foreground_is_light_the_background_dark_and_they_are_uncorrelated():
    _, factors = random_colours(torch.zeros(4000, 1, 2, 2, dtype=torch.uint8), 1)
    for colours, low in ((factors[:, :3], 0.6), (factors[:, 3:], 0.0)):
        assert low <= float(colours.min()) < low + 0.005
        assert low + 0.395 < float(colours.max()) <= low + 0.4001
    assert float((torch.corrcoef(factors.T) - torch.eye(6)).abs().max()) < 0.07


def test_the_coloured_set_is_the_scattered_one_in_fixed_colours(fashion_folder):
    scattered = load_data("fashion-scattered", str(fashion_folder))
    data, again = (load_data("fashion-coloured", str(fashion_folder)) for _ in range(2))
    assert data.digest() == again.digest() and data.train.images.shape[1:] == (3, 32, 32)
    assert torch.equal(data.train.labels, scattered.train.labels)
    assert torch.equal(data.train.factors[:, :4], scattered.train.factors)
    assert (
        data.train.factor_names[3:5] == ("scale", "foreground red")
        and data.train.factors.shape[1] == 10
    )
    n = len(data.test)
    assert not torch.equal(data.train.factors[:n, 4:], data.test.factors[:, 4:])
