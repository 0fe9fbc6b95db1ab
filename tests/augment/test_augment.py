"""Views: parity with torchvision given the same parameters, and what is drawn for whom."""

import itertools
import math
from dataclasses import fields, replace

import pytest
import torch
import torchvision.transforms.functional as tv1
import torchvision.transforms.v2.functional as tv2
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, ks_2samp
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from simlab.augment import (
    RECIPES,
    Augment,
    Normalize,
    blur,
    color_jitter,
    grey,
    parse_augment,
    resample,
    shift_hue,
    two_views,
    view,
    views_at_once,
)
from simlab.augment import views as module

CPU = torch.device("cpu")
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
NORMALIZE = {c: Normalize(MEAN[:c], STD[:c]) for c in (1, 3)}
NONE = RECIPES["none"]
ORDERS = list(itertools.permutations(range(3)))
both_apis = pytest.mark.parametrize("tv", [tv1, tv2], ids=["v1", "v2"])


def images(n=8, c=3, h=32, w=32, seed=0):
    """Random uint8 images that are smooth enough to have edges, flats and greys."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, c, 6, 6, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear")
    x[:, :, : h // 4, : w // 4] = torch.rand(n, c, h // 4, w // 4, generator=generator)
    x[:, :, -2:, :] = 0.5  # grey: no hue
    x[:, 0, :, -2:] = x[:, -1, :, -2:]  # two channels alike
    return (x * 255).round().to(torch.uint8)


def floats(*args, **kwargs):
    return images(*args, **kwargs).float() / 255


def plain(n, h, w):
    """Box, flip and angle that change nothing."""
    box = torch.tensor([0.0, 0.0, h, w]).repeat(n, 1)
    return box, torch.zeros(n, dtype=torch.bool), torch.zeros(n)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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


def test_a_flip_comes_after_the_turn():
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
    which = ("brightness", "contrast", "saturation").index(kind)
    factors = torch.ones(6, 3)
    factors[:, which] = strengths
    got = color_jitter(x, factors, torch.full((6, 1), which), None)
    for i, factor in enumerate(strengths.tolist()):
        wanted = getattr(tv, f"adjust_{kind}")(x[i : i + 1], factor)
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-6, rtol=0)


@both_apis
def test_hue_is_torchvisions_hsv_to_1e_5(tv):
    shifts = [-0.5, -0.37, -0.1, 0.0, 0.05, 0.1, 0.29, 0.5]
    x = floats(8)
    x[:, :, 5] = torch.randint(0, 2, (8, 3, 32), generator=seeded()).float()  # pure colours
    got = shift_hue(x, torch.tensor(shifts))
    for i, shift in enumerate(shifts):
        wanted = tv.adjust_hue(x[i : i + 1], shift)
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-5, rtol=0)


def test_a_third_of_a_turn_makes_red_green_and_leaves_grey_alone():
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.4, 0.4, 0.4]])
    turned = shift_hue(colours[:, :, None, None], torch.full((4,), 1 / 3))[:, :, 0, 0]
    torch.testing.assert_close(turned, colours[[1, 2, 0, 3]], atol=1e-6, rtol=0)


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
    torch.testing.assert_close(grey(x), tv.rgb_to_grayscale(x), atol=1e-6, rtol=0)


@both_apis
@pytest.mark.parametrize("c, side, kernel", [(3, 32, 3), (1, 48, 5), (3, 64, 7)])
def test_blur_is_torchvisions_to_1e_5_with_a_kernel_of_a_tenth(tv, c, side, kernel):
    x, sigmas = floats(4, c, side, side), [0.1, 0.6, 1.1, 2.0]
    got = blur(x, torch.tensor(sigmas))
    for i, sigma in enumerate(sigmas):
        wanted = tv.gaussian_blur(x[i : i + 1], [kernel, kernel], [sigma, sigma])
        torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-5, rtol=0)


def test_views_are_float32_to_the_last_bit_inside_autocast():
    x, strong = images(), replace(RECIPES["simclr"], blur=1.0)
    wanted = view(x, strong, NORMALIZE[3], generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        got = view(x, strong, NORMALIZE[3], generator=seeded())
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)


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
def test_each_image_stays_in_its_place_whatever_their_number(n):
    """Shuffled for the jitter, and put back: images of one brightness each keep their order."""
    x = torch.arange(n).mul(30).to(torch.uint8).view(n, 1, 1, 1).repeat(1, 3, 8, 8)
    seen = view(x, replace(NONE, flip=0.5, crop_min=0.3), Normalize(torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(seen, x.float() / 255, atol=1e-5, rtol=0)


def test_images_of_another_kind_are_refused():
    for wrong in (torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"uint8 \[N, C, H, W\]"):
            view(wrong, NONE, NORMALIZE[3])


# ----------------------------------------------------------------------------------- the random draw


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


@pytest.mark.parametrize("share", [None, (0, 21), (5, 40)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_both_views_made_in_one_go_are_those_made_one_after_the_other(name, channels, share):
    x, normalize = images(21)[:, :channels], NORMALIZE[channels]
    one, both = seeded(6), seeded(6)
    apart = [view(x, RECIPES[name], normalize, 24, one, share) for _ in range(2)]
    together = two_views(x, RECIPES[name], normalize, 24, both, share)
    for a, b in zip(apart, together, strict=True):
        assert torch.equal(a, b) and b.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(one.get_state(), both.get_state())


@pytest.mark.parametrize("share", [None, (0, 16), (16, 48)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_the_views_of_several_batches_at_once_are_each_batchs_own(name, channels, share):
    x, normalize = images(48)[:, :channels], NORMALIZE[channels]
    one, all_, how = seeded(6), seeded(6), (RECIPES[name], normalize, 24)
    apart = [two_views(batch, *how, one, share) for batch in x.split(16)]
    together = views_at_once(2, x.split(16), *how, all_, share)
    for each, those in zip(apart, together, strict=True):
        for a, b in zip(each, those, strict=True):
            assert torch.equal(a, b) and b.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(one.get_state(), all_.get_state())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*RECIPES, "simclr jitter=0", "simclr grey=0", "simclr hue=0"])
def test_every_number_that_is_drawn_is_used(monkeypatch, name, channels):
    made = []

    class Draw(module._Draw):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(module, "_Draw", Draw)
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
    draw = module._Draw(1, 8000, recipe, 3, CPU, seeded(8))
    ours = module._crops(draw, recipe, h, w)[0]
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
                         (0.5, {"blur": 0.5, "blur_sigma_min": 0.5})):  # fmt: skip
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
    strong = Augment(rotate=20, blur=0.5)
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


# ----------------------------------------------------------------------------------------- recipes


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
