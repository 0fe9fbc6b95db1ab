"""SIM compares channels and draws tokens in every layout, or says what it needs."""

import pytest
import torch
import torchvision
from sim_models import decorated, trained
from torch import nn
from torch.nn.utils import rnn

from simlab.sim import SIM, attach_sim, compute_loss_sim

torch.manual_seed(0)


def axes(model, layers, x, sample=None):
    """(samples, channels behind them, dims) of x and y of the first block, after a step."""
    attach_sim(model, layers, sample_input=sample)
    assert trained(model, x) > 0
    sim = next(module for module in model.modules() if isinstance(module, SIM))
    taken, given = sim.sim_axes.taken, sim.sim_axes.given
    return (taken.samples, taken.channels), (given.samples, given.channels), sim.sim_dims


def small_swin():
    return torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [2, 2], num_classes=4)


@pytest.mark.parametrize("with_sample", [True, False])
def test_swin_blocks_are_compared_by_channels_though_maps_are_as_high(with_sample):
    x = torch.randn(2, 3, 64, 64)  # maps of 16 x 16 positions and 16 channels
    model = small_swin()
    sample = x[:1] if with_sample else None
    assert axes(model, "features.1.*", x, sample) == ((0, 3), (0, 3), (16, 16))
    model(torch.randn(2, 3, 48, 48))  # another resolution
    assert compute_loss_sim(model) > 0


def test_the_loss_of_a_map_is_the_same_channels_last():
    """The block's own functions are the same, but around them axes are turned."""

    class Turned(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x):  # [N, H, W, C]
            return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    class Model(nn.Module):
        def __init__(self, turned):
            super().__init__()
            self.stem, self.turned = nn.Conv2d(3, 8, 1), turned
            self.block = Turned(nn.Conv2d(8, 8, 1)) if turned else nn.Conv2d(8, 8, 1)

        def forward(self, x):
            x = self.stem(x)
            return self.block(x.permute(0, 2, 3, 1) if self.turned else x)

    x, losses = torch.randn(2, 3, 8, 8), []  # 8 positions each way, 8 channels
    for turned in (False, True):
        for sample in (x, None):
            torch.manual_seed(0)
            model = Model(turned)
            attach_sim(model, "block", sample_input=sample)
            torch.manual_seed(1)
            model(x)
            losses.append(compute_loss_sim(model))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0])


@pytest.mark.parametrize("length", [8, 9])
def test_conv1d_has_its_channels_second(length):
    model = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1))
    assert axes(model, "1", torch.randn(4, 3, length)) == ((0, 1), (0, 1), (8, 8))


def test_conv3d_with_a_stride_is_paired_on_its_grid():
    model = nn.Sequential(nn.Conv3d(2, 6, 3, 2), nn.Conv3d(6, 6, 3, 2, 1))
    assert axes(model, "1", torch.randn(3, 2, 9, 9, 9))[2] == (6, 6)


class Block(nn.Module):
    """A residual block, as CLIP's with batch_first=False."""

    def __init__(self, batch_first):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        return x + self.mlp(x)


class Clip(nn.Module):
    def __init__(self, batch_first=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(Block(batch_first), Block(batch_first))
        self.batch_first = batch_first

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)  # [N, 9, D]
        return self.blocks(x if self.batch_first else x.transpose(0, 1))


@pytest.mark.parametrize("n", [9, 8])
@pytest.mark.parametrize("with_sample", [True, False])
def test_blocks_in_t_n_d_draw_tokens_not_samples(n, with_sample):
    x = torch.randn(n, 3, 12, 12)
    sample = x[:1] if with_sample else None
    assert axes(Clip(), "blocks.*", x, sample) == ((1, 2), (1, 2), (8, 8))
    assert axes(Clip(batch_first=True), "blocks.*", x, sample) == ((0, 2), (0, 2), (8, 8))
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False
    )
    x = torch.randn(9, n, 8)
    sample = x if with_sample else None
    assert axes(encoder, "layers.*", x, sample) == ((1, 2), (1, 2), (8, 8))


def test_a_part_of_such_a_model_needs_a_sample():
    model, x = Clip(), torch.randn(9, 3, 12, 12)
    attach_sim(model, "blocks.0.mlp")
    with pytest.raises(ValueError, match=r"\[T, N, D\].*sample_input="):
        model(x)
    assert axes(Clip(), "blocks.0.mlp", x, x[:1]) == ((1, 2), (1, 2), (8, 8))
    assert axes(Clip(), "conv", x) == ((0, 1), (0, 1), (3, 8))  # which is no sequence


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_recurrent_layers_draw_steps_not_samples(kind, batch_first):
    x = torch.randn(5, 5, 8)
    samples = 0 if batch_first else 1
    positions = axes(nn.Sequential(kind(8, 8, batch_first=batch_first), First()), "0", x, x)
    assert positions == ((samples, 2), (samples, 2), (8, 8))


class First(nn.Module):
    def forward(self, output):
        return output[0]


def test_a_packed_sequence_is_refused():
    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(8, 8, num_layers=4, batch_first=True)

        def forward(self, x):
            lengths = torch.full((len(x),), x.shape[1])
            return self.rnn(rnn.pack_padded_sequence(x, lengths, batch_first=True))[1]

    with pytest.raises(ValueError, match="what 'rnn' takes is a packed sequence$"):
        attach_sim(Packs(), "rnn", sample_input=torch.randn(4, 5, 8))


def test_looking_at_a_block_changes_no_random_number_and_no_statistic():
    block = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5))
    torch.manual_seed(0)
    wrapped = decorated(lambda: block, 6)
    x = torch.randn(4, 6, 8, 8)
    outputs = []
    for _ in range(2):  # the first pass looks, the second doesn't
        torch.manual_seed(1)
        outputs.append(wrapped(x))
    assert torch.equal(outputs[0], outputs[1])
    assert block[1].num_batches_tracked == 2


def test_the_weights_get_their_gradient_under_autocast_after_the_look():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1))
    attach_sim(model, "1")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(2):
            output = model(torch.randn(2, 3, 8, 8))
        (output.float().mean() + compute_loss_sim(model)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_a_glob_is_found_inside_a_wrapper(wrap):
    wrapped = wrap(torchvision.models.resnet18())
    assert attach_sim(wrapped, "layer1.*") == ["layer1.0", "layer1.1"]


def test_torchscript_is_refused_by_name():
    with pytest.raises(ValueError, match="'0' is TorchScript"):
        attach_sim(torch.jit.script(nn.Sequential(nn.Linear(4, 4))), "0")


def test_channels_that_cannot_be_known_are_refused_where_lengths_do_not_tell():
    class Opaque(nn.Module):
        def forward(self, x):
            return x + torch.as_tensor(x.detach().numpy() * 2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.block = nn.Conv2d(3, 8, 1), Opaque()
            self.block.in_channels = self.block.out_channels = 8

        def forward(self, x):
            return self.block(self.conv(x))

    model = Model()
    attach_sim(model, "block")
    with pytest.raises(ValueError, match=r"which axis of \[2, 8, 8, 8\].*sample_input"):
        model(torch.randn(2, 3, 8, 8))
    model(torch.randn(2, 3, 6, 6))  # here it can be one alone
    assert compute_loss_sim(model) > 0
