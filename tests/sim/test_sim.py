"""Claims of simlab/sim.py. The published algorithm stands here once more, written plainly from its
description and apart from the package: what equals it is parity, the rest is where it fails."""

import ast
import copy
import functools
import gc
import itertools
import math
import pickle
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.convnext import CNBlock
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vision_transformer import EncoderBlock

from simlab.sim import (
    LOSS_TYPES,
    SIM,
    LossSimTracker,
    attach_sim,
    compute_loss_sim,
    compute_sim_loss,
    detach_sim,
    forward_with_sim_cache,
    init_proj,
)

VERSIONS = ("v0", "v1", "v2")


# ---- the algorithm as published, step by step ----------------------------------------------------


def reference_loss(zy, zx, kind):
    if kind == "cos":
        return (2 - 2 * F.cosine_similarity(zy, zx, dim=-1)).mean()
    if kind == "kl":
        return F.kl_div(F.log_softmax(zy, -1), F.softmax(zx, -1), reduction="batchmean")
    if kind == "smooth_l1":
        return F.smooth_l1_loss(zy, zx)
    if kind == "mse":
        return F.mse_loss(zy, zx)
    a, b = ((z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-6) for z in (zy, zx))
    return torch.norm(a - b, dim=-1).mean()


class Reference(nn.Module):
    """f with published SIM: rearrange, cut channels, sample tokens, project, compare."""

    def __init__(
        self, make_f, c_in, c_out, *, ratio=0.2, channels=1.0, version="v0", loss="norm_mse"
    ):
        super().__init__()
        self.f = make_f()
        k_in, k_out = max(int(channels * c_in), 1), max(int(channels * c_out), 1)
        self.pre_proj = (
            nn.Identity() if k_in == k_out else nn.Sequential(nn.Linear(k_out, k_in, bias=False))
        )
        self.proj_x = nn.Sequential(
            nn.Linear(k_in, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 128)
        )
        self.predictor = nn.Sequential(nn.Linear(128, 128))
        self.options = ratio, channels, version, loss

    def forward(self, x):
        ratio, channels, version, loss = self.options
        out = self.f(x)
        x, y = (
            t.permute(0, 2, 3, 1).flatten(1, 2) if t.dim() == 4 else t for t in (x.detach(), out)
        )
        k = min(max(int(channels * x.shape[-1]), 1), x.shape[-1])
        if k < x.shape[-1]:
            x, y = x[..., :k], y[..., :k]
        b, total, _ = x.shape
        n = min(int(ratio * total) if ratio <= 1 else int(ratio), total)
        if version == "v0":
            ids = torch.randperm(total)[:n].expand(b, n)
        else:
            ids = torch.argsort(torch.rand(b, total), dim=1)
            if version == "v2":
                ids = ids[:, : 3 * n]
                best = torch.topk(x.mean(-1).gather(1, ids), n, dim=1).indices
                ids = ids.gather(1, best)
            ids = ids[:, :n]
        rows = torch.arange(b)[:, None]
        x, y = x[rows, ids], y[rows, ids]
        with torch.no_grad():
            zx = self.proj_x(x)
        zy = self.predictor(self.proj_x(self.pre_proj(y)))
        self.loss_sim = 5e-3 * reference_loss(zy, zx.detach(), loss)
        return out


def decorated(make_f, dim_in, dim_out=None, **options):
    """A decorated block around f; the dims may be ints or attributes' names."""

    class Block(nn.Module):
        @init_proj(dim_in, dim_out, **options)
        def __init__(self):
            super().__init__()
            self.c_in, self.c_out = 6, 9
            self.f = make_f()

        @forward_with_sim_cache()
        def forward(self, x):
            return self.f(x)

    return Block()


def step(model, x, loss):
    y = model(x)
    (y.square().mean() + loss()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


FUNCTIONS = {  # kind of block: (f, shape of x)
    4: (lambda out: nn.Sequential(nn.Conv2d(6, out, 3, 1, 1), nn.Dropout(0.2)), (3, 6, 5, 8)),
    3: (lambda out: nn.Sequential(nn.Linear(6, out), nn.Dropout(0.2)), (3, 40, 6)),
}


@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("loss", LOSS_TYPES)
def test_loss_gradients_and_random_draws_equal_the_published_algorithm(kind, version, loss):
    make, shape = FUNCTIONS[kind]
    for ratio, channels, dims in itertools.product(
        (0.2, 0.08, 1.0, 5), (1.0, 0.5), ((6, None), ("c_in", "c_out"))
    ):
        c_out = 9 if "c_out" in dims else 6
        if channels < 1 and (c_out != 6 or ratio != 0.2):
            continue  # the published shapes clash; and once is enough
        torch.manual_seed(1)
        theirs = Reference(
            lambda: make(c_out),
            6,
            c_out,
            ratio=ratio,
            channels=channels,
            version=version,
            loss=loss,
        )
        x = torch.randn(shape)
        expected = step(theirs, x, lambda: theirs.loss_sim)
        after = torch.rand(3)
        torch.manual_seed(1)
        ours = decorated(
            lambda: make(c_out),
            *dims,
            token_sampling_ratio=ratio,
            channel_sampling_ratio=channels,
            token_sampling_type=version,
            loss_type=loss,
        )
        x = torch.randn(shape)
        got = step(ours, x, lambda: compute_loss_sim(ours))
        assert torch.equal(torch.rand(3), after), "other random numbers were drawn"
        assert list(got) == list(expected)
        torch.testing.assert_close(ours.loss_sim, theirs.loss_sim.detach(), rtol=1e-5, atol=1e-7)
        for name in got:
            torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_state_of_the_published_layout_loads_and_a_network_of_blocks_gives_the_same_mean():
    make = FUNCTIONS[4][0]
    theirs = nn.Sequential(*[Reference(lambda: make(6), 6, 6) for _ in range(3)])
    ours = nn.Sequential(*[decorated(lambda: make(6), "c_in") for _ in range(3)])
    ours.load_state_dict(
        {
            **theirs.state_dict(),
            **{
                k.replace("proj_x", "proj_y"): v
                for k, v in theirs.state_dict().items()
                if "proj_x" in k
            },
        }
    )
    x = torch.randn(2, 6, 8, 8)
    torch.manual_seed(0)
    theirs(x)
    torch.manual_seed(0)
    ours(x)
    expected = torch.stack([b.loss_sim for b in theirs]).mean()
    torch.testing.assert_close(compute_loss_sim(ours), expected)


@pytest.mark.parametrize("loss", LOSS_TYPES[:4])  # norm_mse: see the tests of small maps
def test_one_token_is_kept_where_the_published_loss_of_one_token_is_finite(loss):
    for shape in ((3, 6, 2, 3), (3, 6, 1, 1)):
        ratio = 0.2 if shape[-1] > 1 else 1.0
        values = []
        for build in (
            lambda: Reference(lambda: nn.Conv2d(6, 6, 1), 6, 6, loss=loss, ratio=ratio),
            lambda: decorated(
                lambda: nn.Conv2d(6, 6, 1), 6, loss_type=loss, token_sampling_ratio=ratio
            ),
        ):
            torch.manual_seed(3)
            block = build()
            block(torch.randn(shape))
            values.append((block.loss_sim.detach(), torch.rand(1)))
        torch.testing.assert_close(*values)


def test_the_losses_have_their_closed_forms():
    a, b = torch.randn(2, 7, 4), torch.randn(2, 7, 4)
    assert compute_sim_loss(a, 3 * a, "cos").item() == pytest.approx(0, abs=1e-6)
    assert compute_sim_loss(a, -a, "cos").item() == pytest.approx(4, abs=1e-6)
    assert compute_sim_loss(a, b).item() == pytest.approx(((a - b) ** 2).mean().item())
    assert compute_sim_loss(a, a + 1, "smooth_l1").item() == pytest.approx(0.5)
    p, q = b.softmax(-1), a.softmax(-1)
    assert compute_sim_loss(a, b, "kl").item() == pytest.approx(
        ((p * (p / q).log()).sum() / 2).item(), rel=1e-5
    )
    # Standardised over tokens: blind to each channel's shift and scale, not to a sample's.
    assert compute_sim_loss(a, 3 * a + 5, "norm_mse").item() == pytest.approx(0, abs=1e-4)
    assert compute_sim_loss(a, -a, "norm_mse").item() == pytest.approx(
        (2 * (a - a.mean(1, keepdim=True)) / a.std(1, keepdim=True)).norm(dim=-1).mean().item(),
        rel=1e-4,
    )


@pytest.mark.parametrize("n", [4, 40])
def test_norm_mse_has_finite_gradients_where_a_channel_is_constant(n):
    z = torch.randn(2, n, 3)
    z[..., 0] = 0.5
    z.requires_grad_()
    compute_sim_loss(z, torch.randn(2, n, 3), "norm_mse").backward()
    assert z.grad.isfinite().all() and z.grad[..., 1].abs().sum() > 0


def test_norm_mse_by_hand_has_the_numerical_gradient_of_both_sides():
    samples = [torch.randn(2, 20, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    loss = functools.partial(compute_sim_loss, loss_type="norm_mse")
    assert torch.autograd.gradcheck(loss, samples)
    torch.testing.assert_close(loss(*samples), reference_loss(*samples, "norm_mse"))


def test_half_precision_is_compared_in_float32():
    a, b = torch.randn(2, 30, 8).bfloat16() * 1e-4, torch.randn(2, 30, 8).bfloat16() * 1e-4
    got = compute_sim_loss(a, b, "norm_mse")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, compute_sim_loss(a.float(), b.float(), "norm_mse"))


# ---- the README's examples -----------------------------------------------------------------------


class Block(nn.Module):
    @init_proj(input_dim_name="in_channels", output_dim_name="out_channels")
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.f = nn.Conv2d(in_channels, out_channels, 3, 1, 1)
        self.in_channels = in_channels
        self.out_channels = out_channels

    @forward_with_sim_cache()
    def forward(self, x):
        return self.f(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(*[Block(3, 3) for _ in range(3)])

    def forward(self, x):
        return self.backbone(x)


@pytest.mark.parametrize("cached", [False, True])
def test_the_published_examples_run_print_nothing_and_lower_the_loss(cached, capsys):
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    tracker = LossSimTracker(model)
    values = []
    for _ in range(10):
        x = torch.randn(2, 3, 64, 64)
        gt = torch.rand_like(x, requires_grad=True)
        optimizer.zero_grad()
        y = model(x)
        loss = 0 * (y - gt).mean()
        loss += tracker.compute_loss_sim() if cached else compute_loss_sim(model)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.9 * values[0]
    assert capsys.readouterr() == ("", "")


# ---- where the published code fails --------------------------------------------------------------


def trained(model, x, check=True):
    """One step; every SIM parameter must get a finite gradient, as DDP needs."""
    model.train()
    y = model(x)
    loss = compute_loss_sim(model, check=check)
    (y.float().square().mean() + loss).backward()
    sim_grads = [p.grad for n, p in model.named_parameters() if "proj" in n or "predictor" in n]
    assert sim_grads and all(g is not None and g.isfinite().all() for g in sim_grads)
    return loss


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


def test_the_loss_is_proportional_to_beta():
    values = []
    for beta in (5e-3, 1.0):
        torch.manual_seed(0)
        block = decorated(lambda: nn.Conv2d(6, 6, 1), 6, beta=beta)
        block(torch.randn(2, 6, 8, 8))
        values.append(compute_loss_sim(block).item())
    assert values[1] == pytest.approx(200 * values[0], rel=1e-5)


def test_the_target_has_no_gradient_so_a_frozen_copy_as_target_gives_the_same_gradients():
    torch.manual_seed(0)
    block = decorated(lambda: nn.Conv2d(6, 6, 1), 6, token_sampling_ratio=1.0, loss_type="mse")
    frozen = copy.deepcopy(block)
    x = torch.randn(2, 6, 4, 4, requires_grad=True)
    y = block(x)
    compute_loss_sim(block).backward()
    got = [p.grad for p in block.parameters()] + [x.grad]
    tokens = [t.flatten(2).transpose(1, 2) for t in (x.detach(), block.f(x))]
    loss = 5e-3 * F.mse_loss(block.predictor(block.proj_x(tokens[1])), frozen.proj_x(tokens[0]))
    expected = torch.autograd.grad(loss, [*block.parameters(), x])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-8)
    assert y.requires_grad


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
    ):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name}={value!r}, expected"):
            init_proj(3, **wrong)
    with pytest.raises(ValueError, match="did you mean 'norm_mse'"):
        compute_sim_loss(torch.randn(1, 2, 3), torch.randn(1, 2, 3), "norm_msee")
    with pytest.raises(ValueError, match="no block of this Linear has SIM"):
        compute_loss_sim(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no block of this Linear has SIM"):
        LossSimTracker(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"x \[2, 5, 4, 4\].*5 and 6 channels.*take 6 and 6"):
        decorated(lambda: nn.Conv2d(5, 6, 1), 6)(torch.randn(2, 5, 4, 4))
    with pytest.raises(ValueError, match="x .* y .*expected"):
        decorated(lambda: nn.Identity(), 6)(torch.randn(2, 6, 2, 2, 2))
    with pytest.raises(ValueError, match="positions are as many"):
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


# ---- when the loss is taken ----------------------------------------------------------------------


def small(**options):
    torch.manual_seed(0)
    return nn.Sequential(
        *[decorated(lambda: nn.Conv2d(6, 6, 3, 1, 1), 6, **options) for _ in range(2)]
    )


def test_two_views_before_the_loss_is_taken_give_the_mean_over_both():
    model, views = small(token_sampling_ratio=1.0), torch.randn(2, 2, 6, 8, 8)
    each = []
    for view in views:
        model(view)
        each.append(compute_loss_sim(model))
    each = torch.stack(each).mean()
    expected = torch.autograd.grad(each, list(model.parameters()))
    model(views[0])
    model(views[1])
    both = compute_loss_sim(model)
    torch.testing.assert_close(both, each)
    for a, b in zip(torch.autograd.grad(both, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_passes_whose_loss_was_never_taken_do_not_count_after_their_backward_pass():
    model, x = small(token_sampling_ratio=1.0), torch.randn(2, 6, 8, 8)
    for _ in range(3):
        model(10 + x.flip(2)).mean().backward()  # a loop that forgets SIM
        assert not model[0]._sim_calls.pending
    model(x)
    late = compute_loss_sim(model)
    model(x)
    torch.testing.assert_close(late, compute_loss_sim(model))


def test_a_pipelined_backward_pass_takes_only_its_own_forward_pass_away():
    model, x = small(token_sampling_ratio=1.0), torch.randn(2, 6, 8, 8)
    first = model(x)
    compute_loss_sim(model)
    model(x)
    first.mean().backward()
    model(-x)
    assert len(model[0]._sim_calls.pending) == 2


def test_passes_under_no_grad_count_only_where_none_with_a_graph_waits():
    model, x = small(token_sampling_ratio=1.0), torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        model(x)
        alone = compute_loss_sim(model)
        model(x + 1)
    model(x)
    with torch.no_grad():
        model(x + 1)
    loss = compute_loss_sim(model)
    assert loss.requires_grad and not alone.requires_grad
    torch.testing.assert_close(loss.detach(), alone)


def test_in_eval_mode_the_loss_is_a_zero_that_can_be_added():
    model, x = small(), torch.randn(2, 6, 8, 8)
    tracker = LossSimTracker(model)
    assert tracker.compute_loss_sim().item() == 0  # asked before the first pass
    model(x)
    compute_loss_sim(model)
    model.eval()
    y = model(x)
    zero = compute_loss_sim(model, check=True)
    assert zero.item() == 0 and zero.device == y.device
    (y.mean() + zero).backward()
    with torch.no_grad():
        plain = nn.Sequential(*[block.f for block in model])(x)
    assert torch.equal(y, plain)


def test_a_block_in_eval_mode_counts_as_zero_and_one_that_did_not_run_is_left_out():
    model, x = small(token_sampling_ratio=1.0), torch.randn(2, 6, 8, 8)
    model[1].eval()
    model(x)
    assert compute_loss_sim(model).item() == pytest.approx(LossSimTracker(model).report()["0"] / 2)
    model[1].train()
    model[0](x)
    assert compute_loss_sim(model).item() == pytest.approx(LossSimTracker(model).report()["0"])


def test_the_report_takes_nothing_and_a_second_take_gives_the_number_alone_and_warns():
    model = small()
    model(torch.randn(2, 6, 8, 8))
    values = LossSimTracker(model).report()
    first = compute_loss_sim(model)
    assert list(values) == ["0", "1"] and first.requires_grad
    assert first.item() == pytest.approx(sum(values.values()) / 2)
    with pytest.warns(UserWarning, match="taken before"):
        second = LossSimTracker(model).compute_loss_sim()
    assert second.item() == first.item() and not second.requires_grad


def test_no_graph_is_kept_once_the_loss_was_taken():
    model = small()
    alive = []

    def watch(*_):
        pass

    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    marker = functools.partial(watch)
    alive.append(weakref.ref(marker))
    h = x * 2
    h.register_hook(marker)  # lives as long as the graph does
    del marker
    out = model(h)
    del h
    loss = compute_loss_sim(model)
    del out
    gc.collect()
    assert alive[0]() is not None
    del loss
    gc.collect()
    assert alive[0]() is None


def test_a_model_dropped_with_its_loss_pending_is_freed():
    model = small()
    ref = weakref.ref(model[0]._sim_calls)
    model(torch.randn(2, 6, 8, 8))
    del model
    gc.collect()
    assert ref() is None


def test_nan_stays_in_the_sum_and_is_named():
    model = small()
    with torch.no_grad():
        model[1].f.weight[0] = math.nan
    model(torch.randn(2, 6, 8, 8))
    report = LossSimTracker(model).report()
    assert math.isfinite(report["0"]) and math.isnan(report["1"])
    assert compute_loss_sim(model).isnan()
    model(torch.randn(2, 6, 8, 8))
    with pytest.raises(FloatingPointError, match=r"not finite.*\{'1': nan\}"):
        LossSimTracker(model).compute_loss_sim(check=True)


# ---- copies, precision, compilation --------------------------------------------------------------


def two_steps(model, x, seed=5):
    torch.manual_seed(seed)
    values = []
    for _ in range(2):
        y = model(x)
        loss = y.square().mean() + compute_loss_sim(model)
        model.zero_grad()
        loss.backward()
        values.append(loss.detach())
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    return torch.stack(values)


def attached():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
    attach_sim(model, nn.Conv2d)
    return model


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("build", [attached, Model])
def test_copies_made_between_forward_and_loss_train_alike_and_apart(how, build):
    model = build()
    x = torch.randn(2, 6 if build is attached else 3, 8, 8)
    model(x)
    twin = how(model)
    assert compute_loss_sim(model).requires_grad  # the copy took nothing away, and starts empty
    assert not any(h._sim_calls.pending for _, h in LossSimTracker(twin).holders)
    assert torch.equal(two_steps(model, x), two_steps(twin, x))
    before = LossSimTracker(model).report()
    twin(x + 1)
    assert LossSimTracker(model).report() == before
    if build is attached:
        detach_sim(twin)
        assert not hasattr(twin[0], "sim") and hasattr(model[0], "sim")
        twin(x)
        two_steps(model, x)


@pytest.mark.long
def test_a_pickle_opens_in_a_new_process(tmp_path):
    torch.save(attached(), tmp_path / "model.pt")
    code = (
        "import sys, torch; from simlab.sim import *\n"
        "m = torch.load(sys.argv[1], weights_only=False)\n"
        "m[1].register_forward_hook(lambda *a: None)\n"
        "m(torch.randn(2, 6, 8, 8)); assert compute_loss_sim(m) > 0; detach_sim(m)\n"
        "m(torch.randn(2, 6, 8, 8)); assert not m[0]._forward_hooks and m[1]._forward_hooks"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pt")], check=True)


@pytest.mark.parametrize("build", [attached, Model])
def test_state_dict_round_trip_gives_the_same_loss(build):
    a, b = build(), build()
    with torch.no_grad():
        for p in b.parameters():
            p.add_(1)
    b.load_state_dict(a.state_dict())
    x = torch.randn(2, 6 if build is attached else 3, 8, 8)
    assert torch.equal(two_steps(a, x), two_steps(b, x))


@pytest.mark.parametrize("side, dtype", [(3, torch.float32), (16, torch.bfloat16)])
def test_under_autocast_few_tokens_are_projected_in_full_precision(monkeypatch, side, dtype):
    # two tokens that are nearly equal: divided by their tiny spread, bfloat16's rounding is the loss
    seen, model = [], nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    loss = sys.modules["simlab.sim"].compute_sim_loss
    monkeypatch.setattr(
        "simlab.sim.compute_sim_loss",
        lambda y, x, kind: seen.append((y.dtype, x.dtype)) or loss(y, x, kind),
    )
    attach_sim(model, "0")
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(4, 4, side, side))
    compute_loss_sim(model).backward()
    assert seen == [(dtype, dtype)]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_autocast_gives_every_projection_its_gradient():
    model, x = attached(), torch.randn(2, 6, 16, 16)
    torch.manual_seed(1)
    model(x)
    exact = torch.autograd.grad(compute_loss_sim(model), list(model.parameters()))
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
    loss = compute_loss_sim(model)
    assert loss.dtype == torch.float32
    got = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(got, exact, strict=True):
        if b.abs().max() > 1e-6:  # a bias before norm_mse has a gradient of rounding errors only
            assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.98


def test_other_dtypes_and_memory_formats_work():
    model = attached().double()
    assert trained(model, torch.randn(2, 6, 8, 8).double()).dtype == torch.float64
    model, x = attached(), torch.randn(2, 6, 8, 8)
    torch.manual_seed(1)
    model(x)
    expected = compute_loss_sim(model)
    model = model.to(memory_format=torch.channels_last)
    torch.manual_seed(1)
    model(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(compute_loss_sim(model), expected)
    trained(attached().bfloat16(), torch.randn(2, 6, 8, 8).bfloat16())


def test_activation_checkpointing_counts_a_block_once_and_gives_the_same_gradients():
    plain, kept = attached(), attached()
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    for _ in range(2):
        grads = []
        for model, run in (
            (plain, plain),
            (kept, functools.partial(checkpoint, kept, use_reentrant=False)),
        ):
            torch.manual_seed(1)
            y = run(x)
            assert len(LossSimTracker(model).holders[0][1]._sim_calls.pending) == 1
            loss = y.square().mean() + compute_loss_sim(model)
            grads.append(torch.autograd.grad(loss, list(model.parameters())))
        for a, b in zip(*grads, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("build", [attached, Model])
def test_a_compiled_model_trains_with_the_losses_of_the_eager_one(build):
    x = torch.randn(2, 6 if build is attached else 3, 8, 8)
    torch.manual_seed(9)
    eager = build()
    compiled = torch.compile(copy.deepcopy(eager), backend="aot_eager")
    torch.testing.assert_close(two_steps(compiled, x), two_steps(eager, x))
    for _ in range(2):  # compiled code that runs again
        compiled(x)
        assert compute_loss_sim(compiled).requires_grad
    compiled.eval()
    compiled(x)
    assert compute_loss_sim(compiled).item() == 0


def test_an_attached_model_exports_in_eval_mode_without_a_trace_of_sim():
    model, x = attached().eval(), torch.randn(2, 6, 8, 8)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))


# ---- attach and detach ---------------------------------------------------------------------------


def test_detaching_leaves_outputs_and_state_bit_for_bit_as_before():
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    x = torch.randn(1, 3, 32, 32)
    before, keys = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    attributes = {n: sorted(vars(m)) for n, m in model.named_modules()}
    names = attach_sim(model, ["layer?", "layer1.*", "", BasicBlock])  # Sequentials and root too
    assert names[0] == "" and len(names) == 1 + 4 + 8
    assert torch.equal(model(x), before)
    assert any("sim" in k for k in model.state_dict())
    assert detach_sim(model) == names
    assert torch.equal(model(x), before)
    after = model.state_dict()
    assert list(after) == list(keys) and all(torch.equal(after[k], keys[k]) for k in keys)
    assert {n: sorted(vars(m)) for n, m in model.named_modules()} == attributes
    assert not any(m._forward_hooks or m._forward_hooks_with_kwargs for m in model.modules())
    with pytest.raises(ValueError, match="nothing is attached"):
        detach_sim(model)


def test_attached_sim_is_the_decorated_one_for_equal_random_state():
    torch.manual_seed(0)
    a = decorated(lambda: nn.Conv2d(6, 9, 3, 1, 1), 6, 9)
    x = torch.randn(2, 6, 8, 8)
    a(x)
    torch.manual_seed(0)
    b = nn.Conv2d(6, 9, 3, 1, 1)
    attach_sim(b, "")
    b(torch.randn(2, 6, 8, 8))
    assert torch.equal(compute_loss_sim(a), compute_loss_sim(b))


def test_layers_are_chosen_by_name_glob_type_type_name_or_predicate():
    def chosen(layers):
        return attach_sim(torchvision.models.resnet18(), layers)

    assert chosen("layer3.1") == ["layer3.1"]
    assert chosen("layer[12].*") == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    assert (
        chosen(BasicBlock)
        == chosen("BasicBlock")
        == chosen(lambda name, module: isinstance(module, BasicBlock))
        == chosen("layer?.?")
    )
    assert chosen(["layer4.0", "layer1.1"]) == ["layer1.1", "layer4.0"]


def test_nothing_matched_is_an_error_with_near_misses_that_leaves_the_model_alone():
    model = torchvision.models.resnet18()
    for wrong, hint in (
        ("layer5.0", "did you mean 'layer"),
        ("BasicBlok", "'BasicBlock'"),
        (Bottleneck, "'Bottleneck' matches nothing.*BasicBlock"),
        (["layer1.0", "laier1.1"], "'laier1.1'.*'layer1.1'"),
        ([], "empty"),
        ("stages.*", "its blocks are layer1, layer1.0,"),
        (3, "expected a name"),
        (lambda n, m: False, "lambda.*matches nothing"),
    ):
        with pytest.raises(ValueError, match=hint):
            attach_sim(model, wrong)
    with pytest.raises(ValueError, match="no dims can be read off 'relu'.*sample_input"):
        attach_sim(model, ["layer1.0", "relu"])
    with pytest.raises(ValueError, match="no option 'betta'.*'beta'"):
        attach_sim(model, "layer1.0", betta=1.0)
    with pytest.raises(ValueError, match="name its children"):
        attach_sim(nn.ModuleList([nn.Linear(2, 2)]), "")
    assert not any(isinstance(m, SIM) for m in model.modules())
    attach_sim(model, "layer1.0")
    with pytest.raises(ValueError, match="'layer1.0' has SIM"):
        attach_sim(model, "layer1.?")
    assert attach_sim(model, nn.Linear) == ["fc"]  # SIM's own layers are not among the matches


def test_one_sample_input_tells_the_dims_and_leaves_no_trace():
    class Gate(nn.Module):  # its first and last layer mislead
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Conv2d(5, 9, 1), nn.Conv2d(6, 5, 1)
            self.norm = nn.BatchNorm2d(9)

        def forward(self, x, scale):
            return self.norm(self.last(self.first(x))) * scale

    torch.manual_seed(0)
    model = Gate()
    model.norm.eval()
    sample = (torch.randn(1, 6, 3, 3), 2.0)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    attach_sim(model, "", sample_input=sample)
    assert model.sim.sim_dims == (6, 9)
    assert model.training and not model.norm.training
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert len(model._forward_hooks) == 1
    model(torch.randn(2, 6, 4, 4), 1.0)
    assert compute_loss_sim(model) > 0
    wrong = Gate()
    attach_sim(wrong, "")
    with pytest.raises(ValueError, match="sample_input"):
        wrong(torch.randn(2, 6, 4, 4), 1.0)
    skipping = nn.Sequential(nn.Linear(6, 6))
    skipping[0].unused = nn.Linear(6, 6)
    with pytest.raises(ValueError, match=r"no floating tensors.*\['0.unused'\]"):
        attach_sim(skipping, "0.unused", sample_input=torch.randn(2, 6))


def test_dims_read_off_the_modules_are_those_of_a_run():
    for name, block in (
        ("resnet50", Bottleneck),
        ("convnext_tiny", CNBlock),
        ("vit_b_16", EncoderBlock),
    ):
        with torch.device("meta"):
            a, b = (getattr(torchvision.models, name)() for _ in range(2))
            attach_sim(a, block)
            attach_sim(b, block, sample_input=torch.empty(2, 3, 224, 224))
        dims = [[m.sim_dims for m in model.modules() if isinstance(m, SIM)] for model in (a, b)]
        assert dims[0] == dims[1]


def test_parameters_take_the_blocks_device_and_dtype_and_the_optimizer_sees_them():
    model = nn.Sequential(nn.Conv2d(3, 4, 1).double(), nn.Conv2d(4, 4, 1, device="meta"))
    attach_sim(model, nn.Conv2d)
    assert {p.dtype for p in model[0].sim.parameters()} == {torch.float64}
    assert {p.device.type for p in model[1].sim.parameters()} == {"meta"}
    assert {id(p) for p in model[0].sim.parameters()} <= {id(p) for p in model.parameters()}


def test_the_file_imports_torch_and_the_standard_library_only():
    import simlab.sim

    tree = ast.parse(Path(simlab.sim.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert "torch" in imported and imported - {"torch"} <= set(sys.stdlib_module_names)


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
