"""The linear probe's classifiers: the right minimum, and what they say of their fit."""

import copy
import math

import pytest
import torch
from sklearn.exceptions import NotFittedError

from simlab.evaluate import LinearProbe, SGDProbe, linear

# ------------------------------------------------------------------------------------ the minimum


def correlated(n, classes=10, d=16, seed=0):
    """Correlated features [n, d] in alternating class order, as an encoder's: they condition badly."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centre = 0.7 * torch.randn(classes, d, generator=generator)
    mixing = torch.randn(d, d, generator=generator) * torch.logspace(0.5, -1.5, d)[:, None]
    return (centre[labels] + torch.randn(n, d, generator=generator)) @ mixing + 3, labels


def gradient_norm(probe, x, labels, regulariser):
    """Norm of the gradient, by coef_ and intercept_, of the objective as LinearProbe documents it."""
    x = x.double()
    x = (x - x.mean(0)) / x.std(0)
    weight = probe.coef_.clone().requires_grad_()
    bias = probe.intercept_.clone().requires_grad_()
    log_p = (x @ weight.T + bias).log_softmax(1)
    cross_entropy = -log_p[torch.arange(len(x)), labels].mean()
    (cross_entropy + regulariser * (weight**2).sum()).backward()
    return float((weight.grad.square().sum() + bias.grad.square().sum()).sqrt())


def orders_of(labels):
    generator = torch.Generator().manual_seed(1)
    return {
        "alternating": torch.arange(len(labels)),
        "class by class": labels.argsort(stable=True),
        "shuffled": torch.randperm(len(labels), generator=generator),
    }


# n // (8 D) is 1, 2 and 5: with the last two, every second or fifth row of alternating labels shows
# a solver that starts on a part of the rows half of the ten classes, or two of them
@pytest.mark.parametrize("n", [150, 300, 650])
@pytest.mark.parametrize("regulariser", [1e-3, 1e-4])
def test_the_gradient_vanishes_whatever_the_order_of_the_rows(n, regulariser, recwarn):
    x, labels = correlated(n)
    fresh, _ = correlated(1000, seed=7)
    fitted = []
    for name, order in orders_of(labels).items():
        probe = LinearProbe(regulariser).fit(x[order], labels[order])
        norm = gradient_norm(probe, x, labels, regulariser)
        assert norm < 1e-4, f"{name}: {norm}"
        fitted.append(probe)
    assert not recwarn.list
    first, *others = fitted
    for other in others:
        torch.testing.assert_close(
            other.coef_, first.coef_, rtol=0, atol=0.002 * first.coef_.abs().max()
        )
        agreement = (other.predict(fresh) == first.predict(fresh)).double().mean()
        assert agreement >= 0.998


@pytest.mark.parametrize("n, d, classes", [(40, 100, 4), (200, 5, 2), (60, 64, 2), (90, 7, 3)])
@pytest.mark.parametrize("regulariser", [1e-4, 1.0, 100.0])
def test_the_gradient_vanishes_for_two_classes_and_for_fewer_rows_than_features(
    n, d, classes, regulariser
):
    x, labels = correlated(n, classes, d)
    probe = LinearProbe(regulariser).fit(x, labels)
    assert probe.coef_.shape == (classes, d) and probe.intercept_.shape == (classes,)
    assert gradient_norm(probe, x, labels, regulariser) < 1e-4


@pytest.mark.parametrize("classes", [2, 10])
def test_where_the_solver_starts_does_not_change_where_it_ends(classes):
    x, labels = correlated(300, classes)
    cold = LinearProbe(1e-3).fit(x, labels)
    strong = LinearProbe(1.0).fit(x[:200], labels[:200])
    warm = LinearProbe(1e-3).fit(x, labels, start=strong)
    assert gradient_norm(warm, x, labels, 1e-3) < 1e-4
    largest = float(cold.coef_.abs().max())
    torch.testing.assert_close(warm.coef_, cold.coef_, rtol=0, atol=0.002 * largest)
    other_classes = LinearProbe(1.0).fit(x, labels + 1)
    unhelped = LinearProbe(1e-3).fit(x, labels, start=other_classes)
    torch.testing.assert_close(unhelped.coef_, cold.coef_, rtol=0, atol=0)


def test_the_regulariser_means_the_same_for_any_number_of_rows():
    x, labels = correlated(300)
    once = LinearProbe(0.01).fit(x, labels)
    often = LinearProbe(0.01).fit(x.repeat(7, 1), labels.repeat(7))
    torch.testing.assert_close(often.coef_, once.coef_, rtol=0.01, atol=0.01)


def test_a_solver_that_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr(linear, "MAX_ITERATIONS", 3)
    x, labels = correlated(300)
    with pytest.raises(RuntimeError, match=r"LinearProbe\(regulariser=0.01\) did not converge"):
        LinearProbe(0.01).fit(x, labels)


# --------------------------------------------------------------------------------- the classifiers


CLASSIFIERS = [LinearProbe(1e-3), SGDProbe(epochs=5)]


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=repr)
def test_logits_predictions_and_score_follow_from_the_coefficients(classifier):
    x, labels = correlated(400, classes=3)
    fitted = copy.deepcopy(classifier).fit(x, labels)
    assert fitted.coef_.dtype == torch.float64 and fitted.classes_.tolist() == [0, 1, 2]
    fresh, truth = correlated(100, classes=3, seed=3)
    logits = (fresh.double() - fitted.mean_) / fitted.scale_ @ fitted.coef_.T + fitted.intercept_
    torch.testing.assert_close(fitted.logits(fresh), logits)
    assert torch.equal(fitted.predict(fresh), logits.argmax(1))
    assert fitted.score(fresh, truth) == pytest.approx((logits.argmax(1) == truth).double().mean())
    assert fitted.score(x, labels) > 0.6


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=repr)
def test_labels_need_not_be_consecutive(classifier):
    x, labels = correlated(300, classes=3)
    plain = copy.deepcopy(classifier).fit(x, labels)
    sparse = copy.deepcopy(classifier).fit(x, torch.tensor([2, 5, 9])[labels])
    assert sparse.classes_.tolist() == [2, 5, 9]
    assert torch.equal(sparse.predict(x), torch.tensor([2, 5, 9])[plain.predict(x)])


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=repr)
def test_rows_that_nothing_can_be_fitted_to_are_refused(classifier):
    x, labels = correlated(30, classes=3)
    classifier = copy.deepcopy(classifier)
    with pytest.raises(ValueError, match=r"shape \[30, 16\] and labels of shape \[29\]"):
        classifier.fit(x, labels[1:])
    with pytest.raises(ValueError, match=r"shape \[30\].*expected \[N, D\] and \[N\]"):
        classifier.fit(x[:, 0], labels)
    with pytest.raises(ValueError, match="all labels are 4: expected at least two classes"):
        classifier.fit(x, torch.full_like(labels, 4))
    with pytest.raises(ValueError, match=r"10 of 30 images have no label \(-1\)"):
        classifier.fit(x, labels - 1)
    for bad in (math.nan, math.inf):
        broken = x.clone()
        broken[3, 2] = bad
        with pytest.raises(FloatingPointError, match="NaN or infinity"):
            classifier.fit(broken, labels)


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=repr)
def test_a_classifier_says_what_it_was_fitted_to(classifier):
    x, labels = correlated(60, classes=3)
    classifier = copy.deepcopy(classifier)
    with pytest.raises(NotFittedError, match=r"call fit\(features, labels\) first"):
        classifier.predict(x)
    classifier.fit(x, labels)
    with pytest.raises(ValueError, match=r"shape \[60, 15\]: expected \[M, 16\]"):
        classifier.logits(x[:, 1:])


@pytest.mark.parametrize("value", [0, -0.1, math.inf, math.nan])
def test_a_regulariser_that_is_no_positive_number_is_refused(value):
    with pytest.raises(ValueError, match=f"regulariser={value}"):
        LinearProbe(value)


def test_sgd_repeats_itself_by_its_seed_and_leaves_the_global_one_alone():
    x, labels = correlated(300)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (SGDProbe(epochs=2, seed=seed).fit(x, labels) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.coef_, again.coef_)
    assert not torch.allclose(one.coef_, other.coef_)


def test_sgd_is_the_papers_recipe():
    """One epoch of two batches by hand: momentum .9, no decay, lr 30 falling as half a cosine."""
    x, labels = correlated(600, classes=3, d=4)
    x = x / 100
    generator = torch.Generator().manual_seed(2)
    weight = 0.01 * torch.randn(3, 4, generator=generator)
    bias = torch.zeros(3)
    order = torch.randperm(600, generator=generator)
    velocity = [torch.zeros(3, 4), torch.zeros(3)]
    for step in range(2):
        index = order[256 * step : 256 * (step + 1)]
        excess = (x[index] @ weight.T + bias).softmax(1)
        excess[torch.arange(256), labels[index]] -= 1
        gradients = [excess.T @ x[index] / 256, excess.mean(0)]
        velocity = [0.9 * v + g for v, g in zip(velocity, gradients)]
        rate = 30 * 0.5 * (1 + math.cos(math.pi * step / 2))
        weight = weight - rate * velocity[0]
        bias = bias - rate * velocity[1]
    fitted = SGDProbe(epochs=1, seed=2).fit(x, labels)
    torch.testing.assert_close(fitted.coef_.float(), weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fitted.intercept_.float(), bias, rtol=1e-4, atol=1e-5)


def test_a_batch_smaller_than_256_has_a_learning_rate_in_proportion():
    x, labels = correlated(64, classes=3, d=4)
    x = x / 100
    fitted = SGDProbe(epochs=1, seed=2).fit(x, labels)
    start = 0.01 * torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    excess = (x @ start.T).softmax(1)
    excess[torch.arange(64), labels] -= 1
    expected = start - 30 * 64 / 256 * excess.T @ x / 64
    torch.testing.assert_close(fitted.coef_.float(), expected, rtol=1e-4, atol=1e-5)
