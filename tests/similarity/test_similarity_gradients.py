"""cka_loss has the gradient of 1 - CKA; the measures, which have none, say so."""

import re
from pathlib import Path

import pytest
import torch
from small_features import normal, related
from torch import nn

from simlab import similarity
from simlab.similarity import MEASURES, Representation, cka_loss, cka_similarity, compare

# all but those that need logits
ANY_LAYER = [name for name in MEASURES if name not in ("disagreement", "jensen_shannon")]

ROOT = Path(__file__).parent.parent.parent
FUNCTIONS = [
    name for name in similarity.__all__ if name.endswith(("_similarity", "_distance", "hsic"))
]


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("widths", [(4, 3), (9, 7)])  # by features, and by Grams
def test_cka_loss_is_one_less_cka_with_its_gradient(widths, debiased):
    x, y = related(n=7, p=widths[0], q=widths[1])
    assert cka_loss(x, y, debiased=debiased).item() == pytest.approx(
        1 - cka_similarity(x, y, debiased=debiased), abs=1e-10
    )
    inputs = [v.clone().requires_grad_() for v in (x, y)]
    assert torch.autograd.gradcheck(lambda a, b: cka_loss(a, b, debiased=debiased), inputs)
    # By hand as well: a step along one feature of one sample.
    (gradient,) = torch.autograd.grad(cka_loss(*inputs, debiased=debiased), inputs[:1])
    step = torch.zeros_like(x)
    step[3, 1] = 1e-6
    ahead, back = (cka_similarity(x + s, y, debiased=debiased) for s in (step, -step))
    assert gradient[3, 1].item() == pytest.approx((back - ahead) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("debiased", [True, False])
def test_the_gradient_in_float32_is_that_of_float64_at_any_mean_and_scale(debiased):
    for widths in ((6, 5), (40, 60)):
        x, y = related(n=24, p=widths[0], q=widths[1])
        exact = x.clone().requires_grad_()
        cka_loss(exact, y, debiased=debiased).backward()
        for scale, mean in ((1.0, 0.0), (1.0, 30.0), (1e-15, 0.0), (1e15, 0.0)):
            single = ((x + mean) * scale).float().requires_grad_()
            cka_loss(single, y.float(), debiased=debiased).backward()
            error = (single.grad.double() * scale - exact.grad).norm() / exact.grad.norm()
            assert error < 1e-4, (scale, mean)


def test_the_gradient_of_cka_is_the_closed_form_of_the_biased_one():
    """d<K, L>/dX = 2 L X for centred Grams, so 1 - c has -2 c (L/<K, L> - K/<K, K>) X."""
    x, y = related(n=12)
    x = (x - x.mean(0)).requires_grad_()
    cka_loss(x, y, debiased=False).backward()
    with torch.no_grad():
        y = y - y.mean(0)
        k, m = x @ x.T, y @ y.T
        c = cka_similarity(x, y, debiased=False)
        expected = -2 * c * (m / (k * m).sum() - k / k.square().sum()) @ x
    assert torch.allclose(x.grad, expected)


def test_half_precision_and_autocast_lose_nothing_in_the_products():
    x, y = related(n=24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = cka_loss(x.float(), y.float())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(1 - cka_similarity(x, y), abs=1e-5)
    half = x.bfloat16().requires_grad_()
    cka_loss(half, y.bfloat16()).backward()
    assert half.grad.dtype == torch.bfloat16 and half.grad.isfinite().all()


def test_cka_loss_refuses_what_has_no_cka():
    x, y = related(n=12)
    with pytest.raises(ValueError, match="y is constant"):
        cka_loss(x, torch.ones(12, 3))
    with pytest.raises(ValueError, match="x is constant, not finite, or"):
        cka_loss(torch.eye(12), y)
    with pytest.raises(ValueError, match="not finite"):
        cka_loss(x * torch.nan, y)
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        cka_loss(x[:3], y[:3])
    with pytest.raises(ValueError, match=r"\(12, 12\) and \(11, 9\)"):
        cka_loss(x, y[:11])
    with pytest.raises(TypeError, match="y must be a tensor of floats"):
        cka_loss(x, y.numpy())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_measures_refuse_tensors_that_require_grad(name):
    measure = getattr(similarity, name)
    x, y = related()
    others = (normal(60, 3),) if name.startswith("deconfounded") else ()
    for pair in ((x.clone().requires_grad_(), y), (x, y.clone().requires_grad_())):
        with pytest.raises(TypeError, match=r"cka_loss\(x, y\)"):
            measure(*pair, *others)
        with torch.no_grad():  # nobody expects a gradient
            assert measure(*pair, *others) == measure(x, y, *others)


def test_a_gram_that_requires_grad_is_refused():
    x = related()[0].requires_grad_()
    with pytest.raises(TypeError, match="cka_loss"):
        Representation.from_gram(x @ x.T)


def test_nothing_requires_grad_inside_compare():
    seen = []

    def measure(x, y):
        seen.append(x.requires_grad or y.requires_grad)
        return cka_similarity(x, y)

    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5))
    data = torch.randn(30, 8, requires_grad=True)
    compare(model, data, measures=[measure, *ANY_LAYER], samples=30)
    assert seen and not any(seen)


def test_the_readmes_distillation_brings_the_student_nearer():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = [x for x in re.findall(r"```python\n(.*?)```", readme, re.S) if "cka_loss" in x]
    torch.manual_seed(0)
    names = {}
    exec(lines.replace("print(", "losses.append("), {"losses": (losses := [])} | names)
    assert losses[-1] < losses[0] / 2
