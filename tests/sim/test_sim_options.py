"""Every option has its effect or a clear error."""

import dataclasses
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_models import (
    VERSIONS,
    decorated,
)
from torch import nn

from simlab.sim import (
    LossSimTracker,
    SimOptions,
    attach_sim,
    compute_loss_sim,
    compute_sim_loss,
    forward_with_sim_cache,
    init_proj,
)


@pytest.mark.parametrize("dims", [("c_in", "c_out", 6, 9), (9, 6, 9, 6)])
def test_channels_are_sampled_on_both_sides_where_widths_differ(dims):
    d_in, d_out, c_in, c_out = dims
    block = decorated(lambda: nn.Conv2d(c_in, c_out, 1), d_in, d_out, channel_sampling_ratio=0.5)
    assert block.sim_dims == (int(c_in / 2), int(c_out / 2))
    block(torch.randn(2, c_in, 6, 6))
    compute_loss_sim(block).backward()
    used = block.f.weight.grad.abs().amax(dim=(1, 2, 3)) > 0
    assert used.tolist() == [i < int(c_out / 2) for i in range(c_out)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_count_beyond_all_positions_takes_all_of_them(version):
    values = []
    for ratio in (1.0, 1000):
        torch.manual_seed(0)
        block = decorated(
            lambda: nn.Conv2d(6, 6, 1), 6, token_sampling_ratio=ratio, token_sampling_type=version
        )
        block(torch.randn(2, 6, 4, 4))
        values.append(compute_loss_sim(block))
    torch.testing.assert_close(*values)


def test_ratio_zero_is_off_without_parameters_or_random_draws():
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, 1)
    x, after = torch.randn(2, 6, 4, 4), torch.rand(1)
    torch.manual_seed(0)
    block = decorated(lambda: nn.Conv2d(6, 6, 1), 6, token_sampling_ratio=0)
    torch.randn(2, 6, 4, 4)
    assert torch.equal(block(x), plain(x)) and torch.equal(torch.rand(1), after)
    assert list(block.state_dict()) == ["f.weight", "f.bias"]
    assert compute_loss_sim(block).item() == 0 and LossSimTracker(block).report() == {}


def test_sim_cfg_overrides_every_option():
    cfg = dict(
        proj_type="InvSS",
        token_sampling_ratio=7,
        channel_sampling_ratio=0.5,
        loss_type="cos",
        token_sampling_type="v1",
        loss_beta=0.25,
        proj_hidden=20,
        proj_dim=10,
    )
    block = decorated(lambda: nn.Conv2d(6, 6, 1), 6, beta=9.0, sim_cfg=cfg)
    assert {k: getattr(block, k) for k in cfg} == cfg
    assert [m.weight.shape for m in block.proj_x[::2]] == [(20, 3), (10, 20), (10, 10)]
    assert block.predictor[0].weight.shape == (10, 10)


def test_the_options_of_a_sim_options_are_those_given_by_name():
    by_name = dict(token_sampling_ratio=3, token_sampling_type="v2", loss_type="kl", proj_dim=16)
    blocks = []
    for given_options in (by_name, {"sim_cfg": SimOptions(**by_name)}):
        torch.manual_seed(0)
        blocks.append(decorated(lambda: nn.Conv2d(6, 6, 1), 6, **given_options))
        blocks[-1](torch.ones(2, 6, 4, 4))
    assert torch.equal(compute_loss_sim(blocks[0]), compute_loss_sim(blocks[1]))
    with pytest.raises(ValueError, match="no options beside it but got beta, proj_dim"):
        init_proj(6, sim_cfg=SimOptions(), beta=1.0, proj_dim=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        SimOptions().beta = 1.0


@pytest.mark.parametrize("function", [init_proj, attach_sim])
def test_every_option_is_a_keyword_with_the_same_default(function):
    parameters = inspect.signature(function).parameters
    for field in dataclasses.fields(SimOptions):
        assert parameters[field.name].default == field.default


def test_an_attached_block_has_the_options_given_by_keyword():
    options = dict(
        token_sampling_ratio=0.5,
        channel_sampling_ratio=0.5,
        token_sampling_type="v1",
        loss_type="cos",
        proj_hidden=20,
        proj_dim=10,
    )
    model = nn.Conv2d(6, 6, 1)
    attach_sim(model, "", beta=0.25, **options)
    assert {name: getattr(model.sim, name) for name in options} == options
    assert model.sim.loss_beta == 0.25


def test_every_option_is_documented():
    text = SimOptions.__doc__.partition("Attributes:")[2]
    for field in dataclasses.fields(SimOptions):
        assert f"\n        {field.name}: " in text


def test_a_block_follows_its_published_attribute_loss_beta():
    block = decorated(lambda: nn.Conv2d(6, 6, 1), 6)
    losses = []
    for beta in (5e-3, 0.5):
        block.loss_beta = beta
        torch.manual_seed(0)
        block(torch.ones(2, 6, 4, 4).cumsum(3))
        losses.append(compute_loss_sim(block).item())
    assert losses[1] == pytest.approx(100 * losses[0])


def test_the_loss_is_proportional_to_beta():
    values = []
    for beta in (5e-3, 1.0):
        torch.manual_seed(0)
        block = decorated(lambda: nn.Conv2d(6, 6, 1), 6, beta=beta)
        block(torch.randn(2, 6, 8, 8))
        values.append(compute_loss_sim(block).item())
    assert values[1] == pytest.approx(200 * values[0], rel=1e-5)


def test_errors_name_what_is_missing_and_the_nearest_right_name():
    with pytest.raises(AttributeError, match="output_dim_name='c_uot'.*Block has no.*'c_out'"):
        decorated(lambda: nn.Identity(), 6, "c_uot")
    with pytest.raises(TypeError, match="input_dim_name='f'.*positive int"):
        decorated(lambda: nn.Identity(), "f")
    with pytest.raises(ValueError, match="no option 'los_type'.*did you mean 'loss_type'"):
        init_proj(3, sim_cfg={"los_type": "mse"})
    for wrong in (
        dict(loss_type="nrm_mse"),
        dict(token_sampling_type="v3"),
        dict(proj_type="x"),
        dict(token_sampling_ratio=-0.1),
        dict(token_sampling_ratio=math.nan),
        dict(channel_sampling_ratio=2),
        dict(beta="a"),
        dict(proj_dim=0),
        dict(proj_dim=2.0),
        dict(proj_hidden=True),
    ):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name}={value!r}, expected"):
            init_proj(3, **wrong)
    with pytest.raises(
        ValueError, match="loss_type='nrm_mse', expected one of.*did you mean 'norm_"
    ):
        init_proj(3, loss_type="nrm_mse")
    with pytest.raises(ValueError, match="did you mean 'norm_mse'"):
        compute_sim_loss(torch.randn(1, 2, 3), torch.randn(1, 2, 3), "norm_msee")
    with pytest.raises(ValueError, match="no block of this Linear has SIM"):
        compute_loss_sim(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no block of this Linear has SIM"):
        LossSimTracker(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"x \[2, 5, 4, 4\].*5 and 6 channels.*take 6 and 6"):
        decorated(lambda: nn.Conv2d(5, 6, 1), 6)(torch.randn(2, 5, 4, 4))
    with pytest.raises(ValueError, match="x .* y .*expected"):
        decorated(lambda: nn.Identity(), 6)(torch.randn(2, 6, 2, 2, 2, 2))
    with pytest.raises(ValueError, match="only if they have as many positions"):
        decorated(lambda: nn.Flatten(2), 6, 18)(torch.randn(2, 6, 3, 6))

    class Half(nn.Module):
        @forward_with_sim_cache()
        def forward(self, x):
            return x

    with pytest.raises(AttributeError, match="Half.forward.*lacks @init_proj"):
        Half()(torch.randn(2, 3))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["token_sampling_ratio", "channel_sampling_ratio", "beta", "proj_dim"]),
    st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.lists(st.integers())),
)
def test_a_wrong_option_is_a_value_error_and_a_right_one_builds(name, value):
    try:
        init_proj(3, **{name: value})
    except ValueError as error:
        assert f"{name}={value!r}" in str(error)
    else:
        assert isinstance(value, (int, float)) and math.isfinite(value)
