"""SIM works where the published code fails: strides, small maps, other layouts."""

import copy
import itertools
import math
import warnings

import pytest
import torch
import torchvision
from sim_models import (
    VERSIONS,
    decorated,
    trained,
)
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vision_transformer import EncoderBlock

from simlab.sim import (
    LOSS_TYPES,
    LossSimTracker,
    attach_sim,
    compute_loss_sim,
    forward_with_sim_cache,
    init_proj,
)
from simlab.sim.sampling import draw_positions


@pytest.mark.long
@pytest.mark.parametrize(
    "name, block, count, size",
    [
        ("resnet18", BasicBlock, 8, 224),
        ("resnet18", BasicBlock, 8, 32),
        ("resnet50", Bottleneck, 16, 224),
        ("convnext_tiny", CNBlock, 18, 224),
        ("vit_b_16", EncoderBlock, 12, 224),
    ],
)
def test_torchvision_networks_train_a_finite_step_with_sim_on_all_their_blocks(
    name, block, count, size
):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)()
    x = torch.randn(2, 3, size, size)
    assert len(attach_sim(model, block)) == count
    loss = trained(model, x)
    assert 0 < loss.item() < math.inf
    values = LossSimTracker(model).report().values()
    assert len(values) == count and all(v > 0 for v in values)


def predict_nothing(block):
    """Make the predictor the identity, so that both sides are projected alike."""
    nn.init.eye_(block.predictor[0].weight)
    nn.init.zeros_(block.predictor[0].bias)


def test_x_is_averaged_onto_a_coarser_grid_before_positions_are_paired():
    # y is x's 2 x 2 mean, so with x resampled both sides are the same tokens; paired wrongly, not.
    block = decorated(lambda: nn.AvgPool2d(2), 6, loss_type="mse", token_sampling_ratio=1.0)
    predict_nothing(block)
    block(torch.randn(2, 6, 8, 8))
    assert compute_loss_sim(block).item() == pytest.approx(0, abs=1e-14)
    block(torch.randn(2, 6, 7, 5))  # odd sizes: the pool leaves a border out, finite all the same
    assert 0 < compute_loss_sim(block).item() < 1e-3


def test_a_finer_grid_and_a_shorter_sequence_are_paired_in_order():
    options = dict(loss_type="mse", token_sampling_ratio=1.0)
    up = decorated(lambda: nn.Upsample(scale_factor=2), 6, **options)
    half = decorated(lambda: nn.AvgPool2d((2, 1)), 6, **options)
    for block, x in ((up, torch.randn(2, 6, 3, 4)), (half, torch.randn(2, 8, 6))):
        predict_nothing(block)
        block(x)
        assert compute_loss_sim(block).item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("loss", LOSS_TYPES)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (1, 5)])
def test_small_maps_give_a_finite_loss_and_gradients(version, loss, size):
    block = decorated(
        lambda: nn.Conv2d(6, 9, 3, 1, 1),
        "c_in",
        "c_out",
        loss_type=loss,
        token_sampling_type=version,
    )
    assert trained(block, torch.randn(4, 6, *size)) > 0


def test_on_a_map_of_one_position_the_batch_takes_the_tokens_place():
    f = nn.Conv2d(6, 6, 1)
    losses = []
    for x in (torch.randn(7, 6, 1, 1),) * 2:
        torch.manual_seed(0)
        one = decorated(lambda: f, 6, token_sampling_ratio=0.99)
        seven = copy.deepcopy(one)
        torch.manual_seed(1)
        one(x)
        torch.manual_seed(1)
        seven(x[:, :, 0, 0].t()[None, :, :, None])  # [7, 6, 1, 1] -> one image of seven positions
        losses += [compute_loss_sim(one), compute_loss_sim(seven)]
    torch.testing.assert_close(losses[0], losses[1])


def test_one_position_and_a_batch_of_one_is_a_clear_error_for_norm_mse_alone():
    with pytest.raises(ValueError, match="one position and a batch of one.*norm_mse"):
        decorated(lambda: nn.Conv2d(6, 6, 1), 6)(torch.randn(1, 6, 1, 1))
    trained(decorated(lambda: nn.Conv2d(6, 6, 1), 6, loss_type="mse"), torch.randn(1, 6, 1, 1))


def test_vectors_count_as_maps_of_one_position():
    block = decorated(lambda: nn.Linear(6, 9), "c_in", "c_out")
    assert trained(block, torch.randn(20, 6)) > 0


def test_v0_draws_once_for_the_batch_and_v1_and_v2_for_each_sample():
    x = torch.randn(50, 6, 40)
    for version, draws in (("v0", 1), ("v1", 50), ("v2", 50)):
        positions = draw_positions(x, 8, version)
        assert positions.shape == (draws, 8)
        assert all(len(set(row)) == 8 for row in positions.tolist()), "a position is drawn twice"
        assert set(positions.flatten().tolist()) <= set(range(40))
        if draws > 1:
            assert len({tuple(row) for row in positions.tolist()}) == draws


def test_v2_keeps_the_highest_third_of_its_candidates():
    x = torch.randn(9, 6, 30)  # 3n candidates are all of the positions
    expected = x.mean(1).topk(10).indices.sort().values
    assert torch.equal(draw_positions(x, 10, "v2").sort().values, expected)


def test_v2_prefers_positions_where_the_input_is_high_and_v1_does_not():
    shares = {}
    for version in VERSIONS:
        torch.manual_seed(0)
        x = torch.zeros(1, 6, 10, 10)
        x[..., :3, :] = 1  # a third of the positions
        block = decorated(lambda: nn.Identity(), 6, token_sampling_type=version)
        seen = []
        block.proj_x[0].register_forward_hook(lambda m, args, out: seen.append(args[0].mean()))
        for _ in range(20):
            block(x)
            compute_loss_sim(block)
        shares[version] = torch.stack(seen).mean().item()
    assert shares["v2"] > 0.8 and max(shares["v0"], shares["v1"]) < 0.4


class Odd(nn.Module):
    """More inputs, a mask before x, a dict and a tuple out."""

    @init_proj(6, 9)
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 9)

    @forward_with_sim_cache()
    def forward(self, mask, hidden, *, scale=1.0):
        return {"mask": mask, "out": (self.f(hidden) * scale, None)}


def test_blocks_may_take_more_inputs_and_return_tuples_and_dicts():
    block = Odd()
    out = block(torch.ones(2, 30, dtype=torch.bool), hidden=torch.randn(2, 30, 6), scale=2.0)
    assert out["out"][0].shape == (2, 30, 9) and compute_loss_sim(block) > 0
    plain = nn.GRU(6, 9, batch_first=True)
    attach_sim(plain, "", sample_input=torch.randn(2, 5, 6))
    plain(torch.randn(2, 30, 6))
    assert compute_loss_sim(plain) > 0 and list(LossSimTracker(plain).report()) == [""]


def test_no_block_waits_for_the_device():
    # meta tensors have no values: whatever asked for one on the way would raise.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for version, loss in itertools.product(VERSIONS, LOSS_TYPES):
            block = decorated(
                lambda: nn.Conv2d(6, 6, 1), 6, token_sampling_type=version, loss_type=loss
            )
            block(torch.empty(2, 6, 8, 8))
            compute_loss_sim(block).backward()
