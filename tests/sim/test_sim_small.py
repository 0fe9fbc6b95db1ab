"""Blocks on which the published code fails, and random numbers of SIM's own."""

import warnings

import pytest
import torch
import torchvision
from torch import nn

from simlab.models import TinyResNet
from simlab.sim import LossSimTracker, attach_sim, compute_loss_sim


def blocks_with_sim(small, size=24, **options):
    """On the three blocks of the tiny encoder: 24 pixels give maps of 12, 6 and 3 positions."""
    model = TinyResNet()
    names = attach_sim(model, "blocks.*", torch.zeros(1, 1, size, size), small=small, **options)
    model(torch.randn(4, 1, size, size))
    assert compute_loss_sim(model) > 0 and list(LossSimTracker(model).report()) == names
    return names


def test_skip_leaves_out_strides_and_small_maps_with_one_warning_that_names_them():
    with pytest.warns(UserWarning) as caught:
        assert blocks_with_sim("skip") == ["blocks.0"]
    (warning,) = caught
    text = str(warning.message)
    assert "'blocks.1': 144 positions before it, 36 after it" in text
    assert "'blocks.2': 36 positions before it, 9 after it" in text
    assert "left off 2 of 3 blocks" in text and "stays on 1: 'blocks.0'" in text


def test_pool_leaves_out_small_maps_alone_and_two_nothing():
    with pytest.warns(UserWarning, match=r"'blocks.2': 1 of 9 positions.*norm_mse needs 2"):
        assert blocks_with_sim("pool") == ["blocks.0", "blocks.1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(blocks_with_sim("two")) == 3
        # a distance that one position suffices for, and a larger share
        assert len(blocks_with_sim("pool", loss_type="mse")) == 3
        assert len(blocks_with_sim("pool", token_sampling_ratio=0.5)) == 3


def test_a_resnet_of_small_images_keeps_the_blocks_that_the_published_code_can_do():
    with pytest.warns(UserWarning, match="left off 4 of 8 blocks"):
        names = attach_sim(
            torchvision.models.resnet18(), "layer?.*", torch.zeros(1, 3, 64, 64), small="skip"
        )
    # maps of 16, 8, 4 and 2 positions a side
    assert names == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]


def test_where_none_remains_it_is_an_error_that_leaves_the_model_alone():
    model = TinyResNet()
    with pytest.raises(
        ValueError, match=r"every block.*small='skip'.*'blocks.2'.*\"pool\".*\"two\""
    ):
        attach_sim(model, "blocks.2", torch.zeros(1, 1, 24, 24), small="skip")
    with pytest.raises(ValueError, match="no block of this TinyResNet has SIM"):
        compute_loss_sim(model)
    with pytest.raises(ValueError, match="small='skp', expected one of.*did you mean 'skip'"):
        attach_sim(model, "blocks.0", small="skp")
    with pytest.raises(ValueError, match="small='skip' needs sample_input="):
        attach_sim(model, "blocks.0", small="skip")


@pytest.mark.parametrize("version", ["v0", "v1", "v2"])
def test_with_a_generator_weights_and_tokens_leave_the_global_one_alone(version):
    losses = []
    for global_seed in (0, 1):
        torch.manual_seed(3)
        model, x = nn.Sequential(nn.Conv2d(3, 3, 1)), torch.randn(2, 3, 8, 8)
        torch.manual_seed(global_seed)
        before = torch.random.get_rng_state()
        generator = torch.Generator().manual_seed(5)
        attach_sim(model, "0", token_sampling_type=version, generator=generator)
        model(x)
        losses.append(compute_loss_sim(model).detach())
        assert torch.equal(torch.random.get_rng_state(), before)
        model(x)
        assert not torch.equal(compute_loss_sim(model), losses[-1]), "the same tokens again"
    assert torch.equal(*losses)
    other = nn.Sequential(nn.Conv2d(3, 3, 1))
    attach_sim(other, "0", generator=torch.Generator().manual_seed(6))
    weights = [m[0].sim.predictor[0].weight for m in (model, other)]
    assert not torch.equal(*weights)
