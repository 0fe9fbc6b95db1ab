"""Encoders: which one is built, its stem, its features, and modules of the user's."""

import copy

import pytest
import torch
import torch.nn as nn
import torchvision

from simlab.models import ENCODERS, TinyResNet, build_encoder
from simlab.models.encoders import RESNETS, TINY_WIDTHS, ResidualBlock


def on_paper(really=False):
    """Shapes without numbers, which take no time; `really` computes after all."""
    return torch.device("cpu" if really else "meta")


DIMS = {
    "vit_tiny": 96,
    "tiny": 128,
    "small": 128,
    "medium": 256,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_maps_images_to_as_many_features_as_it_says(name, channels):
    with on_paper(name not in ("resnet34", "resnet50")):
        encoder, dim = build_encoder(name, channels, 16)
        assert dim == DIMS[name]
        features = encoder.eval()(torch.randn(2, channels, 16, 16))
    assert features.shape == (2, dim)
    assert features.is_meta or bool(features.isfinite().all())


@pytest.mark.parametrize(
    "size, name", [(28, "tiny"), (40, "tiny"), (41, "resnet18"), (96, "resnet18")]
)
def test_auto_chooses_by_the_images_size(size, name):
    with on_paper():
        auto, dim = build_encoder("auto", 3, size)
    assert dim == DIMS[name]
    assert type(auto) is (TinyResNet if name == "tiny" else torchvision.models.ResNet)


@pytest.mark.parametrize(
    "size, stem, kernel, stride, pools",
    [
        (32, "auto", 3, 1, False), (64, "auto", 3, 1, False), (65, "auto", 7, 2, True),
        (32, "large", 7, 2, True), (224, "small", 3, 1, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_keep_their_resolution_in_the_stem(
    size, stem, kernel, stride, pools, channels
):
    with on_paper():
        encoder, _ = build_encoder("resnet18", channels, size, stem)
    conv = encoder.conv1
    assert (conv.kernel_size, conv.stride) == ((kernel,) * 2, (stride,) * 2)
    assert conv.in_channels == channels and conv.bias is None
    assert isinstance(encoder.maxpool, nn.MaxPool2d) == pools
    seen = []
    encoder.layer1.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-1]))
    encoder.eval()(torch.zeros(1, channels, 32, 32, device="meta"))
    assert seen == [8 if pools else 32]


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_are_torchvisions_but_for_stem_and_head(name):
    """The same layers with the same shapes, so that published weights fit."""
    with on_paper():
        ours = build_encoder(name, 3, 224)[0].state_dict()
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
        small = build_encoder(name, 3, 32)[0].state_dict()
    head = {"fc.weight", "fc.bias"}
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in theirs.items() if k not in head
    }
    assert {k for k in small if small[k].shape != theirs[k].shape} == {"conv1.weight"}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_branches_start_at_zero_so_that_a_block_passes_its_input_on(name):
    encoder, _ = build_encoder(name, 3, 32)
    last = "bn3" if name == "resnet50" else "bn2"
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        for block in stage:
            assert not getattr(block, last).weight.any()
    x = torch.rand(2, encoder.layer1[-1].bn2.num_features * (4 if name == "resnet50" else 1), 4, 4)
    torch.testing.assert_close(encoder.layer1[-1].eval()(x), x)


def test_the_new_stem_starts_like_the_other_convolutions():
    """Kaiming, fan-out: std = sqrt(2 / (64 * 3 * 3))."""
    weight = build_encoder("resnet18", 3, 32)[0].conv1.weight
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.08)


def test_the_tiny_encoder_is_small_and_halves_the_image_at_each_stage():
    encoder, _ = build_encoder("tiny", 1, 32)
    assert sum(p.numel() for p in encoder.parameters()) < 300_000
    sizes = []
    for module in (encoder.stem, *encoder.blocks):
        module.register_forward_hook(lambda m, args, out: sizes.append(tuple(out.shape[1:])))
    encoder(torch.zeros(2, 1, 32, 32))
    a, b, c = TINY_WIDTHS["tiny"]
    assert sizes == [(a, 16, 16), (a, 16, 16), (b, 8, 8), (c, 4, 4)]


def test_the_tiny_encoders_features_are_standardised():
    x = torch.randn(64, 1, 16, 16)
    features = build_encoder("tiny", 1, 16)[0].train()(x).detach()
    torch.testing.assert_close(features.mean(0), torch.zeros(128), atol=1e-4, rtol=0)
    std = features.std(0, correction=0)
    assert float(std.median()) == pytest.approx(1, abs=0.05)


def test_a_residual_block_adds_its_input_to_its_branch():
    block = ResidualBlock(4, 4).eval()
    x = torch.randn(2, 4, 6, 6)
    nn.init.zeros_(block.bn2.weight)
    torch.testing.assert_close(block(x), x.relu())
    assert ResidualBlock(4, 8, 2)(x).shape == (2, 8, 3, 3)


# ------------------------------------------------------------------------------ the user's own


def conv_net(*layers):
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), *layers)


def test_a_module_of_the_users_is_taken_as_it_is():
    module = conv_net(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    before = copy.deepcopy(module.state_dict())
    assert build_encoder(module, 3, 12) == (module, 20)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_every_part_of_a_module_keeps_its_mode():
    """A frozen BatchNorm inside a module in training mode stays frozen."""
    module = conv_net(nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    module[1].eval()
    build_encoder(module, 3, 12)
    assert module.training and module[0].training and not module[1].training


@pytest.mark.parametrize(
    "module, message",
    [
        (
            conv_net(),
            r"gives \(1, 5, 10, 10\) for one image \[1, 3, 12, 12\]: expected a tensor \[1, D\]",
        ),
        (conv_net(nn.Flatten(0)), r"gives \(500,\)"),
        (nn.Conv2d(1, 5, 3), r"does not take an image \[1, 3, 12, 12\]"),
        (nn.LSTM(12, 4), "does not take an image|gives tuple"),
    ],
)
def test_a_module_that_gives_no_vectors_is_refused_in_its_own_mode(module, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(module, 3, 12)
    assert module.training


@pytest.mark.parametrize(
    "name, message",
    [
        ("resnet-18", "did you mean 'resnet18'"),
        ("tinny", "did you mean 'tiny'"),
        ("vit", "known: "),
    ],
)
def test_an_unknown_encoder_gets_the_nearest_right_name(name, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, 3, 32)


def test_an_unknown_stem_is_refused():
    with pytest.raises(ValueError, match="stem='medium': expected 'auto', 'small' or 'large'"):
        build_encoder("resnet18", 3, 32, "medium")
