"""Copies, pickles, precision and compiled models."""

import copy
import functools
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from sim_models import (
    Model,
    attached,
    trained,
    two_steps,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from simlab.sim import (
    LossSimTracker,
    attach_sim,
    compute_loss_sim,
    compute_sim_loss,
    detach_sim,
)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("build", [attached, Model])
def test_copies_made_between_forward_and_loss_train_alike_and_apart(how, build):
    model = build()
    x = torch.randn(2, 6 if build is attached else 3, 8, 8)
    model(x)
    twin = how(model)
    assert compute_loss_sim(model).requires_grad  # the copy took nothing away, and starts empty
    assert all(len(sim._sim_pending) == 0 for _, sim in LossSimTracker(twin).holders)
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
    # two tokens that are nearly equal: divided by their tiny spread, bfloat16's rounding is all
    seen, model = [], nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    monkeypatch.setattr(
        "simlab.sim.blocks.compute_sim_loss",
        lambda y, x, kind: seen.append((y.dtype, x.dtype)) or compute_sim_loss(y, x, kind),
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
    plain, checkpointed = attached(), attached()
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    for _ in range(2):
        grads = []
        for model, run in (
            (plain, plain),
            (checkpointed, functools.partial(checkpoint, checkpointed, use_reentrant=False)),
        ):
            torch.manual_seed(1)
            y = run(x)
            assert len(LossSimTracker(model).holders[0][1]._sim_pending) == 1
            loss = y.square().mean() + compute_loss_sim(model)
            grads.append(torch.autograd.grad(loss, list(model.parameters())))
        for a, b in zip(*grads, strict=True):
            assert torch.equal(a, b)


@pytest.mark.long
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


@pytest.mark.long
def test_an_attached_model_exports_in_eval_mode_without_a_trace_of_sim():
    model, x = attached().eval(), torch.randn(2, 6, 8, 8)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
