"""What frozen features know: one honest protocol for every encoder.

The bank is the whole training set, clean (not augmented); every test image is a query; BatchNorm
uses its running statistics. Other protocols are found in the wild and give other numbers: notebook
02 measures by how much.
"""

import contextlib
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab.data.images import Dataset, Images

BLOCK = 3 * 2**22  # similarities held at a time: 50 MB


@torch.no_grad()
def features(
    encoder: Callable[[Tensor], Tensor],
    images: Images,
    batch_size: int = 512,
    normalize: Callable[[Tensor], Tensor] | None = None,
    only: Tensor | None = None,
) -> Tensor:
    """The encoder's features of every image, clean and in order: float32 [N, D].

    `normalize` makes the encoder's input of uint8 images, instead of the images' normalisation.
    `only` are the indices [M] of some of them, instead of all.

    A module is put into evaluation mode for the time and back into its mode afterwards.
    """
    normalize = normalize or images.normalize
    if normalize is None:
        raise ValueError(
            "images without a normalisation: take a Dataset's split, or give normalize="
        )
    with contextlib.ExitStack() as afterwards:
        if isinstance(encoder, nn.Module):
            for module in encoder.modules():
                afterwards.callback(setattr, module, "training", module.training)
            encoder.eval()
        order = torch.arange(len(images)) if only is None else only
        return torch.cat(
            [encoder(normalize(batch)).float() for _, batch in images.batches(order, batch_size)]
        )


def stratified(labels: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Draw the indices of `number` images, the same number of each class, classes alternating.

    The labels at these indices are 0, 1, ..., C - 1, 0, 1, ..., so that every prefix is balanced;
    every k-th index, however, may miss classes. Where `number` is all of them, every image is
    taken, balanced or not, in random order.

    Raises:
        ValueError: if the number does not fit the classes.
    """
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=generator)
    if number == len(labels):
        return order
    classes = int(labels.max()) + 1
    if number < 1 or number % classes or number > len(labels):
        raise ValueError(
            f"labels={number}: expected a multiple of the {classes} classes, at most {len(labels)}"
        )
    own = [order[labels[order] == c][: number // classes] for c in range(classes)]
    short = [c for c in range(classes) if len(own[c]) < number // classes]
    if short:
        raise ValueError(f"labels={number}: class {short[0]} has only {len(own[short[0]])} images")
    return torch.stack(own, dim=1).flatten()  # class 0, 1, ..., 0, 1, ...: any prefix is balanced


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows [N, classes] whose greatest entry is the label's, 0 .. 1."""
    return float((logits.argmax(1) == labels).float().mean())


def refuse_diverged(*parts: Tensor):
    """ValueError where a feature is NaN or infinite."""
    for part in parts:
        if not bool(torch.stack(part.aminmax()).isfinite().all()):  # either of them tells
            raise ValueError("a feature is no finite number: the encoder's training has diverged")


def raw_pixels(x: Tensor) -> Tensor:
    """The simplest encoder: [N, C, H, W] -> [N, C * H * W]."""
    return x.flatten(1)


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
        bank: features of the images that vote [N, D].
        bank_labels: their classes [N].
        queries: features of the images to classify [M, D].
        k: number of neighbours that vote.
        temperature: the lower, the more the nearest ones count.
        classes: number of classes; 0: one more than the greatest label of the bank.

    Returns:
        The predicted classes, int64 [M].

    Raises:
        ValueError: if k exceeds the bank, the temperature is not positive, a label of the bank is
            negative, or a feature is not finite.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k}: expected 1 to {len(bank)}, the number of images in the bank")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a number above 0")
    if int(bank_labels.min()) < 0:
        raise ValueError("the bank holds images without a label (-1): kNN needs all of them")
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


def knn(
    encoder: Callable[[Tensor], Tensor], data: Dataset, k: int = 200, temperature: float = 0.1
) -> float:
    """kNN accuracy (0 .. 1) of an encoder on the test images, by the protocol above.

    k is cut to the size of the bank where that is smaller.
    """
    bank, queries = (features(encoder, split) for split in (data.train, data.test))
    return knn_accuracy(bank, data.train.labels, queries, data.test.labels, k, temperature)


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """Share of `queries` [M, D] whose class `knn_predict` finds, 0 .. 1."""
    predicted = knn_predict(bank, bank_labels, queries, min(k, len(bank)), temperature)
    return float((predicted == labels).float().mean())


def nearest(encoder: Callable[[Tensor], Tensor], data: Dataset, queries: Images, k: int) -> Tensor:
    """The k training images with the most similar features, nearest first: int64 [M, k]."""
    bank, wanted = (
        F.normalize(features(encoder, part, normalize=data.normalize), dim=1)
        for part in (data.train, queries)
    )
    return (wanted @ bank.T).topk(k, dim=1).indices


def ridge_r2(x: Tensor, x_test: Tensor, y: Tensor, y_test: Tensor) -> float:
    """R² on (x_test, y_test) of a ridge regression on (x, y): features [N, D], targets [N, T]."""
    from sklearn.linear_model import RidgeCV

    # one scale for all: a channel that is almost always zero would blow up by its own
    std, mean = x.std().clamp_min(1e-6), x.mean(0)
    x, x_test = (((part - mean) / std).cpu().double().numpy() for part in (x, x_test))
    y, y_test = (part.cpu().double().numpy() for part in (y, y_test))
    guess = RidgeCV(np.logspace(-1, 5, 7)).fit(x, y).predict(x_test).reshape(y_test.shape)
    return float(1 - ((y_test - guess) ** 2).sum() / ((y_test - y.mean(0)) ** 2).sum())
