"""The linear probe: the right minimum, an honest choice, and nothing learned from the test images."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from simlab.augment import RECIPES, Normalize
from simlab.data import Dataset, Images, from_arrays
from simlab.evaluate import raw_pixels, stratified
from simlab.evaluate.probe import (
    Features,
    _LogisticRegression,
    encode,
    factor_scores,
    linear_probe,
    probe_table,
)


def blobs(n=600, d=20, classes=5, spread=2.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(classes, d, generator=generator) * spread / d**0.5

    def draw(m):
        y = torch.arange(m) % classes
        scale = torch.logspace(-1, 1, d)  # features of very different size
        return (middle[y] + torch.randn(m, d, generator=generator)) * scale + 3, y

    return Features(*draw(n), *draw(400))


def test_lbfgs_finds_the_minimum_that_sklearn_finds():
    feats = blobs()
    x = (feats.train - feats.train.mean(0)) / feats.train.std(0)
    for l2 in (1e-3, 1e-1):
        own = _LogisticRegression(feats.train, feats.train_labels, 5).fit(l2)(feats.train)
        # sklearn minimises C * sum of losses + |w|^2 / 2
        peer = LogisticRegression(C=1 / (2 * l2 * len(x)), max_iter=5000, tol=1e-8)
        peer.fit(x.numpy(), feats.train_labels.numpy())
        theirs = torch.from_numpy(peer.predict_proba(x.numpy())).float()
        assert torch.allclose(own.softmax(1), theirs, atol=2e-3)


def test_a_warm_start_from_a_stronger_regulariser_changes_nothing():
    feats = blobs()
    path = _LogisticRegression(feats.train, feats.train_labels, 5)
    for l2 in (1.0, 0.1, 0.01):
        warm = path.fit(l2)(feats.test)
    cold = _LogisticRegression(feats.train, feats.train_labels, 5).fit(0.01)(feats.test)
    assert torch.allclose(warm.softmax(1), cold.softmax(1), atol=5e-3)


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
    few = linear_probe(Features(noise, y, noise[300:], y[300:]), labels=60)
    assert few.regulariser >= 1e-2


def test_a_feature_that_never_changed_among_the_labelled_images_spoils_nothing():
    """As a corner's pixel, black in each of them, and white in some of the test images."""
    feats = blobs()
    wanted = linear_probe(feats, 100)

    train = torch.cat([feats.train, torch.full((len(feats.train), 1), 1.7)], 1)
    test = torch.cat([feats.test, 50 * torch.randn(len(feats.test), 1)], 1)
    found = linear_probe(feats._replace(train=train, test=test), 100)
    assert abs(found.accuracy - wanted.accuracy) < 0.01
    assert found.regulariser == wanted.regulariser


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
    found = linear_probe(feats, solver="sgd", epochs=20)
    assert found.accuracy > 0.6 and found.epochs == 20 and found.solver == "sgd"


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
    with pytest.raises(ValueError, match="solver='lbgfs' is unknown; did you mean 'lbfgs'"):
        linear_probe(blobs(), solver="lbgfs")


def images():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return from_arrays(images, torch.arange(60) % 2)


def test_encoding_leaves_batchnorm_as_it_was_and_does_not_depend_on_the_batch():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    data = images()
    feats = encode(network, data)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network.training and network[1].training
    single = network.eval()(data.train.images[:1].float().div(255).sub(data.normalize.mean).div(data.normalize.std))
    assert torch.allclose(single[0], feats.train[0], atol=1e-5)


def test_augmented_copies_follow_the_clean_images_and_carry_their_labels():
    data = images()
    clean, more = encode(raw_pixels, data), encode(raw_pixels, data, 3, RECIPES["simsiam-cifar"])
    n = len(data.train)
    assert more.train.shape[0] == 3 * n and more.views == 3
    assert torch.equal(more.train[:n], clean.train)
    assert not torch.allclose(more.train[n : 2 * n], clean.train, atol=0.1)
    assert torch.equal(more.test, clean.test)
    assert linear_probe(more, 20).labels == 20


def test_augmented_copies_need_a_recipe():
    with pytest.raises(ValueError, match="views=2"):
        encode(raw_pixels, images(), views=2)


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

    found = factor_scores(encoder, data)
    assert found["x"] > 0.999 and found["angle"] > 0.99 and abs(found["scale"]) < 0.05
    with pytest.raises(ValueError, match="no known factors"):
        factor_scores(encoder, from_arrays(parts[0].pixels, parts[0].labels))
