"""Learning rates follow their closed forms, and every parameter gets the rate it is meant to."""

import math

import pytest
import torch

from simlab.config import PretrainConfig
from simlab.methods import ParameterGroup
from simlab.train.optim import base_lr, build_optimizer, lr_factor, set_lr

EPOCHS = [0, 0.01, 0.5, 0.99, 1, 2.5, 3, 4.999, 5, 7.2, 9.9]


def config_of(**changes):
    given = {"epochs": 10, "batch_size": 64, "lr": 0.2, "momentum": 0.9, "weight_decay": 0.0}
    return PretrainConfig(**given | {"warmup_epochs": 0.0} | changes)


def group_of(*values, factor=1.0, fixed=False):
    """A group of one parameter each, whose gradient is 1."""
    params = [torch.nn.Parameter(torch.tensor(float(value))) for value in values]
    for param in params:
        param.grad = torch.ones(())
    return ParameterGroup(params, factor, fixed)


@pytest.mark.parametrize(("batch_size", "rate"), [(256, 0.2), (64, 0.05), (1024, 0.8)])
def test_the_highest_rate_is_linear_in_the_batch(batch_size, rate):
    assert base_lr(config_of(batch_size=batch_size)) == pytest.approx(rate)


@pytest.mark.parametrize("epoch", EPOCHS)
def test_a_constant_rate_stays(epoch):
    assert lr_factor(config_of(schedule="constant"), epoch) == 1


@pytest.mark.parametrize("epoch", EPOCHS)
def test_a_step_schedule_decays_every_so_many_epochs(epoch):
    config = config_of(schedule="step", decay_every=3, decay=0.5)
    assert lr_factor(config, epoch) == 0.5 ** math.floor(epoch / 3)


@pytest.mark.parametrize("epoch", EPOCHS)
def test_a_multistep_schedule_decays_at_its_milestones(epoch):
    config = config_of(schedule="multistep", milestones="0.3,0.5,0.9", decay=0.1)
    passed = (epoch >= 3) + (epoch >= 5) + (epoch >= 9)
    assert lr_factor(config, epoch) == pytest.approx(0.1**passed)


@pytest.mark.parametrize("epoch", EPOCHS)
def test_a_cosine_schedule_is_half_a_cosine_over_the_run(epoch):
    expected = (1 + math.cos(math.pi * epoch / 10)) / 2
    assert lr_factor(config_of(schedule="cosine"), epoch) == pytest.approx(expected)


def test_a_cosine_starts_at_the_highest_rate_ends_at_zero_and_never_rises():
    factors = [lr_factor(config_of(schedule="cosine"), e / 50) for e in range(501)]
    assert factors[0] == 1 and factors[-1] == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)


def test_a_cosine_after_warm_up_falls_over_what_is_left():
    config = config_of(schedule="cosine", warmup_epochs=2.0)
    assert lr_factor(config, 2) == 1
    assert lr_factor(config, 6) == pytest.approx(0.5)
    assert lr_factor(config, 10) == pytest.approx(0)


@pytest.mark.parametrize("schedule", ["constant", "step", "multistep", "cosine"])
def test_warm_up_rises_in_a_line_from_almost_nothing_with_every_schedule(schedule):
    config = config_of(schedule=schedule, warmup_epochs=4.0)
    factors = [lr_factor(config, epoch) for epoch in (0, 1, 2, 3, 4 - 1e-9)]
    assert factors == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=1e-3)
    assert factors[0] > 0


def test_a_run_that_is_all_warm_up_does_not_divide_by_zero():
    config = config_of(schedule="cosine", warmup_epochs=10.0)
    assert 0 < lr_factor(config, 9.99) < 1
    assert math.isfinite(lr_factor(config, 10))


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.8}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.8}),
        ("adam", torch.optim.Adam, {"betas": (0.8, 0.999)}),
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.999)}),
    ],
)
def test_the_optimizer_is_the_one_asked_for_with_its_strengths(name, kind, values):
    config = config_of(optimizer=name, momentum=0.8, weight_decay=0.3)
    optimizer = build_optimizer(config, [group_of(1)])
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert group["weight_decay"] == 0.3
    assert {key: group[key] for key in values} == values


def test_a_step_moves_each_group_by_its_own_rate():
    config = config_of(momentum=0.0, schedule="cosine")
    groups = [group_of(1), group_of(1, fixed=True), group_of(1, factor=3.0, fixed=True)]
    groups += [group_of(1, factor=3.0)]
    optimizer = build_optimizer(config, groups)
    rate = set_lr(optimizer, config, 7.5)
    assert rate == pytest.approx(0.05 * (1 + math.cos(0.75 * math.pi)) / 2)
    optimizer.step()
    moved = [1 - group.params[0].item() for group in groups]
    assert moved == pytest.approx([rate, 0.05, 0.15, 3 * rate], rel=1e-5)


def test_the_rate_depends_on_the_epoch_alone():
    """Not on the steps taken before: a resumed run can't get it wrong."""
    config = config_of(schedule="cosine", warmup_epochs=1.0)
    walked, jumped = (build_optimizer(config, [group_of(1)]) for _ in range(2))
    for epoch in (0, 0.5, 1, 2, 3):
        set_lr(walked, config, epoch)
    set_lr(jumped, config, 3)
    assert walked.param_groups[0]["lr"] == jumped.param_groups[0]["lr"]


def test_a_group_without_parameters_is_left_out():
    assert len(build_optimizer(config_of(), [group_of(1), group_of()]).param_groups) == 1


# ---------------------------------------------------------------------------------------------- LARS


def lars_of(weight, bias, gradient, **changes):
    config = config_of(optimizer="lars", momentum=0.5, weight_decay=0.1, **changes)
    params = [torch.nn.Parameter(value.clone()) for value in (weight, bias)]
    for param, value in zip(params, gradient, strict=True):
        param.grad = value.clone()
    return build_optimizer(config, [ParameterGroup(params)]), params


def test_lars_moves_a_weight_by_a_share_of_its_length_and_a_bias_as_sgd():
    weight, bias = torch.tensor([[3.0, 4.0]]), torch.tensor([2.0])
    g, b = torch.tensor([[0.0, 2.0]]), torch.tensor([1.0])
    optimizer, (w, v) = lars_of(weight, bias, (g, b))
    optimizer.step()
    ratio = 1e-3 * 5 / (2 + 0.1 * 5)  # trust |w| / (|g| + decay |w|), You et al., algorithm 1
    first = 0.05 * ratio * (g + 0.1 * weight)
    torch.testing.assert_close(w.data, weight - first)
    torch.testing.assert_close(v.data, bias - 0.05 * b)  # no decay, no ratio
    optimizer.step()  # the rate is inside the momentum
    moved = w.data.clone()
    size, length = (weight - first).norm(), g.norm()
    second = 0.05 * 1e-3 * size / (length + 0.1 * size) * (g + 0.1 * (weight - first))
    torch.testing.assert_close(moved, weight - first - 0.5 * first - second)
    torch.testing.assert_close(v.data, bias - 0.05 * b * 2.5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_lars_does_not_heed_the_gradients_size(scale):
    weight, bias, g = torch.randn(3, 4), torch.zeros(3), torch.randn(3, 4)
    moved = []
    for factor in (1, scale):
        optimizer, (w, _) = lars_of(weight, bias, (g * factor, bias))
        optimizer.param_groups[0]["weight_decay"] = 0.0
        optimizer.step()
        moved.append(w.data - weight)
    torch.testing.assert_close(moved[0], moved[1])


def test_lars_leaves_zero_weights_and_zero_gradients_without_nan():
    optimizer, params = lars_of(
        torch.zeros(2, 2), torch.zeros(2), (torch.ones(2, 2), torch.zeros(2))
    )
    optimizer.step()
    assert all(bool(p.isfinite().all()) for p in params) and bool((params[0] < 0).all())


@pytest.mark.parametrize("schedule", ["constant", "step", "multistep", "cosine"])
def test_lars_follows_the_schedule_which_never_rises_after_warm_up(schedule):
    config = config_of(optimizer="lars", schedule=schedule, warmup_epochs=1.0)
    optimizer = build_optimizer(config, [group_of(1)])
    rates = []
    for step in range(101):
        set_lr(optimizer, config, step / 10)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[10:] == sorted(rates[10:], reverse=True)
