"""The linear probe: an honest choice, and nothing learned from the test images."""

import copy
import math

import pytest
import torch
from torch import nn

from simlab.augment import RECIPES, Normalize
from simlab.data import Dataset, Images, from_arrays
from simlab.evaluate import (
    Features,
    LinearProbe,
    encode,
    factor_scores,
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
