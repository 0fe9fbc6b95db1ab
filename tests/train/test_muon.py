"""Muon: orthogonal steps for matrices, as torch's own where it has one, and SGD for vectors."""

import math

import pytest
import torch

from simlab.config import PretrainConfig
from simlab.methods import ParameterGroup
from simlab.train.muon import VECTOR_LR, Muon, orthogonalise
from simlab.train.optim import build_optimizer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12), (1, 9)])
def test_an_orthogonalised_matrix_has_singular_values_near_one_and_the_same_directions(shape):
    matrix = normal(*shape)
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert result.shape == shape and values.min() > 0.6 and values.max() < 1.25
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ result @ vh.T  # diagonal, where the directions are the same
    assert (core - core.diag().diag()).abs().max() < 1e-3
    torch.testing.assert_close(orthogonalise(1000 * matrix), result, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12)])
def test_matrices_move_as_by_torchs_muon(shape):
    """torch iterates in bfloat16, so that the two agree to about a hundredth of a step."""
    weights = [torch.nn.Parameter(normal(*shape, seed=1)) for _ in range(2)]
    ours = Muon([weights[0]], lr=0.02, momentum=0.9, weight_decay=0.1)
    theirs = torch.optim.Muon([weights[1]], lr=0.02, momentum=0.9, weight_decay=0.1)
    for step in range(4):
        before = weights[1].detach().clone()
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = normal(*shape, seed=10 + step)
            optimizer.step()
        moved = (weights[1] - before).norm()
        assert (weights[0] - weights[1]).norm() < 0.1 * moved
        with torch.no_grad():
            weights[0].copy_(weights[1])


def test_a_convolution_is_a_matrix_of_its_output_channels():
    kernel = torch.nn.Parameter(normal(8, 4, 3, 3))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    optimizer = Muon([kernel, matrix], lr=0.02, momentum=0.9, weight_decay=0.0)
    kernel.grad = normal(8, 4, 3, 3, seed=2)
    matrix.grad = kernel.grad.flatten(1).clone()
    optimizer.step()
    torch.testing.assert_close(kernel.flatten(1), matrix)
    assert not torch.allclose(kernel, normal(8, 4, 3, 3))


def test_vectors_move_by_sgd_at_their_own_learning_rate_and_do_not_decay():
    vector = torch.nn.Parameter(torch.ones(5))
    optimizer = Muon([vector], lr=0.02, momentum=0.5, weight_decay=0.9)
    gradient = torch.arange(5.0)
    for _ in range(2):
        vector.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(vector.detach(), 1 - VECTOR_LR * 0.02 * (1 + 1.5) * gradient)


def test_weight_decay_shrinks_a_matrix_apart_from_its_step():
    weights = [torch.nn.Parameter(normal(6, 6)) for _ in range(2)]
    start = normal(6, 6)
    for weight, decay in zip(weights, (0.0, 0.5), strict=True):
        optimizer = Muon([weight], lr=0.1, momentum=0.0, weight_decay=decay)
        weight.grad = normal(6, 6, seed=3)
        optimizer.step()
    torch.testing.assert_close(weights[1] - weights[0], -0.05 * start)


def test_the_configuration_builds_it_with_the_groups_learning_rates():
    config = PretrainConfig(optimizer="muon", lr=0.08, batch_size=64, momentum=0.95)
    groups = [ParameterGroup([torch.nn.Parameter(normal(3, 3))], lr_factor=2.0)]
    optimizer = build_optimizer(config, groups)
    assert isinstance(optimizer, Muon)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
    assert optimizer.param_groups[0]["lr_factor"] == 2 and math.isclose(
        optimizer.param_groups[0]["momentum"], 0.95
    )
