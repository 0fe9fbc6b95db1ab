"""SIM gives the numbers of the published algorithm wherever that gives any."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from published_sim import Reference
from sim_models import (
    VERSIONS,
    Model,
    decorated,
    step,
)
from torch import nn

from simlab.sim import (
    LOSS_TYPES,
    LossSimTracker,
    compute_loss_sim,
)

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


@pytest.mark.long
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
