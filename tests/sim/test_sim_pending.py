"""When the loss counts, and when it is let go."""

import functools
import gc
import math
import weakref

import pytest
import torch
from sim_models import (
    small,
)
from torch import nn

from simlab.sim import (
    LossSimTracker,
    compute_loss_sim,
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
        assert len(model[0]._sim_pending) == 0
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
    assert len(model[0]._sim_pending) == 2


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
    model.eval()
    assert tracker.compute_loss_sim().item() == 0  # asked before the first pass
    model.train()
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
    model[1](x)
    compute_loss_sim(model)
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


@pytest.mark.long
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


@pytest.mark.long
def test_a_model_dropped_with_its_loss_pending_is_freed():
    model = small()
    ref = weakref.ref(model[0]._sim_pending)
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
