"""The linear probe: the right minimum, an honest choice, and nothing learned from the test images."""

import copy
import math

import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from simlab.augment import RECIPES, Normalize
from simlab.data import Dataset, Images, from_arrays
from simlab.evaluate import (
    Features,
    LinearProbe,
    SGDProbe,
    encode,
    factor_scores,
    linear,
    linear_probe,
    predictions,
    probe_table,
    raw_pixels,
    stratified,
)
from simlab.evaluate.probe import REGULARISERS


def blobs(n=600, d=20, classes=5, spread=2.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(classes, d, generator=generator) * spread / d**0.5

    def draw(m):
        y = torch.arange(m) % classes
        scale = torch.logspace(-1, 1, d)  # features of very different size
        return (middle[y] + torch.randn(m, d, generator=generator)) * scale + 3, y

    return Features(*draw(n), *draw(400))


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


# -------------------------------------------------------------------------------------- the protocol


@pytest.mark.parametrize("solver", ["newton-cg", "sgd"])
def test_the_stored_classifier_has_the_stored_accuracy_and_needs_no_second_fit(solver, monkeypatch):
    feats = blobs()
    probe = linear_probe(feats, 100, seed=1, solver=solver, epochs=3)
    assert probe.classifier.score(feats.test, feats.test_labels) == probe.accuracy
    predicted = probe.classifier.predict(feats.test)
    assert torch.equal(predictions(feats, 100, seed=1, solver=solver, epochs=3), predicted)
    labelled = stratified(feats.train_labels, 100, torch.Generator().manual_seed(1))
    again = copy.deepcopy(probe.classifier).fit(feats.train[labelled], feats.train_labels[labelled])
    largest = float(again.coef_.abs().max())  # with Newton-CG, which began elsewhere
    torch.testing.assert_close(again.coef_, probe.classifier.coef_, rtol=0, atol=0.002 * largest)


def test_equality_repr_and_table_are_of_the_numbers_alone():
    feats = blobs()
    one, again = linear_probe(feats, 100), linear_probe(feats, 100)
    assert one == again and one.classifier is not again.classifier
    assert "classifier" not in repr(one)
    assert one.numbers() == {
        "accuracy": one.accuracy, "validation": one.validation, "regulariser": one.regulariser,
        "labels": 100, "tested": 400, "seed": 0, "solver": "newton-cg", "views": 1, "epochs": 0,
    }  # fmt: skip
    table = probe_table({"blobs": feats}, [100], [0])
    assert table.to_dict("records") == [{"encoder": "blobs"} | one.numbers()]
    by_sgd = probe_table({"blobs": feats}, [100], [0], solver="sgd", epochs=2)
    assert by_sgd["solver"].item() == "sgd" and by_sgd["epochs"].item() == 2


def test_the_held_out_images_alone_choose_the_regulariser():
    """The chosen one has the lowest loss of all on the first fifth of the draw, by a plain grid."""
    for seed in range(4):
        feats = blobs(spread=1.5)
        probe = linear_probe(feats, 100, seed)
        labelled = stratified(feats.train_labels, 100, torch.Generator().manual_seed(seed))
        held_out, rest = labelled[:20], labelled[20:]
        losses, accuracies = {}, {}
        for regulariser in REGULARISERS:
            fitted = LinearProbe(regulariser).fit(feats.train[rest], feats.train_labels[rest])
            log_p = fitted.logits(feats.train[held_out]).log_softmax(1)
            losses[regulariser] = -log_p[torch.arange(20), feats.train_labels[held_out]].mean()
            accuracies[regulariser] = fitted.score(
                feats.train[held_out], feats.train_labels[held_out]
            )
        assert probe.regulariser == min(losses, key=losses.get)
        assert probe.validation == accuracies[probe.regulariser]


def test_a_class_with_a_single_image_does_not_stop_the_probe():
    """With all labels, unbalanced: held out, it is predicted wrong; else it is learned."""
    feats = blobs(n=200)
    labels = feats.train_labels.clone()
    labels[11] = 5
    for seed in range(8):
        probe = linear_probe(feats._replace(train_labels=labels), seed=seed)
        assert probe.classifier.classes_.tolist() == [0, 1, 2, 3, 4, 5]
        assert math.isfinite(probe.validation) and probe.accuracy > 0.5


def test_the_test_labels_choose_nothing():
    feats = blobs(spread=1.0)
    shuffled = feats._replace(test_labels=feats.test_labels.roll(1))
    one, other = linear_probe(feats, 100), linear_probe(shuffled, 100)
    assert (one.regulariser, one.validation) == (other.regulariser, other.validation)
    assert one.accuracy > other.accuracy + 0.2


def test_a_strong_regulariser_is_chosen_where_labels_are_few_and_noise_is_much():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(600, 100, generator=generator)
    y = torch.arange(600) % 2
    noise[:, 0] += 1.5 * y
    probe = linear_probe(Features(noise, y, noise[300:], y[300:]), labels=60)
    assert probe.regulariser >= 1e-2


def test_a_feature_that_never_changed_among_the_labelled_images_spoils_nothing():
    """As a corner's pixel, black in each of them, and white in some of the test images."""
    feats = blobs()
    wanted = linear_probe(feats, 100)

    train = torch.cat([feats.train, torch.full((len(feats.train), 1), 1.7)], 1)
    test = torch.cat([feats.test, 50 * torch.randn(len(feats.test), 1)], 1)
    probe = linear_probe(feats._replace(train=train, test=test), 100)
    assert abs(probe.accuracy - wanted.accuracy) < 0.01
    assert probe.regulariser == wanted.regulariser


def test_the_held_out_images_choose_by_their_loss_and_so_alike_from_draw_to_draw():
    """With eight to hold out, accuracies tie and jump; the chosen regularisers lie near each other."""
    feats = blobs(n=2000, d=60, spread=1.5)
    chosen = [linear_probe(feats, 50, seed).regulariser for seed in range(6)]
    assert max(chosen) / min(chosen) < 101
    assert min(chosen) > 1e-3


def test_more_labels_help_and_the_budget_is_what_was_asked_for():
    feats = blobs(n=2000, spread=1.2)
    table = probe_table({"blobs": feats}, budgets=[25, 1000], seeds=[0, 1, 2])
    mean = table.groupby("labels")["accuracy"].mean()
    assert list(mean.index) == [25, 1000] and mean[1000] > mean[25] + 0.05


def test_sgd_learns_and_stores_its_epochs():
    feats = blobs(n=1000, spread=4)
    feats = feats._replace(train=feats.train / 10, test=feats.test / 10)
    probe = linear_probe(feats, solver="sgd", epochs=20)
    assert probe.accuracy > 0.6 and probe.epochs == 20 and probe.solver == "sgd"


def test_labels_are_stratified_and_any_prefix_is_balanced():
    labels = torch.arange(300) % 3
    chosen = stratified(labels, 30, torch.Generator().manual_seed(1))
    assert len(set(chosen.tolist())) == 30
    assert labels[chosen].bincount().tolist() == [10, 10, 10]
    assert labels[chosen[:6]].bincount().tolist() == [2, 2, 2]


@pytest.mark.parametrize("labels", [7, 3000, -5])
def test_a_budget_that_does_not_fit_is_refused(labels):
    with pytest.raises(ValueError, match=f"labels={labels}"):
        linear_probe(blobs(), labels)


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="solver='adam'"):
        linear_probe(blobs(), solver="adam")
    with pytest.raises(ValueError, match="solver='newton' is unknown; did you mean 'newton-cg'"):
        linear_probe(blobs(), solver="newton")


@pytest.mark.parametrize("epochs", [0, -3])
def test_sgd_without_an_epoch_is_refused(epochs):
    with pytest.raises(ValueError, match=f"epochs={epochs}: expected at least 1"):
        linear_probe(blobs(), solver="sgd", epochs=epochs)


def test_too_few_labels_to_hold_some_out_are_refused():
    with pytest.raises(ValueError, match="labels=5: expected at least two for each of 5 classes"):
        linear_probe(blobs(), labels=5)


def small_data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return from_arrays(images, torch.arange(60) % 2)


def test_encoding_leaves_batchnorm_as_it_was_and_does_not_depend_on_the_batch():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    data = small_data()
    feats = encode(network, data)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network.training and network[1].training
    single = network.eval()(
        data.train.images[:1].float().div(255).sub(data.normalize.mean).div(data.normalize.std)
    )
    assert torch.allclose(single[0], feats.train[0], atol=1e-5)


def test_augmented_copies_follow_the_clean_images_and_carry_their_labels():
    data = small_data()
    clean, more = encode(raw_pixels, data), encode(raw_pixels, data, 3, RECIPES["simsiam-cifar"])
    n = len(data.train)
    assert more.train.shape[0] == 3 * n and more.views == 3
    assert torch.equal(more.train[:n], clean.train)
    assert not torch.allclose(more.train[n : 2 * n], clean.train, atol=0.1)
    assert torch.equal(more.test, clean.test)
    assert linear_probe(more, 20).labels == 20


def test_augmented_copies_need_a_recipe():
    with pytest.raises(ValueError, match="views=2"):
        encode(raw_pixels, small_data(), views=2)


def test_factors_that_the_features_hold_are_found_and_the_others_are_not():
    g = torch.Generator().manual_seed(0)
    parts = []
    for n in (800, 300):
        pixels = torch.randint(0, 256, (n, 1, 2, 2), generator=g, dtype=torch.uint8)
        x, turn, scale, _ = pixels.flatten(1).float().div(255).unbind(1)
        factors = torch.stack((x, 360 * turn - 180, scale), 1)
        zeros, names = torch.zeros(n).long(), ("x", "angle", "scale")
        parts.append(Images(pixels, zeros, ("a",), factors, names))
    data = Dataset("made", *parts, normalize=Normalize(torch.zeros(1), torch.ones(1)))

    def encoder(images):  # knows x, and the angle as a direction, but not the scale
        x, turn, *_ = images.flatten(1).unbind(1)
        turn = (360 * turn - 180).deg2rad()
        return torch.stack((3 * x - 1, turn.cos() + turn.sin(), turn.cos()), 1)

    scores = factor_scores(encoder, data)
    assert scores["x"] > 0.999 and scores["angle"] > 0.99 and abs(scores["scale"]) < 0.05
    with pytest.raises(ValueError, match="no known factors"):
        factor_scores(encoder, from_arrays(parts[0].images, parts[0].labels))
