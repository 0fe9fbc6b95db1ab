"""Training gives the same bits every time, and leaves the caller's random numbers alone."""

import dataclasses

import pytest
import torch
from tiny_runs import (
    flat,
    outcome,
    pretrain_config,
    random_data,
    same,
)

from simlab.data import Images
from simlab.train import (
    pretrain,
    untrained,
)
from simlab.train import run as train
from simlab.train import views as views_of


@pytest.mark.parametrize("encoder", [None, flat()], ids=["tiny", "with dropout"])
def test_the_same_configuration_gives_the_same_bits(encoder, tmp_path):
    results = []
    for folder in ("a", "b"):
        torch.rand(3)  # what the caller drew before does not matter
        config = pretrain_config(epochs=2)
        options = {"folder": str(tmp_path / folder), "progress": False, "encoder": encoder}
        results.append(outcome(pretrain(config, random_data(), **options)))
    assert same(*results)


def test_what_a_callback_draws_does_not_change_the_run(tmp_path):
    plain, drawing = (
        pretrain(
            pretrain_config(epochs=2), random_data(), encoder=flat(), progress=False,
            folder=str(tmp_path / name), on_epoch=callback,
        )
        for name, callback in (("a", None), ("b", lambda history: torch.rand(5)))
    )  # fmt: skip
    assert same(outcome(plain), outcome(drawing))


@pytest.mark.parametrize("again", [False, True], ids=["trained", "loaded"])
def test_the_callers_random_numbers_and_threads_are_left_alone(again, run_options):
    config = pretrain_config()
    run_options["encoder"] = flat()
    if again:
        pretrain(config, random_data(), **run_options)
    torch.manual_seed(5)
    expected = torch.rand(4)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    pretrain(dataclasses.replace(config, threads=threads + 1), random_data(), **run_options)
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_num_threads() == threads


def test_the_number_of_threads_is_the_one_asked_for_and_is_recorded(run_options):
    seen = []
    run = pretrain(
        pretrain_config(threads=2), random_data(), **run_options, encoder=flat(),
        on_epoch=lambda history: seen.append(torch.get_num_threads()),
    )  # fmt: skip
    assert seen == [2] and run.result["environment"]["threads"] == 2


def first_weights(config, monkeypatch, run_options) -> dict:
    """The network's weights as the loop gets them."""
    weights = {}

    def stop(task, *_):
        weights.update(task.network.state_dict())
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "fit", stop)
        pretrain(config, random_data(), **run_options)
    return weights


def test_the_seed_is_set_before_the_model_is_built(monkeypatch, run_options):
    torch.manual_seed(1)
    first = first_weights(pretrain_config(), monkeypatch, run_options)
    torch.manual_seed(2)
    assert same(first, first_weights(pretrain_config(), monkeypatch, run_options))
    other = first_weights(pretrain_config(seed=1), monkeypatch, run_options)
    for name in ("encoder.stem.0.weight", "projector.0.weight", "predictor.0.weight"):
        assert not torch.equal(first[name], other[name])
    baseline = untrained(pretrain_config(), random_data()).state_dict()
    assert all(torch.equal(value, first[f"encoder.{name}"]) for name, value in baseline.items())


@pytest.mark.long
def test_every_epoch_has_an_own_order_with_each_image_at_most_once(monkeypatch, run_options):
    orders, seeds = [], set()
    batches, views_at_once = Images.batches, views_of.views_at_once

    def spy(self, order, batch_size):
        if batch_size == 16:
            orders.append(order.tolist())
        return batches(self, order, batch_size)

    def seed_spy(*args):
        seeds.add(args[-2].initial_seed())
        return views_at_once(*args)

    monkeypatch.setattr(Images, "batches", spy)
    monkeypatch.setattr(views_of, "views_at_once", seed_spy)
    pretrain(pretrain_config(epochs=3), random_data(37), **run_options)
    pretrain(pretrain_config(epochs=3, seed=1), random_data(37), **run_options)
    assert len(orders) == 6 and len(seeds) == 6
    for order in orders:
        assert len(order) == 32 == len(set(order)) and set(order) <= set(range(37))
    assert len({tuple(order) for order in orders}) == 6
    assert len({frozenset(order) for order in orders}) > 1  # those left out differ as well
    assert set().union(*orders) == set(range(37))
