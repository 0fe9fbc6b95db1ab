"""What frozen features know: one honest protocol for every encoder.

The bank is the whole training set, clean (not augmented); every test image is a query; BatchNorm
uses its running statistics. Other protocols are found in the wild and give other numbers: notebook
02 measures by how much.
"""

import contextlib
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab.compute.devices import cpu_has_bfloat16
from simlab.data.images import Dataset, Images

BLOCK = 3 * 2**22  # similarities held at a time: 50 MB, half of it in bfloat16
LARGE = 100  # times k: from that size on a bank is searched in bfloat16 first
ROWS = 2048  # gone through at a time, so that they stay in the processor's cache
GROUP = 20  # images of the bank whose greatest similarity is looked at first


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
    """Indices of `number` images, as many of each class, in an order that alternates classes.

    Where `number` is all of them, every image is taken, balanced or not. Raises ValueError where
    the number does not fit the classes.
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
    """Classes of `queries` [M, D] by a vote of their k nearest in `bank` [N, D]: int64 [M].

    Nearness is the cosine s; a neighbour votes with weight exp(s / temperature) (Wu et al.,
    arXiv 1805.01978, section 3.4). Queries go in blocks, so that memory stays bounded.

    Of classes with equal votes the first one wins. Raises ValueError where k exceeds the bank, a
    label of the bank is negative, or a feature is no number.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k}: expected 1 to {len(bank)}, the number of images in the bank")
    if int(bank_labels.min()) < 0:
        raise ValueError("the bank holds images without a label (-1): kNN needs all of them")
    refuse_diverged(bank, queries)
    classes = classes or int(bank_labels.max()) + 1
    bank, queries = (F.normalize(x.float(), dim=1) for x in (bank, queries))
    large = len(bank) >= LARGE * k and bank.device.type == "cpu"
    rough = _roughly(bank) if large and cpu_has_bfloat16() else None
    predicted, size = [], max(1, BLOCK // len(bank))
    for part in queries.split(8 * size if rough else size):  # eight blocks are done together below
        similarity, nearest = _k_nearest(part, bank, rough, k)  # [m, k]
        # relative to the greatest, so that a small temperature does not overflow
        weight = ((similarity - similarity.amax(1, keepdim=True)) / temperature).exp()
        votes = weight.new_zeros(len(part), classes)
        predicted.append(votes.scatter_add_(1, bank_labels[nearest], weight).argmax(1))
    return torch.cat(predicted)


def _roughly(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [N, D] in bfloat16, in whole groups, and the most that was rounded off a row, as a length."""
    return F.pad(x.bfloat16(), (0, 0, 0, -len(x) % GROUP)), _rounded_off(x).max()


def _rounded_off(x: Tensor) -> Tensor:
    """How far bfloat16 is from each row of x [N, D], as a length: [N]."""
    return torch.cat([(rows - rows.bfloat16()).norm(dim=1) for rows in x.split(ROWS)])


def _k_nearest(
    queries: Tensor, bank: Tensor, rough: tuple[Tensor, Tensor] | None, k: int
) -> tuple[Tensor, Tensor]:
    """The k greatest cosines of normalised rows and their places in the bank: [m, k], unsorted.

    Given the bank `rough` (see `_roughly`), all are compared in bfloat16 first, and in float32 only
    those that can be among the k nearest: what comes out is float32's.
    """
    if rough is None:
        return (queries @ bank.T).topk(k, dim=1, sorted=False)
    m, n, blocks = len(queries), len(bank), queries.split(max(1, BLOCK // len(bank)))
    count, column = map(torch.cat, zip(*(_possible(b, n, *rough, k) for b in blocks), strict=True))
    if len(column) > m * n // LARGE * 3:  # too many for this to pay
        exact = zip(*(_k_nearest(b, bank, None, k) for b in blocks), strict=True)
        return tuple(map(torch.cat, exact))
    start = F.pad(count.cumsum(0), (1, 0))
    row = torch.arange(m).repeat_interleave(count)
    # in the bank's order: each of its rows comes from memory once, and the queries are in the cache
    order = torch.from_numpy(np.argsort(column.numpy()))
    first = F.pad(column.bincount(minlength=n).cumsum(0), (1, 0))
    with warnings.catch_warnings(action="ignore"):  # torch calls its sparse tensors a beta
        wanted = torch.sparse_csr_tensor(
            first, row[order], torch.zeros(len(row)), (n, m), check_invariants=False
        )
        fine = torch.sparse.sampled_addmm(wanted, bank, queries.T, beta=0).values()
    table = fine.new_full((m, int(count.max())), -torch.inf)
    table[row[order], order - start[row[order]]] = fine
    similarity, at = table.topk(k, dim=1, sorted=False)
    return similarity, column[start[:-1, None] + at]


def _possible(queries: Tensor, n: int, rough: Tensor, off: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Which of the bank's n rows can be among each query's k nearest: how many [m], and all their
    places, query by query."""
    m, coarse = len(queries), queries.bfloat16() @ rough.T  # [m, N], N padded to whole groups
    coarse[:, n:] = -torch.inf
    groups = coarse.view(m, GROUP, -1)
    nearest_of = groups.amax(1)  # [m, N / GROUP]
    # k groups get this far (by NumPy, which is several times as fast at it on a CPU)
    reach = torch.from_numpy(np.partition(nearest_of.float().numpy(), -k, axis=1)[:, -k])
    # By Cauchy-Schwarz a product of unit vectors is off by no more than what was rounded off of both,
    # and rounding it moves it by 1 / 256 of itself. So the k-th nearest is no further off than reach
    # less that error, and seen as no more than another error below; the limit is rounded as well, and
    # the last term is for sums in float32.
    error = 2 * (_rounded_off(queries) + 1.01 * off) + (0.1 + 3 * reach.abs()) / 256
    limit = (reach - error).bfloat16()
    row, group = (nearest_of >= limit[:, None]).nonzero(as_tuple=True)
    hit, place = (groups[row, :, group] >= limit[row, None]).nonzero(as_tuple=True)
    return row[hit].bincount(minlength=m), group[hit] + place * groups.shape[2]


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
