"""Stitching: a network fits itself, a trained first half is worth something, parents stay as they are."""

import copy

import pytest
import torch
from torch import nn

from simlab.data import Dataset, Images
from simlab.evaluate import StitchedNetwork, stitch

pytestmark = pytest.mark.long

CLASSES = tuple("abcd")


def stripes(n, seed):
    """Images of four textures: stripes one way or the other, wide or narrow, at random offsets."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    at = torch.arange(12)
    offsets = torch.randint(6, (n,), generator=draw)
    images = torch.empty(n, 1, 12, 12)
    for i, (label, offset) in enumerate(zip(labels.tolist(), offsets.tolist(), strict=True)):
        wave = ((at + offset) % (2 + 4 * (label // 2)) < 1 + 2 * (label // 2)).float()
        rows = wave[:, None].expand(12, 12)
        images[i, 0] = rows if label % 2 else rows.T
    noise = 60 * torch.randn(images.shape, generator=draw)
    return Images((images * 120 + 60 + noise).clamp(0, 255).byte(), labels, CLASSES)


def classifier(seed, width):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, 8, 3, padding=1), nn.ReLU(inplace=True)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


@pytest.fixture(scope="module")
def data():
    return Dataset("stripes", stripes(400, 0), stripes(200, 1))


@pytest.fixture(scope="module")
def parents(data):
    trained = []
    for seed, width in ((0, 6), (1, 10)):
        network = classifier(seed, width)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(12):
            order = torch.randperm(400, generator=generator)
            for index, images in data.train.batches(order, 50):
                logits = network(data.normalize(images))
                loss = nn.functional.cross_entropy(logits, data.train.labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        trained.append(network.eval())
    return trained


def test_a_network_stitched_to_itself_is_itself_before_any_training(data, parents):
    network = copy.deepcopy(parents[0])
    images = data.normalize(data.test.images)
    for layer in ("0", "1", "1.0"):
        stitched = StitchedNetwork(network, layer, network, layer, images)
        with torch.no_grad():
            logits = network(images)
            assert stitched(images) == pytest.approx(logits, abs=0.1 * float(logits.std()))


def test_two_trained_networks_fit_and_an_untrained_first_half_is_worse(data, parents):
    before = [copy.deepcopy(parent.state_dict()) for parent in parents]
    result = stitch(*parents, data, "1", epochs=2, batch_size=50)
    assert min(result.front, result.back) > 0.85
    assert result.accuracy > result.untrained + 0.1
    assert result.penalty < 0.15
    assert result.layers == ("1", "1") and "network" not in repr(result)
    for parent, state in zip(parents, before, strict=True):  # neither weights nor modes nor hooks
        assert all(torch.equal(value, state[name]) for name, value in parent.state_dict().items())
        assert all(parameter.requires_grad for parameter in parent.parameters())
        assert not any(module._forward_hooks for module in parent.modules())
    again = stitch(*parents, data, "1", epochs=2, batch_size=50)
    assert again == result  # the same seed, the same numbers


def test_only_the_stitching_layer_is_trained(data, parents):
    network = stitch(*parents, data, ("0", "0"), epochs=1).network
    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trainable == ["stitch.weight", "stitch.bias"]
    assert network.stitch.weight.shape == (10, 6, 1, 1)


def test_tokens_and_vectors_are_stitched_by_a_linear_layer():
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(144, 5), nn.Flatten(), nn.Linear(5, 4))
    wide = nn.Sequential(nn.Flatten(2), nn.Linear(144, 7), nn.Flatten(), nn.Linear(7, 4))
    images = torch.randn(20, 1, 12, 12)
    stitched = StitchedNetwork(tokens, "1", wide, "1", images)
    assert isinstance(stitched.stitch, nn.Linear) and stitched(images).shape == (20, 4)
    assert stitched.stitch.weight.shape == (7, 5)


class ChannelsLast(nn.Module):
    """A block that gives maps as [N, H, W, C], as Swin's do, and one that takes them so."""

    def __init__(self, width):
        super().__init__()
        self.embed = nn.Conv2d(1, width, 3, stride=3)
        self.block = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.block(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2)))


class OneAxis(nn.Module):
    """Convolutions of rows: [N, C, L]."""

    def __init__(self, width):
        super().__init__()
        self.block = nn.Conv1d(12, width, 3, padding=1)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.block(x[:, 0]).mean(2))


@pytest.mark.parametrize(
    "network, expected", [(ChannelsLast, (7, 4)), (OneAxis, (7, 4, 1))], ids=["Swin", "Conv1d"]
)
def test_channels_are_mapped_wherever_they_lie(network, expected):
    """As many positions as channels in the first one: lengths alone would not tell."""
    images = torch.randn(30, 1, 12, 12)
    front, back = network(4), network(7)
    stitched = StitchedNetwork(front, "block", back, "block", images)
    assert stitched.stitch.weight.shape == expected
    assert stitched(images).shape == (30, 4)
    itself = StitchedNetwork(front, "block", front, "block", images)
    with torch.no_grad():
        assert itself(images) == pytest.approx(front(images), abs=0.01)


def test_layouts_that_do_not_agree_or_are_not_known_are_refused():
    images = torch.randn(30, 1, 12, 12)
    conv = nn.Sequential(nn.Conv2d(1, 4, 3, stride=3), nn.Flatten(), nn.LazyLinear(4))
    conv(images)
    with pytest.raises(ValueError, match=r"'block' gives \[4, 4, 4\] .* axis 3, '0' .* axis 1"):
        StitchedNetwork(ChannelsLast(4), "block", conv, "0", images)
    time_first = nn.Sequential(nn.Flatten(1, 2), Transposed(), nn.Linear(12, 4), Transposed())
    with pytest.raises(ValueError, match="'2' has its samples on axis 1: stitch behind another"):
        StitchedNetwork(time_first, "2", time_first, "2", images)
    recurrent = nn.Sequential(nn.Flatten(1, 2), nn.LSTM(12, 4, batch_first=True))
    with pytest.raises(ValueError, match="must give a tensor, not a tuple"):
        StitchedNetwork(recurrent, "1", recurrent, "1", images)


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(0, 1)


def test_what_cannot_be_stitched_is_refused(data, parents):
    images = torch.randn(4, 1, 12, 12)
    with pytest.raises(ValueError, match=r"'0' gives \[6, 12, 12\] .* '2' \[4\]"):
        StitchedNetwork(parents[0], "0", parents[1], "2", images)
    with pytest.raises(ValueError, match="'?.0' is 2 layers|is 3 layers"):
        StitchedNetwork(parents[0], "?.0", parents[1], "1", images)
    with pytest.raises(ValueError, match="'9' matches nothing"):
        StitchedNetwork(parents[0], "9", parents[1], "1", images)
    with pytest.raises(ValueError, match="epochs=0"):
        stitch(*parents, data, "1", epochs=0)
    unlabelled = Images(data.train.images, data.train.labels - 1, CLASSES)
    with pytest.raises(ValueError, match="no label"):
        stitch(*parents, Dataset("x", unlabelled, data.test), "1")
