"""The five distances have their closed forms, and the fast way is the plain one."""

import functools

import pytest
import torch
from published_sim import reference_loss
from sim_models import decorated
from torch import nn

from simlab.sim import compute_sim_loss, fast, loss


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
    norm_mse = functools.partial(compute_sim_loss, loss_type="norm_mse")
    assert torch.autograd.gradcheck(norm_mse, samples)
    torch.testing.assert_close(norm_mse(*samples), reference_loss(*samples, "norm_mse"))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_fast_norm_mse_has_the_value_and_gradients_of_the_plain_one(dtype, tolerance):
    samples = [torch.randn(3, 40, 8, dtype=dtype, requires_grad=True) for _ in range(2)]
    plain, by_hand = loss.norm_mse(*samples), fast.norm_mse(*samples)
    torch.testing.assert_close(by_hand, plain, rtol=tolerance, atol=tolerance)
    expected = torch.autograd.grad(plain, samples)
    for got, want in zip(torch.autograd.grad(by_hand, samples), expected):
        assert want.abs().max() > 1e-4
        torch.testing.assert_close(got, want, rtol=100 * tolerance, atol=tolerance)


def test_the_norm_mse_of_few_tokens_is_the_plain_one():
    for n in (2, fast.FEW_TOKENS - 1, fast.FEW_TOKENS):
        x = torch.randn(3, n, 8, requires_grad=True)
        by_hand = "NormMSE" in compute_sim_loss(x, torch.randn(3, n, 8), "norm_mse").grad_fn.name()
        assert by_hand == (n >= fast.FEW_TOKENS)


@pytest.mark.parametrize("layout", ["map", "tokens"])
@pytest.mark.parametrize("shared", [True, False])
def test_the_fast_way_takes_the_tokens_of_plain_indexing(layout, shared):
    x = torch.randn(3, 5, 30) if layout == "map" else torch.randn(3, 30, 5).transpose(1, 2)
    positions = torch.stack([torch.randperm(30)[:7] for _ in range(3)])
    if shared:  # v0: one draw, expanded over the batch
        positions = positions[:1].expand(3, 7)
    tokens = fast.take_tokens(x, positions)
    assert torch.equal(tokens, x.transpose(1, 2)[torch.arange(3)[:, None], positions])
    assert tokens.is_contiguous()


@pytest.mark.parametrize("widths", [(6, 6), (6, 9)])
def test_the_fast_prediction_is_that_of_the_layers_one_after_the_other(widths):
    block = decorated(lambda: nn.Conv2d(6, 9, 1), *widths).double()
    y = torch.randn(50, widths[1], dtype=torch.float64, requires_grad=True)
    plain = block.predictor(block.proj_y(block.pre_proj(y)))
    fused = fast.predict(block.pre_proj, block.proj_y, block.predictor, y)
    torch.testing.assert_close(fused, plain)
    weights = [*block.pre_proj.parameters(), *block.proj_y.parameters()]
    inputs = [y, *weights, *block.predictor.parameters()]
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    for got, want in zip(torch.autograd.grad(fused.square().sum(), inputs), expected):
        torch.testing.assert_close(got, want)


def test_half_precision_is_compared_in_float32():
    a, b = torch.randn(2, 30, 8).bfloat16() * 1e-4, torch.randn(2, 30, 8).bfloat16() * 1e-4
    got = compute_sim_loss(a, b, "norm_mse")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, compute_sim_loss(a.float(), b.float(), "norm_mse"))
