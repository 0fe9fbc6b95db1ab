"""Views: what comes out, that every image has an independent draw, and the devices."""

import math
from dataclasses import replace

import pytest
import torch
from augment_images import MEAN, NONE, NORMALIZE, STD, images, seeded
from scipy.stats import chisquare, ks_2samp
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import RandomResizedCrop

from simlab.augment import (
    RECIPES,
    Augment,
    Normalize,
    color_jitter,
    drawing,
    parse_augment,
    two_views,
    view,
    views_at_once,
)
from simlab.augment import views as module

CPU = torch.device("cpu")
CHANGED = ("simclr jitter=0", "simclr grey=0", "simclr hue=0", "simclr solarize=0.2")


# ------------------------------------------------------------------------- what comes out of a view


@pytest.mark.parametrize("c", [1, 3])
def test_the_recipe_none_only_normalises(c):
    x = images(5, c, 20, 28)
    wanted = (x.float() / 255 - MEAN[:c, None, None]) / STD[:c, None, None]
    torch.testing.assert_close(NORMALIZE[c](x), wanted)
    got = view(x, NONE, NORMALIZE[c])
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("c", [1, 3])
def test_every_recipe_gives_finite_views_of_both_kinds_of_images(name, c):
    x = images(6, c)
    before = x.clone()
    for seen in two_views(x, RECIPES[name], NORMALIZE[c], size=24):
        assert seen.shape == (6, c, 24, 24) and seen.dtype == torch.float32
        assert seen.is_contiguous(memory_format=torch.channels_last)
        assert bool(seen.isfinite().all())
    assert torch.equal(x, before)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
def test_each_image_keeps_its_index_whatever_their_number(n):
    """Shuffled for the jitter, and put back: images of one brightness each keep their order."""
    x = torch.arange(n).mul(30).to(torch.uint8).view(n, 1, 1, 1).repeat(1, 3, 8, 8)
    seen = view(x, replace(NONE, flip=0.5, crop_min=0.3), Normalize(torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(seen, x.float() / 255, atol=1e-5, rtol=0)


def test_images_of_another_kind_are_refused():
    for wrong in (torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"uint8 \[N, C, H, W\]"):
            view(wrong, NONE, NORMALIZE[3])


def test_batches_of_several_shapes_are_refused():
    with pytest.raises(ValueError, match="expected one shape"):
        views_at_once(1, [images(4), images(3)], NONE, NORMALIZE[3])


# --------------------------------------------------------------------------------- the random draw


def test_a_seed_gives_the_same_views_and_leaves_the_global_generator_alone():
    x, state = images(), torch.get_rng_state()
    first = two_views(x, RECIPES["simclr"], NORMALIZE[3], generator=seeded(3))
    again = two_views(x, RECIPES["simclr"], NORMALIZE[3], generator=seeded(3))
    other = two_views(x, RECIPES["simclr"], NORMALIZE[3], generator=seeded(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_equal_images_get_unequal_views():
    """One draw for a whole batch is the classic mistake (pytorch/vision#2929)."""
    same = images(1, 3, 8, 8).repeat(40, 1, 1, 1)
    for strength in ({"crop_min": 0.3}, {"flip": 0.5}, {"rotate": 30.0}, {"brightness": 0.4},
                     {"contrast": 0.4}, {"saturation": 0.4}, {"hue": 0.1}, {"blur": 0.5},
                     {"grey": 0.5}):  # fmt: skip
        off = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "jitter": 1}
        one, two = two_views(
            same, replace(NONE, **(off | strength)), NORMALIZE[3], generator=seeded()
        )
        kinds = 2 if strength.keys() & {"flip", "grey"} else 15  # a coin has two sides
        assert len(torch.unique(one.flatten(1), dim=0)) >= kinds, strength
        assert not torch.equal(one, two), strength


def test_neighbours_parameters_are_uncorrelated():
    """The brightness of 400 equal white images, in 30 batches, is the factor that was drawn."""
    white = torch.full((40, 3, 4, 4), 128, dtype=torch.uint8)
    bright = replace(NONE, jitter=1, brightness=0.4, contrast=0, saturation=0, hue=0)
    generator = seeded(5)
    seen = [
        torch.stack(
            two_views(white, bright, Normalize(torch.zeros(3), torch.ones(3)), generator=generator)
        )
        for _ in range(60)
    ]
    factors = torch.stack(seen)[:, :, :, 0, 0, 0] / (128 / 255)  # [batch, view, image]
    assert 0.6 <= float(factors.min()) < 0.61 and 1.39 < float(factors.max()) <= 1.4
    between_views = torch.corrcoef(factors.transpose(0, 1).reshape(2, -1))[0, 1]
    neighbours = torch.stack((factors[:, :, 1:].flatten(), factors[:, :, :-1].flatten()))
    assert abs(float(between_views)) < 0.08  # four standard errors of 2,400 pairs
    assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 0.06
    torch.testing.assert_close(factors.std(), torch.tensor(0.8 / math.sqrt(12)), atol=0.01, rtol=0)


def test_a_view_does_not_change_with_the_other_images():
    x = images(9)
    other = images(9, seed=1)
    other[4] = x[4]
    seen, seen_among_others = (
        view(batch, RECIPES["simclr"], NORMALIZE[3], generator=seeded(6)) for batch in (x, other)
    )
    assert torch.equal(seen[4], seen_among_others[4])
    assert not torch.equal(seen[3], seen_among_others[3])


@pytest.mark.parametrize("shard", [None, (0, 21), (5, 40)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_both_views_made_in_one_go_are_those_made_one_after_the_other(name, channels, shard):
    x, normalize = images(21)[:, :channels], NORMALIZE[channels]
    one, both = seeded(6), seeded(6)
    apart = [view(x, RECIPES[name], normalize, 24, one, shard) for _ in range(2)]
    together = two_views(x, RECIPES[name], normalize, 24, both, shard)
    for a, b in zip(apart, together, strict=True):
        assert torch.equal(a, b) and b.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(one.get_state(), both.get_state())


@pytest.mark.parametrize("shard", [None, (0, 16), (16, 48)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_the_views_of_several_batches_at_once_are_those_of_each_batch(name, channels, shard):
    x, normalize = images(48)[:, :channels], NORMALIZE[channels]
    one, all_, how = seeded(6), seeded(6), (RECIPES[name], normalize, 24)
    apart = [two_views(batch, *how, one, shard) for batch in x.split(16)]
    together = views_at_once(2, x.split(16), *how, all_, shard)
    for each, those in zip(apart, together, strict=True):
        for a, b in zip(each, those, strict=True):
            assert torch.equal(a, b) and b.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(one.get_state(), all_.get_state())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*RECIPES, *CHANGED])
def test_every_number_that_is_drawn_is_used(monkeypatch, name, channels):
    made = []

    class Draw(drawing.Draw):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(module, "Draw", Draw)
    two_views(images(6)[:, :channels], parse_augment(name), NORMALIZE[channels])
    assert [draw.used for draw in made] == [made[0].numbers.shape[1]]


@pytest.mark.parametrize("n", [24, 21])
def test_every_order_of_the_jitter_is_equally_likely_for_every_image(monkeypatch, n):
    """Images carry their number as brightness, by which they are found in the shuffled batch."""
    x = torch.arange(n).to(torch.uint8).view(n, 1, 1, 1).repeat(1, 3, 2, 2)
    seen = []

    def spy(batch, factors, order, shift, parts):
        number = (batch[:, 0, 0, 0] * 255).round().long()
        hue_at = torch.arange(len(batch)) * 4 // len(batch)
        rows = torch.stack((number, hue_at, order[:, 0] * 3 + order[:, 1]), dim=1)
        seen.append(rows)
        return color_jitter(batch, factors, order, shift, parts)

    monkeypatch.setattr(module, "color_jitter", spy)
    generator = seeded(7)
    for _ in range(100):
        view(x, RECIPES["simsiam-cifar"], NORMALIZE[3], generator=generator)
    number, hue_at, order = torch.cat(seen).unbind(1)
    orders = torch.unique(hue_at * 9 + order, return_counts=True)[1]
    assert len(orders) == 24
    assert chisquare(orders).pvalue > 1e-3
    for image in (0, n // 2):  # the last one also fills up the quarters
        assert chisquare(torch.bincount(hue_at[number == image])).pvalue > 1e-3


@pytest.mark.parametrize(
    "crop_min, ratio, h, w", [(0.2, 4 / 3, 32, 32), (0.08, 4 / 3, 64, 64), (0.5, 2.0, 24, 40)]
)
def test_crops_are_distributed_as_torchvisions(crop_min, ratio, h, w):
    recipe = replace(NONE, crop_min=crop_min, ratio=ratio)
    draw = drawing.Draw(1, 8000, recipe, 3, CPU, seeded(8))
    ours = drawing.draw_crops(draw, recipe, h, w)[0]
    torch.manual_seed(9)
    x = torch.empty(1, h, w)
    args = x, [crop_min, 1.0], [1 / ratio, ratio]
    theirs = torch.tensor([RandomResizedCrop.get_params(*args) for _ in range(3000)]).float()
    assert bool((ours == ours.round()).all())
    assert bool((ours[:, 0] + ours[:, 2] <= h).all() and (ours[:, 1] + ours[:, 3] <= w).all())
    for name, of in {
        "area": lambda b: b[:, 2] * b[:, 3],
        "aspect": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "width": lambda b: b[:, 3],
    }.items():
        assert ks_2samp(of(ours).numpy(), of(theirs).numpy()).pvalue > 1e-3, name


def test_probabilities_are_what_the_recipe_says():
    x, n = images(1, 3, 8, 8).repeat(400, 1, 1, 1), 400
    clean = NORMALIZE[3](x)

    def changed(**strengths):
        seen = view(x, replace(NONE, **strengths), NORMALIZE[3], generator=seeded(10))
        return float(((seen - clean).abs().amax((1, 2, 3)) > 1e-3).float().mean())

    for p, strengths in ((0.3, {"jitter": 0.3}), (0.2, {"grey": 0.2}), (0.6, {"flip": 0.6}),
                         (0.2, {"solarize": 0.2}), (0.5, {"blur": 0.5, "blur_sigma_min": 0.5})):  # fmt: skip
        assert abs(changed(**strengths) - p) < 4 * math.sqrt(p * (1 - p) / n), strengths


def test_grey_images_have_grey_views_in_every_colour_recipe():
    x = images(8, 1).repeat(1, 3, 1, 1)
    seen = view(x, RECIPES["simclr"], Normalize(torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(seen.amax(1), seen.amin(1), atol=1e-5, rtol=0)


# ----------------------------------------------------------------------------------------- devices


class Guard(TorchDispatchMode):
    """Fails on any tensor that is made on another device than the images'."""

    def __init__(self, device):
        super().__init__()
        self.device, self.calls = torch.device(device), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type != self.device.type:
                raise AssertionError(f"{func} makes a tensor on {tensor.device}")
        return out


def everything_on(device, generator=None):
    strong = Augment(rotate=20, blur=0.5, solarize=0.2)
    for c in (1, 3):
        x = images(6, c).to(device)
        with Guard(device) as guard:
            mean, std = (torch.full((c,), v, device=device) for v in (0.5, 0.25))
            normalize = Normalize(mean, std)
            for seen in (*two_views(x, strong, normalize, 16, generator), normalize(x)):
                assert seen.device.type == torch.device(device).type
        assert guard.calls > 100


def test_every_tensor_of_a_view_is_made_on_the_images_device():
    """On the meta device, where asking for a value fails: nothing waits for the device either."""
    everything_on("meta")
    with pytest.raises(AssertionError, match="on cpu"), Guard("meta"):
        torch.ones(1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_every_tensor_and_generator_is_on_the_gpu():
    everything_on("cuda", torch.Generator("cuda"))


def test_views_are_float32_to_the_last_bit_inside_autocast():
    x, strong = images(), replace(RECIPES["simclr"], blur=1.0)
    wanted = view(x, strong, NORMALIZE[3], generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        got = view(x, strong, NORMALIZE[3], generator=seeded())
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)
