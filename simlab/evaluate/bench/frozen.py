"""kNN and linear probe of frozen features, with what a validation split chooses.

A fifth of the labelled training images chooses; then all labelled images are used, and the test
split is evaluated once.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from simlab.evaluate import Features, counted, knn_predict, linear_probe, stratified
from simlab.evaluate.features import refuse_diverged
from simlab.evaluate.knn import BLOCK
from simlab.evaluate.labels import fraction_right

from .settings import HELD_OUT, KNN_K, KNN_TEMPERATURES

Row = dict[str, Any]


def measure_knn(feats: Features, seed: int) -> Row:
    """Measure the kNN accuracy, with k and temperature chosen on a validation split.

    The validation images are classified by the other training images, with each k and temperature;
    of equal accuracies the first of the settings counts, which is that of `simlab.evaluate.knn`.

    Args:
        feats: Of all images.
        seed: Draws the validation split.
    """
    images = counted(feats.train_labels, feats.test_labels, feats.classes)
    bank = feats.train[images.train]
    labels = feats.train_labels[images.train]
    k, temperature, validation = _choose_votes(bank, labels, seed)
    predicted = knn_predict(bank, labels, feats.test[images.test], k, temperature)
    return {
        "accuracy": fraction_right(predicted, feats.test_labels[images.test]),
        "validation": validation,
        "labels": len(bank),
        "tested": len(images.test),
        "k": k,
        "temperature": temperature,
    }


def measure_probe(feats: Features, labels: float, seed: int) -> Row:
    """Measure the accuracy of a linear probe; see `linear_probe`."""
    probe = linear_probe(feats, labels, seed)
    return {
        "accuracy": probe.accuracy,
        "validation": probe.validation,
        "labels": probe.labels,
        "tested": probe.tested,
        "regulariser": probe.regulariser,
    }


def held_out_and_rest(labels: Tensor, labelled: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Split labelled images into those that choose and those that are learned from.

    Args:
        labels: Of all training images, int64 [N].
        labelled: Indices of those that may be used [L].
        seed: Draws them.

    Returns:
        Indices [H] and [L - H]; the first are a fifth of each class, at least one image.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = stratified(labels[labelled], HELD_OUT, generator)
    is_held_out = torch.zeros(len(labelled), dtype=torch.bool)
    is_held_out[chosen] = True
    return labelled[is_held_out], labelled[~is_held_out]


def _choose_votes(bank: Tensor, labels: Tensor, seed: int) -> tuple[int, float, float]:
    """The k and the temperature with the highest validation accuracy, and that accuracy."""
    held_out, rest = held_out_and_rest(labels, torch.arange(len(labels)), seed)
    candidates = sorted({min(k, len(rest)) for k in KNN_K}, reverse=True)
    similarity, nearest = _neighbours(bank[rest], bank[held_out], candidates[0])
    best = (0, 0.0, -1.0)
    for k, temperature in itertools.product(candidates, KNN_TEMPERATURES):
        predicted = _vote(similarity[:, :k], labels[rest][nearest[:, :k]], temperature)
        accuracy = fraction_right(predicted, labels[held_out])
        if accuracy > best[2]:
            best = (k, temperature, accuracy)
    return best


def _neighbours(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The cosines [M, k] of the k nearest of a bank [N, D], nearest first, and their indices."""
    refuse_diverged(bank, queries)
    bank = F.normalize(bank.float(), dim=1)
    cosines = []
    indices = []
    for block in F.normalize(queries.float(), dim=1).split(max(1, BLOCK // len(bank))):
        similarity, nearest = (block @ bank.T).topk(k, dim=1)  # [m, k] each
        cosines.append(similarity)
        indices.append(nearest)
    return torch.cat(cosines), torch.cat(indices)


def _vote(similarity: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The class with most votes [M], as in `knn_predict`; both [M, k], nearest first."""
    weight = ((similarity - similarity[:, :1]) / temperature).exp()
    votes = weight.new_zeros(len(weight), int(labels.max()) + 1)
    votes.scatter_add_(1, labels, weight)
    return votes.argmax(1)
