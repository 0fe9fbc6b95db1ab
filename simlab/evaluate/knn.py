"""kNN accuracy: one protocol for every encoder.

The bank is the complete training set, clean (not augmented); every test image is a query; BatchNorm
is frozen. Images without a label are left out of both, and said (`labels`). Other protocols are
found in the wild and give other numbers: notebook 02 measures by how much.
"""

from dataclasses import dataclass, field

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from simlab.data import Dataset, Images

from .features import Encoder, features, refuse_diverged
from .labels import counted, fraction_right, per_class_accuracy, refuse_unlabelled

BLOCK = 3 * 2**22  # similarities in memory at once: 50 MB


@dataclass(frozen=True)
class KnnResult:
    """A kNN accuracy, with everything that decided it."""

    accuracy: float  # 0 to 1
    k: int  # neighbours that voted
    temperature: float
    bank: int  # labelled training images
    tested: int  # test images that count: see `labels`
    per_class: pd.DataFrame = field(repr=False, compare=False)  # `per_class_accuracy`


def knn(encoder: Encoder, data: Dataset, k: int = 200, temperature: float = 0.1) -> float:
    """Measure the kNN accuracy (0 .. 1) of an encoder on the test images.

    Args:
        encoder: From normalised images [N, C, H, W] to features [N, D].
        data: The bank is its labelled training images, the queries are its test images that have a
            label.
        k: Number of neighbours that vote; at most the size of the bank.
        temperature: Temperature of their votes.

    Raises:
        ValueError: No training or no test image has a label.
    """
    return knn_result(encoder, data, k, temperature).accuracy


def knn_result(
    encoder: Encoder, data: Dataset, k: int = 200, temperature: float = 0.1
) -> KnnResult:
    """Measure as `knn`; the result has the accuracy of each class, and the numbers of images."""
    images = counted(data.train.labels, data.test.labels, data.classes)
    images.check()
    bank = features(encoder, data.train, only=images.train)
    queries = features(encoder, data.test, only=images.test)
    labels = data.test.labels[images.test]
    k = min(k, len(bank))
    predicted = knn_predict(bank, data.train.labels[images.train], queries, k, temperature)
    return KnnResult(
        accuracy=fraction_right(predicted, labels),
        k=k,
        temperature=temperature,
        bank=len(bank),
        tested=len(queries),
        per_class=per_class_accuracy(predicted, labels, data.classes),
    )


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """Return the fraction of `queries` [M, D] whose class `knn_predict` predicts, 0 .. 1.

    Images without a label are left out of the bank and of the queries, with a warning, and so are
    queries of classes that the bank does not hold.

    Raises:
        ValueError: Nothing is left of one of them.
    """
    images = counted(bank_labels, labels)
    images.check()
    bank = bank[images.train]
    predicted = knn_predict(
        bank, bank_labels[images.train], queries[images.test], min(k, len(bank)), temperature
    )
    return fraction_right(predicted, labels[images.test])


@torch.no_grad()
def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    k: int = 200,
    temperature: float = 0.1,
    classes: int = 0,
) -> Tensor:
    """Classify each query by a vote of its k nearest neighbours in the bank.

    Similarity is the cosine s; a neighbour votes with weight exp(s / temperature) (Wu et al.,
    arXiv 1805.01978, section 3.4). Ties go to the lowest class. Queries are compared in blocks, so
    that memory stays bounded.

    Args:
        bank: Features of the images that vote [N, D].
        bank_labels: Their classes [N].
        queries: Features of the images to classify [M, D].
        k: Number of neighbours that vote.
        temperature: The lower, the more the nearest ones count.
        classes: Number of classes; 0: one more than the greatest label of the bank.

    Returns:
        The predicted classes, int64 [M].

    Raises:
        ValueError: k exceeds the bank, the temperature is not positive, or a label is negative.
        FloatingPointError: A feature is NaN or infinite.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k}: expected 1 to {len(bank)}, the number of images in the bank")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a number above 0")
    refuse_unlabelled(bank_labels)
    refuse_diverged(bank, queries)
    classes = classes or int(bank_labels.max()) + 1
    bank = F.normalize(bank.float(), dim=1)
    queries = F.normalize(queries.float(), dim=1)
    predicted = []
    for block in queries.split(max(1, BLOCK // len(bank))):  # [m, D]
        similarity, nearest = (block @ bank.T).topk(k, dim=1, sorted=False)  # [m, k] each
        # relative to the greatest, so that a small temperature does not overflow
        weight = ((similarity - similarity.amax(1, keepdim=True)) / temperature).exp()
        votes = weight.new_zeros(len(block), classes)
        votes.scatter_add_(1, bank_labels[nearest], weight)
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)


def nearest(encoder: Encoder, data: Dataset, queries: Images, k: int) -> Tensor:
    """Find the k training images with the most similar features, nearest first: int64 [M, k]."""
    bank = features(encoder, data.train)
    query_features = features(encoder, queries, normalize=data.normalize)
    similarity = F.normalize(query_features, dim=1) @ F.normalize(bank, dim=1).T  # [M, N]
    return similarity.topk(k, dim=1).indices
