"""NT-Xent against a double loop, closed forms, finite differences, and what it must not ignore."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simlab.methods.simclr import SimCLR, nt_xent


def views(n=6, d=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, n, d, generator=g, dtype=dtype))


def by_the_book(z1, z2, t):
    """Eq. 1 of the paper as two loops in float64."""
    z = [row / row.norm() for row in torch.cat([z1, z2]).double()]
    n, total = len(z1), 0.0
    for i in range(2 * n):
        sims = [math.exp(float(z[i] @ z[k]) / t) for k in range(2 * n)]
        total -= math.log(sims[(i + n) % (2 * n)] / (sum(sims) - sims[i]))
    return total / (2 * n)


@pytest.mark.parametrize("n, t", [(2, 0.5), (6, 0.1), (9, 2.0)])
def test_it_equals_the_double_loop_over_2n_views(n, t):
    z1, z2 = views(n)
    expected = by_the_book(z1, z2, t)
    assert nt_xent(z1, z2, t).item() == pytest.approx(expected, rel=1e-12)
    assert nt_xent(z1.float(), z2.float(), t).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_loss_of_several_views_is_the_mean_over_every_two(number):
    options = SimCLR(proj_layers=2, proj_dim=3, temperature=0.2, views=number)
    module = options.build(torch.nn.Flatten(), 12)
    images = torch.randn(number, 5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert [crops.number for crops in options.crops] == [number]
    z = [module.embed(x) for x in images]
    of_two = [nt_xent(z[i], z[j], 0.2).item() for i in range(number) for j in range(i)]
    loss = module.loss(tuple(images), torch.Generator(), 0.0)["loss"]
    assert loss.item() == pytest.approx(sum(of_two) / len(of_two), rel=1e-6)


@pytest.mark.parametrize("n", [2, 7, 64])
@pytest.mark.parametrize("t", [0.07, 0.5])
def test_identical_vectors_cost_the_log_of_2n_minus_1(n, t):
    z = torch.ones(n, 4)
    assert nt_xent(z, z, t).item() == pytest.approx(math.log(2 * n - 1), rel=1e-6)


@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_n_orthogonal_pairs_have_a_closed_form(t):
    z = torch.eye(5, dtype=torch.float64)
    expected = math.log(1 + 8 * math.exp(-1 / t))
    assert nt_xent(z, 3 * z, t).item() == pytest.approx(expected, rel=1e-12)


def test_two_opposite_images_reach_the_lower_bound_but_for_their_own_second_view():
    z = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)
    assert nt_xent(z, z, 0.5).item() == pytest.approx(math.log(1 + 2 * math.exp(-4)), rel=1e-12)


def test_a_lower_temperature_rewards_good_pairs_and_punishes_bad_ones():
    z = torch.eye(4)
    good = [nt_xent(z, z, t).item() for t in (1.0, 0.5, 0.1)]
    bad = [nt_xent(z, z.roll(1, 0), t).item() for t in (1.0, 0.5, 0.1)]
    assert good == sorted(good, reverse=True) and bad == sorted(bad)
    assert good[-1] < 1e-3 and bad[-1] > 9


def test_the_default_temperature_is_one_half():
    assert nt_xent(*views()) == nt_xent(*views(), 0.5) != nt_xent(*views(), 0.4)


@pytest.mark.parametrize("t", [0.1, 0.5])
def test_the_gradient_is_that_of_finite_differences(t):
    z1, z2 = (z.requires_grad_() for z in views(4, 3))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, t), (z1, z2))


def test_both_views_get_a_gradient_and_there_is_no_stop_gradient():
    z1, z2 = (z.requires_grad_() for z in views())
    nt_xent(z1, z2).backward()
    assert z1.grad.norm() > 0.01 and z2.grad.norm() > 0.01


def test_the_length_of_a_vector_does_not_matter():
    z1, z2 = views()
    lengths = torch.linspace(1e-3, 1e3, 6, dtype=torch.float64)[:, None]
    value = pytest.approx(nt_xent(z1, z2).item(), rel=1e-12)
    assert nt_xent(z1 * lengths, z2 / lengths).item() == value


def test_order_of_images_views_and_rotation_do_not_matter():
    z1, z2 = views()
    value = pytest.approx(nt_xent(z1, z2).item(), rel=1e-12)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    q = torch.linalg.qr(views(5, 5, 3)[0])[0]
    assert nt_xent(z2, z1).item() == value
    assert nt_xent(z1[order], z2[order]).item() == value
    assert nt_xent(z1 @ q, z2 @ q).item() == value


def test_who_is_paired_with_whom_matters():
    z1, _ = views()
    z2 = z1 + 0.1 * views(seed=4)[0]
    assert nt_xent(z1, z2.roll(1, 0)) > nt_xent(z1, z2) + 0.5


def test_one_batch_is_not_the_mean_of_its_halves_so_processes_must_gather():
    z1, z2 = views(8)
    halves = (nt_xent(z1[:4], z2[:4]) + nt_xent(z1[4:], z2[4:])) / 2
    assert abs(nt_xent(z1, z2) - halves) > 0.3


def test_it_is_computed_in_float32_under_autocast_and_for_half_precision_input():
    z1, z2 = (z.float() for z in views(64, 32))
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(z1, z2)
    assert inside.dtype == torch.float32 and inside == nt_xent(z1, z2)
    z1, z2 = z1.bfloat16(), z2.bfloat16()
    assert nt_xent(z1, z2) == nt_xent(z1.float(), z2.float())
    huge = torch.full((4, 512), 6e4).half()  # its norm overflows float16
    assert nt_xent(huge, huge).item() == pytest.approx(math.log(7), rel=1e-5)
    assert nt_xent(*views()).dtype == torch.float64


def test_a_tiny_temperature_neither_overflows_nor_loses_the_gradient():
    z1, z2 = (z.float().requires_grad_() for z in views())
    loss = nt_xent(z1, z2, 1e-3)
    loss.backward()
    assert loss.isfinite() and z1.grad.isfinite().all() and z2.grad.isfinite().all()


def test_a_zero_vector_gives_finite_numbers():
    z1, z2 = (z.float() for z in views())
    z1[2] = 0
    z1.requires_grad_()
    nt_xent(z1, z2).backward()
    assert z1.grad.isfinite().all()


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_are_refused_since_there_are_no_negatives(n):
    with pytest.raises(ValueError, match=f"got {n}"):
        nt_xent(torch.ones(n, 4), torch.ones(n, 4))


@pytest.mark.parametrize(
    "a, b", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((4, 3, 1), (4, 3, 1))]
)
def test_views_of_other_shapes_are_refused(a, b):
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        nt_xent(torch.ones(a), torch.ones(b))


@settings(max_examples=30, deadline=None)
@given(st.floats())
def test_the_temperature_must_be_positive_and_finite(t):
    if t > 0 and math.isfinite(t):
        assert nt_xent(*views(), max(t, 1e-3)).isfinite()
    else:
        with pytest.raises(ValueError, match="temperature"):
            nt_xent(*views(), t)
