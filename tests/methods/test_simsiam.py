"""SimSiam: closed forms of the loss, the stop-gradient, and that each switch does what it says."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simlab.methods.simsiam import SimSiam, negative_cosine, simsiam_loss


class View(NamedTuple):
    z: Tensor
    p: Tensor


def views(n=6, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z1, p1, z2, p2 = torch.randn(4, n, d, generator=generator)
    return tuple(View(z.requires_grad_(), p.requires_grad_()) for z, p in ((z1, p1), (z2, p2)))


def loss_of(view1, view2, stop_gradient=True):
    return simsiam_loss(view1.p, view2.p, view1.z, view2.z, stop_gradient)


def network(feature_dim=7, **switches):
    torch.manual_seed(0)
    options = {"proj_layers": 2, "proj_dim": 8, "pred_dim": 4} | switches
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    return SimSiam(**options).build(encoder, feature_dim)


def kinds(module):
    return [type(layer).__name__ for layer in module]


# --------------------------------------------------------------------------------------- the loss


def test_equal_directions_give_minus_one_opposite_ones_one_and_orthogonal_ones_nought():
    p = torch.randn(4, 6)
    assert float(negative_cosine(p, 3 * p)) == pytest.approx(-1)
    assert float(negative_cosine(p, -0.1 * p)) == pytest.approx(1)
    assert float(negative_cosine(torch.eye(4), torch.eye(4).roll(1, 0))) == 0


def test_the_loss_is_equation_4_worked_out_by_hand():
    view1, view2 = (View(*(tensor.detach() for tensor in view)) for view in views())
    p1, z1, p2, z2 = (t.double().numpy() for t in (view1.p, view1.z, view2.p, view2.z))

    def d(p, z):
        return -np.mean(
            [a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for a, b in zip(p, z, strict=True)]
        )

    wanted = d(p1, z2) / 2 + d(p2, z1) / 2
    assert float(loss_of(view1, view2)) == pytest.approx(wanted, abs=1e-6)
    assert float(loss_of(view2, view1)) == pytest.approx(wanted, abs=1e-6)
    # neither of the pairings that would also fall to -1 when everything agrees
    for wrong in (d(p1, z1) / 2 + d(p2, z2) / 2, d(p1, p2), d(z1, z2)):
        assert abs(wanted - wrong) > 0.01


def test_the_stop_gradient_blocks_z_and_nothing_else():
    view1, view2 = views()
    loss_of(view1, view2).backward()
    assert view1.z.grad is None and view2.z.grad is None
    assert float(view1.p.grad.abs().min()) > 0 and float(view2.p.grad.abs().min()) > 0


def test_without_the_stop_gradient_the_value_is_the_same_but_z_learns():
    view1, view2 = views()
    with_stop, without = loss_of(view1, view2), loss_of(view1, view2, False)
    assert torch.equal(with_stop, without)
    without.backward()
    assert float(view1.z.grad.abs().min()) > 0 and float(view2.z.grad.abs().min()) > 0


def test_the_gradient_is_the_closed_form_and_orthogonal_to_p():
    """d/dp of -cos(p, z) is (cos * p/|p| - z/|z|) / |p|: along the sphere only."""
    view1, view2 = views(n=3)
    loss_of(view1, view2).backward()
    p, z = view1.p.detach().double(), view2.z.detach().double()
    norm = p.norm(dim=1, keepdim=True)
    p1, z1 = p / norm, z / z.norm(dim=1, keepdim=True)
    wanted = ((p1 * z1).sum(1, keepdim=True) * p1 - z1) / norm / 3 / 2
    torch.testing.assert_close(view1.p.grad.double(), wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close((view1.p.grad * view1.p).sum(1), torch.zeros(3), atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 100))
def test_the_loss_lies_between_minus_one_and_one_and_knows_no_lengths(scale, seed):
    view1, view2 = views(seed=seed)
    loss = loss_of(view1, view2)
    longer = [View(v.z * scale, v.p * scale) for v in (view1, view2)]
    assert -1.000001 <= loss.item() <= 1.000001
    torch.testing.assert_close(loss_of(*longer), loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1e-4, 1e-7, 0.0])
def test_tiny_norms_are_normalised_in_float32_and_give_no_nan(dtype, size):
    """In half precision the square of 1e-4 is 0 already."""
    p = (torch.randn(4, 8) * size).to(dtype).requires_grad_()
    z = torch.randn(4, 8).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = negative_cosine(p, z)
    assert loss.dtype == torch.float32
    loss.backward()
    assert bool(loss.isfinite()) and not bool(p.grad.isnan().any())
    # a gradient of 1 / norm is more than float16 can hold, which is what its GradScaler is for
    assert dtype == torch.float16 or bool(p.grad.isfinite().all())
    wanted = -nn.functional.cosine_similarity(p.double(), z.double()).mean()
    if size == 1e-4:
        torch.testing.assert_close(loss.double(), wanted, atol=1e-5, rtol=0)


def test_the_loss_in_autocast_is_the_loss_of_the_same_numbers_in_float32():
    torch.manual_seed(0)
    p, z = torch.randn(64, 256).bfloat16(), torch.randn(64, 256).bfloat16()
    wanted = negative_cosine(p.float(), z.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(negative_cosine(p, z), wanted)


# -------------------------------------------------------------------------------------- the network


def test_the_network_gives_projection_and_prediction_and_embeds_by_its_projection():
    net = network().eval()
    x = torch.randn(6, 3, 2, 2)
    z, p = net(x)
    assert z.shape == p.shape == (6, 8)
    assert torch.equal(z, net.projector(net.encoder(x)))
    assert torch.equal(p, net.predictor(z))
    assert torch.equal(net.embed(x), z)


def test_the_loss_of_the_network_is_equation_4_of_its_two_views():
    net = network().eval()
    x1, x2 = torch.randn(2, 6, 3, 2, 2)
    (z1, p1), (z2, p2) = net(x1), net(x2)
    terms = net.loss((x1, x2), torch.Generator(), 0.0)
    assert terms.keys() == {"loss"}
    assert torch.equal(terms["loss"], simsiam_loss(p1, p2, z1, z2))


def test_the_networks_switch_lets_the_targets_learn():
    x1, x2 = torch.randn(2, 6, 3, 2, 2)
    gradients = []
    for stop_gradient in (True, False):
        net = network(stop_gradient=stop_gradient)
        net.loss((x1, x2), torch.Generator(), 0.0)["loss"].backward()
        gradients.append(net.projector[0].weight.grad)
    assert not torch.allclose(*gradients)


def test_the_paper_s_heads():
    paper = {"proj_dim": 2048, "pred_dim": 512}
    net = network(512, **paper)
    layer = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(net.projector) == [*layer, "Linear", "BatchNorm1d"]
    assert kinds(net.predictor) == [*layer, "Linear"]
    assert (net.projector[0].in_features, net.projector[0].out_features) == (512, 2048)
    bottleneck = (net.predictor[0], net.predictor[3])
    assert [layer.in_features for layer in bottleneck] == [2048, 512]
    assert [layer.out_features for layer in bottleneck] == [512, 2048]
    three = network(512, proj_layers=3, **paper)
    assert kinds(three.projector) == [*layer, *layer, "Linear", "BatchNorm1d"]
    assert kinds(network(proj_layers=1).projector) == ["Linear", "BatchNorm1d"]


def test_the_output_s_batchnorm_has_no_scale_and_shift_and_the_predictor_ends_without():
    net = network()
    assert not net.projector[-1].affine and net.projector[-1].weight is None
    assert net.projector[1].affine and net.predictor[1].affine
    assert isinstance(net.predictor[-1], nn.Linear) and net.predictor[-1].bias is not None
    z, _ = net.train()(torch.randn(50, 3, 2, 2))
    torch.testing.assert_close(z.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_a_bias_before_a_batchnorm_is_left_out_and_nowhere_else():
    for switch in ("all", "hidden", "none"):
        for head in (network(head_bn=switch).projector, network(head_bn=switch).predictor):
            layers = [*head, None]
            for layer, following in zip(layers, layers[1:], strict=False):
                if isinstance(layer, nn.Linear):
                    assert (layer.bias is None) == isinstance(following, nn.BatchNorm1d)


@pytest.mark.parametrize(
    "switch, projector, predictor",
    [("all", [True, False], [True]), ("hidden", [True], [True]), ("none", [], [])],
)
def test_head_bn_says_where_batchnorm_is(switch, projector, predictor):
    net = network(head_bn=switch)
    for head, wanted in ((net.projector, projector), (net.predictor, predictor)):
        assert [layer.affine for layer in head if isinstance(layer, nn.BatchNorm1d)] == wanted
    assert net(torch.randn(4, 3, 2, 2))[1].shape == (4, 8)


def test_without_a_predictor_p_is_z_itself():
    net = network(predictor="none")
    z, p = net(torch.randn(4, 3, 2, 2))
    assert p is z and not list(net.predictor.parameters())


def test_a_fixed_predictor_predicts_but_never_learns():
    """It passes gradients on to the projector, and no optimizer gets its weights."""
    net = network(predictor="fixed")
    before = [p.clone() for p in net.predictor.parameters()]
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0)
    x1, x2 = torch.randn(2, 6, 3, 2, 2)
    z, p = net(x1)
    assert not torch.equal(p, z)
    net.loss((x1, x2), torch.Generator(), 0.0)["loss"].backward()
    optimizer.step()
    assert all(p.grad is None for p in net.predictor.parameters())
    assert all(map(torch.equal, before, net.predictor.parameters()))
    assert float(net.projector[0].weight.grad.abs().sum()) > 0


def test_the_trained_predictor_learns():
    net = network()
    net.loss(torch.randn(2, 6, 3, 2, 2), torch.Generator(), 0.0)["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    "switch, message",
    [
        ({"predictor": "no"}, "predictor='no' is unknown; did you mean 'none'"),
        ({"head_bn": "hiden"}, "head_bn='hiden' is unknown; did you mean 'hidden'"),
        ({"proj_layers": 0}, "proj_layers=0: expected at least 1"),
    ],
)
def test_switches_that_do_not_exist_are_refused(switch, message):
    with pytest.raises(ValueError, match=message):
        network(**switch)


def test_a_few_steps_draw_two_views_together():
    """The whole of the method on vectors: two noisy views of each of 32 images agree in the end."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    images, losses = torch.randn(32, 3, 2, 2), []
    for _ in range(60):
        noisy = [images + 0.3 * torch.randn_like(images) for _ in range(2)]
        loss = net.loss(noisy, torch.Generator(), 0.0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[:5]) / 5 > -0.3 and sum(losses[-5:]) / 5 < -0.8
