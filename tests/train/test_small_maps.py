"""In bfloat16 on a CPU a convolution has the gradient of its float32 twin, however small the map."""

import itertools

import pytest
import torch
from torch import nn

from simlab.compute.small_maps import has_idle_weights, in_float32
from simlab.config import PretrainConfig
from simlab.data import from_arrays
from simlab.train import pretrain

CPU = torch.device("cpu")
GEOMETRIES = [
    {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    for kernel, stride, padding, dilation in itertools.product(
        (1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2)
    )
] + [
    {"kernel_size": kernel, "padding": padding, "dilation": 2}
    for kernel, padding in itertools.product((2, 3, 4), ("same", "valid"))
]


def gradient_of(convolution, x):
    """The weight's gradient of the output's sum, or None where the map is too small."""
    convolution.weight.grad = None
    try:
        out = convolution(x)
    except RuntimeError:
        return None
    out.float().sum().backward()
    return convolution.weight.grad


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_weights_are_idle_where_a_gradient_of_positive_numbers_is_zero(geometry):
    for shape in itertools.product(range(1, 7), repeat=2):
        convolution = nn.Conv2d(1, 1, **geometry, bias=False)
        x = torch.rand(1, 1, *shape) + 1
        gradient = gradient_of(convolution, x)
        if gradient is not None:
            assert has_idle_weights(convolution, x) == bool((gradient == 0).any()), shape


def test_padding_with_the_maps_own_values_leaves_no_weight_idle():
    convolution = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate")
    assert not has_idle_weights(convolution, torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_gradient_in_bfloat16_is_nearly_that_in_float32(side, kernel, stride):
    convolution = nn.Conv2d(16, 48, kernel, stride, kernel // 2, bias=False)
    convolution.to(memory_format=torch.channels_last)
    for _ in range(5):
        x = torch.randn(24, 16, side, side).to(memory_format=torch.channels_last)
        expected = gradient_of(convolution, x)
        torch.full((200_000,), 1e30)  # what memory may hold that is given away again
        with in_float32(convolution, CPU), torch.autocast("cpu", torch.bfloat16):
            assert convolution(x).dtype == torch.bfloat16
            gradient = gradient_of(convolution, x)
        assert (gradient - expected).abs().max() < 0.03 * expected.abs().max()


def test_nothing_of_it_stays():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1))
    x = torch.ones(1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        with in_float32(network, CPU):
            assert [len(layer._forward_pre_hooks) for layer in network] == [1, 0]
            with pytest.raises(RuntimeError, match="expected input"):
                network(torch.ones(1, 2, 1, 1))
            assert torch.is_autocast_enabled("cpu") and network(x).dtype == torch.bfloat16
            with torch.autocast("cpu", enabled=False):
                assert network(x).dtype == torch.float32
        assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in network)
        with in_float32(network, torch.device("meta")):
            assert not network[0]._forward_pre_hooks


@pytest.mark.parametrize("compiled", [False, True])
def test_training_on_small_crops_in_bfloat16_has_the_losses_of_float32(compiled, tmp_path):
    """Crops of 4 x 4 come to maps of 1 x 1 before the last convolution, whose stride is 2."""

    def losses(precision):
        config = PretrainConfig(
            method="swav hidden_dim=16 proj_dim=8 prototypes=12 local_views=1", view_size=8,
            epochs=1, batch_size=24, lr=0.05, precision=precision, device="cpu", threads=1,
        )  # fmt: skip
        torch.manual_seed(0)
        block = nn.Conv2d(3, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.ReLU()
        last = nn.Conv2d(16, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.AdaptiveAvgPool2d(1)
        encoder = nn.Sequential(*block, *last, nn.Flatten())
        if compiled:
            encoder = torch.compile(encoder, backend="eager")
        run = pretrain(config, data, encoder=encoder, folder=str(tmp_path), progress=False)
        return run.history["loss"].tolist()

    images = torch.randint(0, 256, (56, 3, 8, 8), dtype=torch.uint8)
    data = from_arrays(images[:48], None, images[48:])
    assert losses("bfloat16") == pytest.approx(losses("float32"), rel=0.02)
