"""Where samples and channels lie in a layer's output: seen in every layout, or refused."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import rnn

from simlab.layers import axes_of, named_layers
from simlab.similarity import compare, preview

torch.manual_seed(0)


def axes(model, x, names=None, **options):
    """{layer: (axis of samples, axis of channels behind the samples, their number)}."""
    modules = named_layers(model)
    chosen = {name: modules[name] for name in names or modules}
    layouts = axes_of(model, chosen, x, **options)
    return {name: (a.given.samples, a.given.channels, a.given.width) for name, a in layouts.items()}


def size_of(model, x, layer, **options):
    """The number of features of a layer after pooling, and its row."""
    result = compare(model, x, layer, **{"pool": "mean"} | options)
    assert result.reasons == {}
    return result.layers[0].size, result


class Permute(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(self.order)


# ------------------------------------------------------------------------------ real architectures


def test_swin_is_channels_last_inside_and_channels_first_before_its_pooling():
    swin = torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [2, 2], num_classes=4)
    layouts = axes(swin, torch.randn(1, 3, 64, 64))  # maps of 16 x 16: as many rows as channels
    blocks = ["features.0", "features.1", "features.1.0.attn", "features.1.0.mlp.0", "norm"]
    assert [layouts[name][:2] for name in blocks] == [(0, 3)] * 5
    assert layouts["features.1"] == (0, 3, 16) and layouts["features.3"] == (0, 3, 32)
    assert layouts["permute"] == (0, 1, 32) and layouts["features.0.0"] == (0, 1, 16)
    size, result = size_of(swin, torch.randn(8, 3, 64, 64), "features.1")
    assert size == 16 and result.layers[0].shape == (16, 16, 16)


def test_convnext_blocks_are_channels_last_inside_alone_though_all_axes_are_as_long():
    convnext = torchvision.models.ConvNeXt(
        [torchvision.models.convnext.CNBlockConfig(16, None, 2)], num_classes=4
    )
    layouts = axes(convnext, torch.randn(2, 3, 64, 64))
    channels = [layouts[f"features.1.0.block.{i}"][1] for i in range(7)]
    assert channels == [1, 3, 3, 3, 3, 3, 1]
    assert layouts["features.1.0"] == layouts["features.0"] == layouts["avgpool"] == (0, 1, 16)


def test_resnet_and_vit_lie_as_everybody_knows():
    resnet = torchvision.models.resnet18(num_classes=3)
    layouts = axes(resnet, torch.randn(2, 3, 32, 32))
    assert {layouts[name][:2] for name in layouts} == {(0, 1)}
    assert layouts["layer3.1.relu#2"] == (0, 1, 256)  # an activation follows what feeds it
    vit = torchvision.models.VisionTransformer(16, 4, 1, 2, 18, 36, num_classes=3)  # 17 tokens
    layouts = axes(vit, torch.randn(17, 3, 16, 16))
    inside = [name for name in layouts if name.startswith("encoder")]
    assert {layouts[name][:2] for name in inside} == {(0, 2)}


def test_timms_swin_and_vit():
    timm = pytest.importorskip("timm")
    swin = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False).eval()
    layouts = axes(swin, torch.randn(2, 3, 224, 224), [f"layers.{i}" for i in range(4)])
    assert [layouts[f"layers.{i}"] for i in range(4)] == [(0, 3, 96 * 2**i) for i in range(4)]
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    layouts = axes(vit, torch.randn(2, 3, 224, 224), ["blocks.0", "patch_embed"])
    assert set(layouts.values()) == {(0, 2, 192)}


class Clip(nn.Module):
    """As in CLIP: a convolution, a class token, blocks in [T, N, D], a projection."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(16))
        self.norm = nn.LayerNorm(16)
        self.blocks = nn.Sequential(*[nn.TransformerEncoderLayer(16, 2, 32) for _ in range(2)])
        self.project = nn.Parameter(torch.randn(16, 8))

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)  # [N, 16, D]
        x = torch.cat([self.token.expand(len(x), 1, -1), x], 1)  # [N, 17, D]
        x = self.norm(x).permute(1, 0, 2)  # [17, N, D]
        return self.blocks(x).permute(1, 0, 2)[:, 0] @ self.project


@pytest.mark.parametrize("n", [17, 16, 18])
@pytest.mark.parametrize("pool", ["flatten", "mean", "cls"])
def test_blocks_in_t_n_d_are_right_with_as_many_samples_as_tokens(n, pool):
    clip = Clip().eval()
    layers = ["blocks.0.linear1", "blocks.0.self_attn", "blocks.1"]
    x = torch.randn(n, 3, 16, 16)

    def turn(name, output):
        return (output[0] if isinstance(output, tuple) else output).transpose(0, 1)

    seen = compare(clip, x, layers, pool=pool)
    expected = compare(clip, x, layers, pool=pool, pick=turn)
    sizes = {"flatten": [17 * 16, 17 * 32, 17 * 16], "mean": [16, 32, 16], "cls": [16, 32, 16]}
    assert [layer.size for layer in seen.layers] == sizes[pool] and seen.reasons == {}
    assert np.allclose(seen.matrix, expected.matrix, atol=1e-6)


# ---------------------------------------------------------------------------------- single layers


@pytest.mark.parametrize("length", [8, 9])
def test_conv1d_and_what_follows_it_have_their_channels_second(length):
    conv = nn.Conv1d(3, 8, 3, padding=1)
    net = nn.Sequential(conv, nn.BatchNorm1d(8), nn.GELU(), nn.MaxPool1d(1))
    layouts = axes(net, torch.randn(8, 3, length))
    assert set(layouts.values()) == {(0, 1, 8)}
    size, _ = size_of(net, torch.randn(8, 3, length), "1")
    assert size == 8


def test_conv3d_is_pooled_over_all_its_positions():
    size, result = size_of(nn.Conv3d(2, 5, 2), torch.randn(6, 2, 6, 6, 6), "")
    assert size == 5 and result.layers[0].shape == (5, 5, 5, 5)


class Recurrent(nn.Module):
    def __init__(self, layer, packed=False):
        super().__init__()
        self.layer, self.packed = layer, packed

    def forward(self, x):  # [N, T, D]
        if not self.layer.batch_first:
            x = x.transpose(0, 1)
        if self.packed:
            x = rnn.pack_padded_sequence(x, torch.full((len(x),), x.shape[1]), batch_first=True)
        return self.layer(x)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("length", [6, 5])
def test_recurrent_layers_are_right_with_as_many_samples_as_steps(kind, batch_first, length):
    net = Recurrent(kind(4, 6, num_layers=6, batch_first=batch_first))
    assert axes(net, torch.randn(6, length, 4))["layer"] == (0 if batch_first else 1, 2, 6)
    size, result = size_of(net, torch.randn(6, length, 4), "layer")
    assert size == 6 and result.layers[0].shape == (length, 6)


def test_a_packed_sequence_is_refused_though_it_has_as_many_layers_as_samples():
    net = Recurrent(nn.LSTM(4, 5, num_layers=6, batch_first=True), packed=True)
    x = torch.randn(6, 7, 4)
    with pytest.raises(ValueError, match="'layer': its output is a packed sequence.*pick="):
        compare(net, x, "layer")

    def unpack(name, output):
        return rnn.pad_packed_sequence(output[0], batch_first=True)[0]

    assert size_of(net, x, "layer", pick=unpack)[0] == 5


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_right_with_as_many_samples_as_tokens(batch_first):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

        def forward(self, x):
            x = x if batch_first else x.transpose(0, 1)
            return self.attention(x, x, x)

    assert axes(Attends(), torch.randn(5, 5, 8))["attention"] == (0 if batch_first else 1, 2, 8)


@pytest.mark.parametrize("size", [12, 20])
def test_the_axes_hold_at_several_resolutions(size):
    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), Permute(0, 2, 3, 1), nn.LayerNorm(12))
    for batches in ([torch.randn(8, 3, size, size)] * 2, torch.randn(8, 3, size, size)):
        result = compare(net, batches, ["0", "1", "2"], pool="mean")
        assert [layer.size for layer in result.layers] == [12, 12, 12]


# --------------------------------------------------------------- functions that move axes, or not


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "function, channels",
    [
        (lambda x: x.relu() + 1, 1),
        (lambda x: x.permute(0, 2, 3, 1), 3),
        (lambda x: x.transpose(1, 3).contiguous() * 2, 3),
        (lambda x: x.flatten(2), 1),
        (lambda x: x.flatten(2).mT, 2),
        (lambda x: torch.cat([x, x], 1)[:, 2:], 1),
        (lambda x: x.movedim(1, -1).view(len(x), 4, 2, 4, 2, 8).transpose(2, 3).flatten(1, 2), 4),
        (lambda x: torch.einsum("nchw->nwhc", x), 3),
        (lambda x: x.mean(3), 1),
        (lambda x: torch.stack([x, x], 2), 1),
        (lambda x: x.chunk(2, 1)[1], 1),
        (lambda x: nn.functional.pixel_shuffle(x, 2), 1),
        (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), 1),
        (lambda x: x.flatten(2).softmax(-1) @ torch.ones(64, 64), None),
        (lambda x: x.unflatten(1, (2, 4)), None),  # heads, and channels of each
        (lambda x: x.view(-1, 2, 4, 8, 8).mT.mT.transpose(1, 2).contiguous().view(x.shape), 1),
        (lambda x: x + x.transpose(1, 2), None),  # contradictory
        (lambda x: x.clone().transpose_(1, 3), None),
    ],
)
def test_channels_are_followed_though_all_axes_are_as_long_or_not_known(function, channels):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Lambda(function))
    assert axes(net, torch.randn(2, 3, 8, 8))["1"][1] == channels


@pytest.mark.parametrize(
    "before, layer, channels",
    [
        (lambda x: x, nn.Conv2d(8, 8, 1), 1),
        (lambda x: x.relu(), nn.Conv2d(8, 8, 1), 1),
        (lambda x: x.permute(0, 3, 1, 2).relu(), nn.Conv2d(8, 8, 1), 3),
        (lambda x: x.permute(0, 2, 3, 1), nn.Linear(8, 8), 1),
        (lambda x: nn.functional.interpolate(x, scale_factor=2), nn.Conv2d(8, 8, 1), 1),
        (lambda x: x.chunk(2, 3)[1].transpose(1, 3), nn.Conv2d(4, 8, 1), 3),
        (lambda x: x.flatten(2).transpose(1, 2), nn.LayerNorm(8), 1),
        (lambda x: x.flatten(1), nn.Linear(512, 8), None),
    ],
)
def test_what_a_layer_reads_tells_where_the_channels_of_the_input_lie(before, layer, channels):
    net = nn.Sequential(Lambda(before), layer)
    layouts = axes_of(net, {"": net}, torch.randn(2, 8, 8, 8))
    assert layouts[""].taken.channels == channels


def through_numpy(x):
    """Where nothing can be followed."""
    return torch.as_tensor(2 * x.numpy())


def test_what_cannot_be_known_is_refused_with_the_layer_and_what_to_pass():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Lambda(through_numpy), Permute(0, 2, 3, 1))
    x = torch.randn(8, 3, 10, 10)
    result = compare(net, x, ["0", "1"], pool="mean")
    assert np.isfinite(result.matrix[0, 0]) and np.isnan(result.matrix[1]).all()
    assert 'pool="mean_last" or "mean_first"' in result.reasons["Sequential/1"]
    assert "1 without values" in repr(result)
    with pytest.raises(ValueError, match=r"'1': pool='mean'.*\[n, 4, 8, 8\].*is not known"):
        compare(net, x, "1", pool="mean")
    with pytest.raises(ValueError, match="'1': pool='cls'.*lambda"):
        compare(
            nn.Sequential(nn.Conv1d(3, 4, 3), Lambda(through_numpy)), x[..., 0], "1", pool="cls"
        )
    first, _ = size_of(net, x, "1", pool="mean_first")
    last, _ = size_of(net, x, "2", pool="mean_last")
    assert first == last == 4 and np.isfinite(compare(net, x, "1").matrix).all()


def test_the_first_token_of_a_sequence_with_its_channels_second_is_refused():
    with pytest.raises(ValueError, match='"cls" takes the first token'):
        compare(nn.Conv1d(3, 8, 3), torch.randn(8, 3, 10), pool="cls")


def test_a_module_that_says_its_layout_is_believed():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Lambda(through_numpy))
    net[1].output_fmt = "NHWC"
    assert axes(net, torch.randn(2, 3, 8, 8))["1"][1] == 3


def test_outputs_that_cannot_be_read_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 4)
            self.sparse = Lambda(lambda x: x.to_sparse())
            self.square = Lambda(lambda x: x @ x.T)
            self.fourier = Lambda(torch.fft.fft)

        def forward(self, x):
            self.sparse(x)
            self.fourier(x)
            self.square(x)
            return self.linear(x)

    result = compare(Odd(), torch.randn(8, 6), ["linear", "sparse", "square", "fourier"])
    assert "is a sparse tensor" in result.reasons["Odd/sparse"]
    assert "2 axes of the length of the batch" in result.reasons["Odd/square"]
    assert "(of 3 it is [3, 6] of torch.complex64)" in result.reasons["Odd/fourier"]
    assert "Odd/linear" not in result.reasons


# ------------------------------------------------------------------------------ no trace, and cost


def test_looking_leaves_no_trace_and_costs_five_samples():
    net = nn.Sequential(nn.Linear(4, 4), Lambda(lambda x: x + torch.rand(1)), nn.Dropout())
    seen, x = [], torch.randn(9, 4)
    handle = net.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    before = torch.get_rng_state()
    axes(net, x)
    assert torch.equal(torch.get_rng_state(), before) and net.training
    assert seen == [2, 3]
    handle.remove()
    edits = nn.Sequential(Lambda(lambda x: x.add_(1)), nn.Linear(4, 2))
    original = x.clone()
    axes(edits, x)
    assert torch.equal(x, original)
    assert not any(module._forward_hooks for module in edits.modules())


def test_a_model_that_takes_one_batch_size_alone_is_read_by_its_lengths():
    fixed = nn.Sequential(nn.Conv1d(3, 4, 1), Lambda(lambda x: x.view(7, 4, 5)))
    result = compare(fixed, torch.randn(7, 3, 5), ["0", "1"], pool="mean")
    assert [layer.size for layer in result.layers] == [4, 4]
    square = nn.Sequential(nn.Conv1d(3, 4, 1), Lambda(lambda x: x.view(7, 4, 7)))
    with pytest.raises(ValueError, match="axes of the length of the batch"):
        compare(square, torch.randn(7, 3, 7), "1")


def test_the_preview_counts_the_channels():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Permute(0, 2, 3, 1), Lambda(through_numpy))
    table = preview(net, torch.randn(1, 3, 6, 6), ["0", "1", "2"])
    assert table["channels"].tolist()[:2] == [8, 8] and np.isnan(table["channels"][2])
