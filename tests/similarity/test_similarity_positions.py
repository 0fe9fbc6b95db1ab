"""Positions of convolutional maps as samples: the same ones in every map."""

import pytest
import torch
from small_features import normal
from torch import nn

from simlab.similarity import (
    cka_similarity,
    compare,
    mutual_knn_similarity,
    positions_as_samples,
    procrustes_distance,
    rsa_similarity,
)
from simlab.similarity.intervals import random_halves

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


class Maps(nn.Module):
    """Two maps of 4 x 4, one with the channels last; one of 2 x 2; and a vector."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.last = nn.Linear(5, 7)
        self.small = nn.Conv2d(7, 6, 2, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.last(self.conv(x).permute(0, 2, 3, 1))  # [n, 4, 4, 7]
        return self.head(self.small(x.permute(0, 3, 1, 2)).mean((2, 3)))


@pytest.fixture(scope="module")
def maps():
    torch.manual_seed(0)
    return Maps().eval()


IMAGES = normal(24, 3, 4, 4).float()
TWO = ["conv", "last"]


def maps_of(net, images):
    """Both maps of 4 x 4 as [n, C, H, W]."""
    with torch.no_grad():
        conv = net.conv(images)
        last = net.last(conv.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return conv.double(), last.double()


def test_compare_takes_positions_wherever_the_channels_lie(maps):
    x, y = positions_as_samples(*maps_of(maps, IMAGES))
    measures = ["cka", "rsa", "mutual_knn", "procrustes_distance"]
    result = compare(maps, IMAGES, TWO, measures, pool="positions", samples=24)
    functions = [cka_similarity, rsa_similarity, mutual_knn_similarity, procrustes_distance]
    for name, function in zip(measures, functions, strict=True):
        assert result.block(measure=name)[0, 1] == pytest.approx(function(x, y), abs=1e-5), name
    assert result.info.samples == 24 and result.info.pool == {"Maps": "positions"}
    assert [layer.size for layer in result.layers] == [5, 7]
    streamed = compare(maps, IMAGES, TWO, pool="positions", batch_size=24)
    assert streamed.matrix[0, 1] == pytest.approx(result.block(measure="cka")[0, 1], abs=1e-5)


def test_compare_averages_maps_onto_one_grid(maps):
    x, _ = positions_as_samples(*maps_of(maps, IMAGES), size=2)
    with torch.no_grad():
        small = maps.small(maps_of(maps, IMAGES)[1].float())
    result = compare(maps, IMAGES, ["conv", "small"], pool="positions 2", samples=24)
    (y,) = positions_as_samples(small)
    assert result.matrix[0, 1] == pytest.approx(cka_similarity(x, y), abs=1e-5)


def test_what_has_no_common_positions_is_refused_or_has_a_reason(maps):
    with pytest.raises(ValueError, match=r'4 positions and a layer before it 16.*"positions 4"'):
        compare(maps, IMAGES, ["conv", "small"], pool="positions")
    with pytest.raises(ValueError, match="positions are samples for all models or for none"):
        compare([maps, maps], IMAGES, TWO, pool={"Maps": "positions", "Maps 2": "mean"})
    with pytest.raises(ValueError, match="600 images of 16 positions are 9,600.*512 or less"):
        compare(maps, IMAGES.repeat(25, 1, 1, 1), TWO, pool="positions", batch_size=600)
    with pytest.raises(ValueError, match="deconfounded_cka is of whole images"):
        compare(maps, IMAGES, TWO, "deconfounded_cka", pool="positions")
    with pytest.raises(ValueError, match="positions 0"):
        compare(maps, IMAGES, TWO, pool="positions 0")
    result = compare(maps, IMAGES, ["conv", "head"], pool="positions")
    assert "its output has no positions" in result.reasons["Maps/head"]
    result = compare(maps, IMAGES, ["conv", "small"], pool="positions 3")
    assert "2 x 2 positions can't be averaged" in result.reasons["Maps/small"]


def test_positions_of_an_image_stay_together_when_samples_are_permuted_or_left_out(maps):
    first, second = maps_of(maps, IMAGES)
    options = {"pool": "positions", "samples": 24, "seed": 3}
    result = compare(maps, IMAGES, TWO, null=2, resamples=10, **options)
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(24, generator=generator)
    truth = cka_similarity(*positions_as_samples(first, second[order]))
    assert result.nulls["cka"][0, 0, 1] == pytest.approx(truth, abs=1e-5)
    half = random_halves(24, 5, seed=3)[0][1]
    truth = cka_similarity(*positions_as_samples(first[half], second[half]))
    assert result.halves["cka"][0, 1, 0, 1] == pytest.approx(truth, abs=1e-5)
