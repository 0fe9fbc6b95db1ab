"""The vector SimSiam against golden values of its document, torch's autograd, and finite
differences."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from simlab.vector import (
    DimensionMismatch,
    InvalidParameter,
    LcgRng,
    TorchHeads,
    VectorSimSiam,
    VectorSimSiamConfig,
)

SMALL = VectorSimSiamConfig(d_encoder=16, d_projector=32, d_predictor=16, d_out=8)
TOLERANCE = 2e-6  # float32 sums in another order


def model(seed=1, config=SMALL):
    return VectorSimSiam(config, LcgRng(seed))


def vector(seed, shape=16):
    return LcgRng(seed).fill_normal(shape)


def double(m):
    """The same model with float64 weights, which then computes in float64."""
    m = m.copy()
    m.weights = {name: w.astype(np.float64) for name, w in m.weights.items()}
    return m


# -- golden values ------------------------------------------------------------------------------


def test_the_initial_weights_are_golden():
    w = model().weights
    assert w["proj_w1"][0, 0] == pytest.approx(0.109104335, abs=TOLERANCE)
    assert w["pred_w2"][-1, -1] == pytest.approx(0.5563385, abs=TOLERANCE)
    sums = [w[name].sum() for name in ("proj_w1", "proj_w2", "pred_w1", "pred_w2")]
    assert sums == pytest.approx([4.902252, -1.910581, 8.258429, 0.513842], abs=2e-5)
    assert not any(w[name].any() for name in ("proj_b1", "proj_b2", "pred_b1", "pred_b2"))


@pytest.mark.parametrize(
    "config, seeds, expected",
    [
        (SMALL, (1, 2, 3), -0.22091419),
        (SMALL, (5, 6, 7), -0.03719279),
        (SMALL, (8, 9, 10), -0.38149792),
        (VectorSimSiamConfig(), (42, 1, 2), 0.039904773),
    ],
)
def test_the_loss_is_golden(config, seeds, expected):
    x1, x2 = (vector(s, config.d_encoder) for s in seeds[1:])
    assert model(seeds[0], config).loss(x1, x2) == pytest.approx(expected, abs=TOLERANCE)


# -- properties of the model --------------------------------------------------------------------


def test_projections_and_predictions_are_unit_vectors_of_length_d_out():
    m = model()
    z = m.project(vector(2, (5, 16)))
    for out in (z, m.predict(z)):
        assert out.shape == (5, m.d_out) == (5, 8)
        assert np.linalg.norm(out, axis=1) == pytest.approx(np.ones(5), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 1000), st.integers(0, 1000))
def test_the_loss_is_between_minus_one_and_one_and_symmetric(seed, s1, s2):
    m, x1, x2 = model(seed), vector(s1), vector(s2)
    loss = m.loss(x1, x2)
    assert abs(loss) <= 1 + TOLERANCE
    assert m.loss(x2, x1) == pytest.approx(loss, abs=1e-7)


def test_the_loss_depends_on_both_views():
    m = model()
    assert len({round(m.loss(vector(a), vector(b)), 4) for a, b in [(2, 3), (2, 4), (5, 3)]}) == 3


def test_the_loss_of_a_batch_is_the_mean_of_its_rows():
    m, x1, x2 = model(), vector(2, (6, 16)), vector(3, (6, 16))
    rows = [m.loss(a, b) for a, b in zip(x1, x2)]
    assert m.loss(x1, x2) == pytest.approx(np.mean(rows), abs=1e-6)


@pytest.mark.parametrize("d_out", [1, 2, 8])
def test_the_identity_predictor_gives_the_minimum_for_equal_views(d_out):
    m = model(3, VectorSimSiamConfig(16, 32, 2 * d_out, d_out))
    m.weights["pred_b1"] += 0.7  # left over from training; the identity must clear both biases
    m.weights["pred_b2"] -= 0.3
    x = vector(4, (10, 16))
    assert m.loss(x, x) > -0.9 or d_out == 1
    m.set_identity_predictor()
    assert m.loss(x, x) == pytest.approx(-1, abs=1e-6)
    assert m.predict(m.project(x)) == pytest.approx(m.project(x), abs=1e-6)
    if d_out > 1:
        assert m.loss(x, -x) > -0.99


def test_the_identity_predictor_needs_twice_the_width_and_else_changes_nothing():
    m = model(1, VectorSimSiamConfig(16, 32, 15, 8))
    before = m.copy()
    with pytest.raises(InvalidParameter, match="16, got 15"):
        m.set_identity_predictor()
    assert all((m.weights[k] == before.weights[k]).all() for k in m.weights)


def test_all_zero_input_meets_the_norms_floor_and_gives_zero():
    m = model()
    assert not m.project(np.zeros(16)).any()
    assert m.loss(np.zeros(16), vector(2)) == 0


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, VectorSimSiam.copy])
def test_a_copy_is_equal_and_independent(how):
    m = model()
    twin = how(m)
    x1, x2 = vector(2), vector(3)
    before = m.loss(x1, x2)
    assert twin.loss(x1, x2) == before
    twin.weights["proj_w1"][:] = 0
    twin.weights["pred_w2"] = twin.weights["pred_w2"] * 2
    assert m.loss(x1, x2) == before


def test_the_repr_tells_the_widths_and_the_number_of_parameters():
    total = sum(p.numel() for p in model().to_torch().parameters())
    assert repr(model()) == (
        "VectorSimSiam(VectorSimSiamConfig(d_encoder=16, d_projector=32, "
        f"d_predictor=16, d_out=8), {total:,} parameters)"
    )
    assert eval(repr(LcgRng(4)), {"LcgRng": lambda state: state}) == 5


# -- kinds of input -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [16, (3, 16)])
def test_arrays_tensors_and_lists_give_the_same_numbers_in_their_own_kind(shape):
    m, a, b = model(), vector(2, shape), vector(3, shape)
    for call in (m.project, lambda x: m.predict(m.project(x)), lambda x: m.gradients(x, b)["x1"]):
        array, tensor, rows = call(a), call(torch.tensor(a, requires_grad=True)), call(a.tolist())
        assert isinstance(array, np.ndarray) and array.dtype == np.float32
        assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
        assert isinstance(rows, list)
        assert array.tolist() == tensor.tolist() == rows
    assert m.loss(a, b) == m.loss(torch.tensor(a), b.tolist()) == m.loss(a.astype(np.float64), b)
    assert isinstance(m.loss(a, b), float)


# -- errors -------------------------------------------------------------------------------------

FIELDS = ["d_encoder", "d_projector", "d_predictor", "d_out"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=4, max_size=4))
def test_the_first_dimension_under_one_is_named(dims):
    bad = [name for name, d in zip(FIELDS, dims) if d < 1]
    if bad:
        with pytest.raises(InvalidParameter, match=f"^{bad[0]} must be"):
            VectorSimSiamConfig(*dims)
    else:
        assert VectorSimSiam(VectorSimSiamConfig(*dims), LcgRng(0)).d_out == dims[3]


@pytest.mark.parametrize("bad", [2.0, "8", None])
def test_a_dimension_must_be_an_integer(bad):
    with pytest.raises(InvalidParameter, match="d_out"):
        VectorSimSiamConfig(d_out=bad)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.booleans())
def test_a_wrong_length_tells_expected_and_got(n, batch):
    m = model()
    x = np.zeros((2, n) if batch else n, np.float32)
    for call, length in ((m.project, 16), (m.predict, 8), (lambda x: m.loss(x, x), 16)):
        if n == length:
            call(x)
            continue
        with pytest.raises(DimensionMismatch) as error:
            call(x)
        assert (error.value.expected, error.value.got) == (length, n)
        assert f"expected {length}, got {n}" in str(error.value)


def test_views_of_unequal_batches_are_a_mismatch():
    with pytest.raises(DimensionMismatch, match="expected 3, got 2"):
        model().loss(vector(1, (3, 16)), vector(1, (2, 16)))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 16)),
        np.zeros((1, 2, 16)),
        1.0,
        None,
        [math.nan] * 16,
        [1e39] * 16,
        torch.full((16,), math.inf),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_is_not_a_finite_vector_or_batch_is_refused(bad):
    with pytest.raises(InvalidParameter, match="of finite numbers"):
        model().project(bad)


@pytest.mark.parametrize("bad", [[[1.0], [2.0, 3.0]], ["a"] * 16])
def test_what_is_no_array_of_numbers_is_refused_by_numpy(bad):
    with pytest.raises(ValueError):
        model().project(bad)


def test_every_error_is_a_value_error():
    for error in (InvalidParameter, DimensionMismatch):
        assert issubclass(error, ValueError)


# -- torch --------------------------------------------------------------------------------------


def with_biases(m):
    for i, name in enumerate(n for n in m.weights if "_b" in n):
        m.weights[name] = 0.3 * vector(100 + i, m.weights[name].shape)
    return m


@pytest.mark.parametrize("shape", [16, (5, 16)])
def test_the_torch_heads_give_the_same_projection_prediction_and_loss(shape):
    m = with_biases(model())
    x1, x2 = torch.tensor(vector(2, shape)), torch.tensor(vector(3, shape))
    heads = m.to_torch()
    z = heads.project(x1)
    assert torch.allclose(z, m.project(x1), atol=TOLERANCE)
    assert torch.allclose(heads.predict(z), m.predict(m.project(x1)), atol=TOLERANCE)
    for stop in (True, False):
        assert heads(x1, x2, stop).item() == pytest.approx(m.loss(x1, x2), abs=TOLERANCE)


def test_weights_survive_the_way_to_torch_and_back_and_are_copies():
    m = with_biases(model())
    heads = m.to_torch()
    back = VectorSimSiam.from_torch(heads)
    assert back.config == m.config and list(back.weights) == list(m.weights)
    assert all((back.weights[k] == m.weights[k]).all() for k in m.weights)
    nn.init.zeros_(heads.projector[0].weight)
    assert back.weights["proj_w1"].any() and m.weights["proj_w1"].any()
    assert all(p.requires_grad and p.is_leaf for p in heads.parameters())


def test_to_torch_leaves_torchs_random_numbers_alone():
    state = torch.get_rng_state()
    model().to_torch()
    assert (torch.get_rng_state() == state).all()


def test_heads_trained_in_torch_come_back_with_the_trained_loss():
    heads = model().to_torch()
    x1, x2 = torch.tensor(vector(2, (8, 16))), torch.tensor(vector(3, (8, 16)))
    start = heads(x1, x2).item()
    for _ in range(20):
        heads.zero_grad()
        heads(x1, x2).backward()
        with torch.no_grad():
            for weight in heads.parameters():
                weight -= 0.5 * weight.grad
    trained = VectorSimSiam.from_torch(heads).loss(x1, x2)
    assert trained == pytest.approx(heads(x1, x2).item(), abs=TOLERANCE) and trained < start - 0.2


def test_from_torch_refuses_other_heads():
    def broken(**parts):
        heads = TorchHeads(SMALL)
        for name, module in parts.items():
            setattr(heads, name, module)
        return heads

    relu = nn.ReLU()
    with_bn = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), relu, nn.Linear(32, 8))
    no_bias = nn.Sequential(nn.Linear(16, 32, bias=False), relu, nn.Linear(32, 8))
    wrong = nn.Sequential(nn.Linear(7, 16), relu, nn.Linear(16, 8))
    with_gelu = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
    for module, match in (
        (broken(projector=with_bn), "BatchNorm1d"),
        (broken(projector=with_gelu), "GELU"),
        (broken(projector=no_bias), "bias=False"),
        (broken(predictor=wrong), "(?s)in_features=8.*got.*in_features=7"),
    ):
        with pytest.raises(InvalidParameter, match=match):
            VectorSimSiam.from_torch(module)
    with pytest.raises(AttributeError, match="projector"):
        VectorSimSiam.from_torch(nn.Linear(3, 3))


# -- gradients ----------------------------------------------------------------------------------

TORCH_NAMES = {"proj": "projector", "pred": "predictor", "w": "weight", "b": "bias"}


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("shape", [16, (7, 16)])
def test_hand_derived_gradients_equal_autograd(stop, shape):
    m = double(with_biases(model()))
    heads = m.to_torch()
    x1, x2 = (torch.tensor(vector(s, shape), dtype=torch.float64).requires_grad_() for s in (2, 3))
    heads(x1, x2, stop).backward()
    grads = m.gradients(x1, x2, stop)
    for name, w in m.weights.items():
        head, (kind, i) = name.split("_")
        layer = getattr(heads, TORCH_NAMES[head])[0 if i == "1" else 2]
        expected = getattr(layer, TORCH_NAMES[kind]).grad.numpy()
        assert expected.any() and grads[name].shape == w.shape
        assert grads[name] == pytest.approx(expected, abs=1e-13), name
    for x, name in ((x1, "x1"), (x2, "x2")):
        assert torch.allclose(grads[name], x.grad, rtol=0, atol=1e-13), name


def test_without_stop_gradient_they_are_the_slopes_of_the_loss():
    """Finite differences know nothing of stop-gradient; with it, the projector's must differ."""
    m = double(with_biases(model()))
    x1, x2 = vector(2, (4, 16)), vector(3, (4, 16))
    free, stopped = m.gradients(x1, x2, stop_gradient=False), m.gradients(x1, x2)
    for n, (name, w) in enumerate(m.weights.items()):
        direction = vector(50 + n, w.shape).astype(np.float64)
        ends = []
        for step in (1e-6, -1e-6):
            moved = m.copy()
            moved.weights[name] = w + step * direction
            ends.append(double_loss(moved, x1, x2))
        slope = (ends[0] - ends[1]) / 2e-6
        assert (free[name] * direction).sum() == pytest.approx(slope, abs=1e-7), name
        same = np.allclose(free[name], stopped[name], rtol=0, atol=1e-12)
        assert same == name.startswith("pred"), name  # the targets do not depend on the predictor


def double_loss(m, x1, x2):
    """The loss from `project` and `predict`, without passing through float32."""
    z1, z2 = m._apply("proj", x1), m._apply("proj", x2)
    return -(m._apply("pred", z1) * z2 + m._apply("pred", z2) * z1).sum(1).mean() / 2


def test_stop_gradient_through_the_identity_predictor_is_exactly_half_the_slope():
    """p1.z2 and p2.z1 are then one product: each view is pulled once instead of twice."""
    m = double(model())
    m.set_identity_predictor()
    x1, x2 = vector(2), vector(3)
    free, stopped = m.gradients(x1, x2, stop_gradient=False), m.gradients(x1, x2)
    for name in ("proj_w1", "proj_w2", "x1", "x2"):
        assert free[name] == pytest.approx(2 * stopped[name], abs=1e-6)


def test_gradients_in_float32_stay_float32_and_leave_the_weights_alone():
    m = model()
    before = m.copy()
    grads = m.gradients(vector(2), vector(3))
    assert all(g.dtype == np.float32 for g in grads.values())
    assert all((m.weights[k] == before.weights[k]).all() for k in m.weights)


def test_gradients_under_the_norms_floor_are_those_of_torch():
    m = double(with_biases(model()))  # without biases p ignores the length of z, and so the floor
    m.weights["proj_b1"] *= 0
    m.weights["proj_b2"] *= 1e-12  # with x = 0: a projection shorter than the floor
    assert 1e-13 < np.linalg.norm(m.weights["proj_b2"]) < 1e-12
    x = torch.zeros(16, dtype=torch.float64)
    other = torch.tensor(vector(3), dtype=torch.float64)
    heads = m.to_torch()
    heads(x, other).backward()
    expected = heads.projector[2].bias.grad.numpy()
    assert np.abs(expected).max() > 1e9  # the floor is 1e-12
    assert m.gradients(x, other)["proj_b2"] == pytest.approx(expected, rel=1e-9)


def test_descending_without_stop_gradient_reaches_minus_one_on_equal_outputs():
    """The paper's collapse, by hand: the loss falls to its minimum as all projections agree."""
    m = model(5)
    x1, x2 = vector(11, (32, 16)), vector(12, (32, 16))  # views that share nothing
    for _ in range(600):
        grads = m.gradients(x1, x2, stop_gradient=False)
        m.weights = {name: w - np.float32(1.0) * grads[name] for name, w in m.weights.items()}
    z = m.project(np.concatenate([x1, x2]))
    assert m.loss(x1, x2) < -0.98 and z.std(0).mean() * math.sqrt(8) < 0.15
