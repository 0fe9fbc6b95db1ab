"""Positions of convolutional maps as samples: the same ones in every map."""

import pytest
import torch
from small_features import normal

from simlab.similarity import cka_similarity, positions_as_samples

MAP = normal(6, 5, 4, 4)


def test_all_positions_are_rows_and_channels_are_columns():
    (rows,) = positions_as_samples(MAP)
    assert rows.shape == (96, 5)
    assert torch.equal(rows[2 * 16 + 3 * 4 + 1], MAP[2, :, 3, 1])
    (last,) = positions_as_samples(MAP.contiguous(memory_format=torch.channels_last))
    assert torch.equal(last, rows)


def test_the_same_positions_are_drawn_from_every_map():
    where = torch.arange(96.0).reshape(6, 1, 4, 4)
    x, y, z = positions_as_samples(where, where * 2, MAP, count=40)
    assert torch.equal(2 * x, y) and z.shape == (40, 5)
    assert len(x.unique()) == 40  # without replacement
    other = positions_as_samples(where, count=40, seed=1)[0]
    assert not torch.equal(other, x)


def test_a_one_by_one_convolution_of_equal_variances_changes_nothing():
    rotation = torch.linalg.qr(normal(5, 5, seed=2))[0]
    turned = torch.einsum("dc,nchw->ndhw", rotation, MAP)
    assert cka_similarity(*positions_as_samples(MAP, turned)) == pytest.approx(1, abs=1e-9)
    # moved by one position, the flattened maps are alike and the positions are not
    moved = MAP.roll(1, dims=3)
    assert cka_similarity(MAP.flatten(1), moved.flatten(1)) == pytest.approx(1, abs=1e-9)
    assert abs(cka_similarity(*positions_as_samples(MAP, moved))) < 0.3


def test_maps_of_different_sizes_are_refused_or_averaged():
    large = MAP.repeat_interleave(2, 2).repeat_interleave(2, 3)  # [6, 5, 8, 8]
    with pytest.raises(ValueError, match="4 x 4 and 8 x 8 positions.*size=4"):
        positions_as_samples(MAP, large)
    x, y = positions_as_samples(MAP, large, size=4)
    assert torch.allclose(x, y)
    with pytest.raises(ValueError, match="size=5: expected 1 to 4 for 4 x 4"):
        positions_as_samples(MAP, large, size=5)


def test_what_are_no_maps_of_the_same_images_is_refused():
    with pytest.raises(ValueError, match=r"\[N, C, H, W\], got shape \(6, 5\)"):
        positions_as_samples(MAP[:, :, 0, 0])
    with pytest.raises(ValueError, match="must correspond: 6 and 5"):
        positions_as_samples(MAP, MAP[:5])
    with pytest.raises(ValueError, match="count=97: expected 1 to 96"):
        positions_as_samples(MAP, count=97)
