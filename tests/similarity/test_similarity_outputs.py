"""What two classifiers say about the same samples: against counts and published values."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from small_features import normal
from torch import nn

from simlab.similarity import (
    Representation,
    compare,
    disagreement,
    error_consistency,
    error_overlap,
    jensen_shannon_divergence,
)

X = normal(50, 4, seed=1)
Y = X + normal(50, 4, seed=2)
LABELS = torch.arange(50) % 4


def one_hot(classes):
    return 9 * torch.eye(3, dtype=torch.float64)[classes]


def test_disagreement_is_the_share_of_different_predictions():
    assert disagreement(one_hot([0, 1, 2, 0]), one_hot([0, 2, 2, 1])) == pytest.approx(0.5)
    assert disagreement(X, 3 * X) == 0 and 0.2 < disagreement(X, Y) < 0.8
    # shifting one class's logits changes what is said: logits are not centred
    assert disagreement(X, X + torch.tensor([99.0, 0, 0, 0])) > 0.5


def test_jensen_shannon_is_scipys_squared_distance_of_the_probabilities():
    pairs = zip(X.softmax(1).numpy(), Y.softmax(1).numpy(), strict=True)
    truth = np.mean([jensenshannon(p, q, base=2) ** 2 for p, q in pairs])
    assert jensen_shannon_divergence(X, Y) == pytest.approx(truth, abs=1e-12)
    probabilities = X.softmax(1), Y.softmax(1)
    value = jensen_shannon_divergence(*probabilities, outputs="probabilities")
    assert value == pytest.approx(truth, abs=1e-12)
    logs = X.log_softmax(1), Y.log_softmax(1)
    assert jensen_shannon_divergence(*logs) == pytest.approx(truth, abs=1e-12)


def test_jensen_shannon_lies_between_equal_and_exclusive():
    assert jensen_shannon_divergence(X, X + 5) == pytest.approx(0, abs=1e-12)  # the same softmax
    far = jensen_shannon_divergence(1e4 * one_hot([0, 1]), 1e4 * one_hot([1, 2]))
    assert far == pytest.approx(1, abs=1e-12)


def test_probabilities_are_not_taken_for_logits_nor_logits_for_probabilities():
    with pytest.raises(ValueError, match="all rows are probabilities"):
        jensen_shannon_divergence(X.softmax(1), Y.softmax(1))
    with pytest.raises(ValueError, match='outputs="logits"'):
        jensen_shannon_divergence(X, Y, outputs="probabilities")
    with pytest.raises(ValueError, match="outputs='logit'; did you mean 'logits'"):
        jensen_shannon_divergence(X, Y, outputs="logit")


def test_errors_overlap_as_counted_by_hand():
    labels = [0, 1, 2, 0, 1]
    x = one_hot([0, 2, 0, 0, 1])  # wrong at 1 and 2
    y = one_hot([0, 0, 2, 1, 1])  # wrong at 1 and 3
    assert error_overlap(x, y, labels) == pytest.approx(1 / 3)
    consistent = 3 / 5  # samples 0, 1 and 4
    expected = 0.4 * 0.4 + 0.6 * 0.6
    kappa = (consistent - expected) / (1 - expected)
    assert error_consistency(x, y, labels) == pytest.approx(kappa)
    assert error_overlap(x, x, labels) == pytest.approx(1)
    assert error_consistency(x, x, labels) == pytest.approx(1)


def test_independent_errors_are_not_consistent_but_overlap_by_chance():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (5000,), generator=draw)
    x, y = normal(5000, 4, seed=3), normal(5000, 4, seed=4)
    assert error_consistency(x, y, labels) == pytest.approx(0, abs=0.05)
    assert error_overlap(x, y, labels) == pytest.approx(0.75**2 / (1 - 0.25**2), abs=0.03)


def test_without_errors_there_is_nothing_to_overlap():
    right = one_hot([0, 1, 2])
    assert np.isnan(error_overlap(right, right, [0, 1, 2]))
    assert np.isnan(error_consistency(right, right, [0, 1, 2]))


def test_what_cannot_be_logits_is_refused():
    with pytest.raises(ValueError, match=r"\(50, 4\) and \(50, 3\)"):
        disagreement(X, Y[:, :3])
    with pytest.raises(ValueError, match=r"classes >= 2.*\(50, 1\)"):
        jensen_shannon_divergence(X[:, :1], Y[:, :1])
    with pytest.raises(ValueError, match="Gram"):
        disagreement(Representation.from_gram(X @ X.T), Y)
    for labels, message in (
        (LABELS[:9], r"shape \(9,\): expected \(50,\)"),
        (LABELS + 1, "label 4: expected 0 .. 3"),
        (LABELS.float(), "expected integers"),
    ):
        with pytest.raises(ValueError, match=message):
            error_overlap(X, Y, labels)


def classifier(seed, classes=5):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes)
    return nn.Sequential(*layers).eval()


def test_compare_sees_the_logits_as_they_are_and_not_centred():
    a, b = classifier(0), classifier(1)
    with torch.no_grad():
        a[3].bias[2] += 0.3
    images = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    measures = ["disagreement", "jensen_shannon"]
    result = compare({"a": a, "b": b}, images, "3", measures, samples=40, null=3)
    with torch.no_grad():
        outputs = a(images), b(images)
    assert 0.1 < disagreement(*outputs) < 1
    truth = jensen_shannon_divergence(*outputs)
    assert result.block(measure="disagreement").item() == pytest.approx(disagreement(*outputs))
    assert result.block(measure="jensen_shannon").item() == pytest.approx(truth, abs=1e-6)
    assert result.info.kinds["disagreement"] == "distance"
    assert not np.isnan(result.nulls["disagreement"]).any()


def test_compare_refuses_layers_that_are_no_logits_by_name():
    images = torch.zeros(8, 3, 8, 8)
    models = {"a": classifier(0), "b": classifier(1, classes=7)}
    with pytest.raises(ValueError, match=r"disagreement: layer 'a/0' gives \[n, 4, 6, 6\]"):
        compare(models, images, measures="disagreement", samples=8)
    with pytest.raises(ValueError, match="'b/3' gives .n, 7., expected the 5 classes of 'a/3'"):
        compare(models, images, "3", "disagreement", samples=8)
