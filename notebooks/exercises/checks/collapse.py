"""Checks of the exercises of notebook 03."""

import copy
import functools
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from simlab.methods import nt_xent as nt_xent_of_simlab

from . import toys
from .judge import all_predicted, call, draws, exercise, near, need, number, predictions, tensor

COLLAPSED = 0.5  # a std of z below it

WHY = {
    "the predictor learns a hundred times more slowly": "A predictor that hardly "
    "moves is a fixed random one.",
    "the target is a teacher that follows, with the predictor": "That is BYOL: "
    "no gradient goes through the teacher, and the predictor is there.",
    "the target is a teacher that follows, without predictor": "A teacher alone does not "
    "prevent it: student and teacher drift to one point together.",
    "batches of 16 instead of 128": "No image is pushed away from another, so SimSiam needs no "
    "large batches: it has no negatives.",
}
OPTIONS: dict[str, dict] = {
    "the predictor learns a hundred times more slowly": {"predictor_lr": 0.01},
    "the target is a teacher that follows, with the predictor": {"teacher": True},
    "the target is a teacher that follows, without predictor": {
        "teacher": True,
        "predictor": False,
    },
    "batches of 16 instead of 128": {"batch": 16},
}


@functools.cache
def toy(
    teacher: bool = False, predictor: bool = True, batch: int = 128, predictor_lr: float = 1.0
) -> toys.Outcome:
    """What 150 steps of SimSiam on ten clouds of vectors come to, with changes; half a second."""
    encoder, predict = toys.networks()
    if not predictor:
        predict = nn.Identity()
    follower = copy.deepcopy(encoder)
    groups = [{"params": list(encoder.parameters())}]
    if predictor:
        groups.append({"params": list(predict.parameters()), "lr": 0.3 * predictor_lr})
    optimizer = torch.optim.SGD(groups, lr=0.3, momentum=0.9)

    def training_step(x1: Tensor, x2: Tensor) -> float:
        z1, z2 = encoder(x1), encoder(x2)
        t1, t2 = z1.detach(), z2.detach()
        if teacher:
            with torch.no_grad():
                t1, t2 = follower(x1), follower(x2)
        cosine12 = F.cosine_similarity(predict(z1), t2)
        cosine21 = F.cosine_similarity(predict(z2), t1)
        loss = -(cosine12 + cosine21).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, weight in zip(follower.parameters(), encoder.parameters(), strict=True):
                slow.lerp_(weight, 0.5)
        return float(loss.detach())

    return toys.train_on_clouds(encoder, training_step, batch=batch)


@exercise
def ablations(answer) -> str:
    """{run: does it collapse?}; the runs are made here, after the prediction."""
    truth = dict.fromkeys(OPTIONS, False)
    if all_predicted(answer):
        for name, options in OPTIONS.items():
            end = toy(**options)
            truth[name] = end.std < COLLAPSED
            print(f"{name:<62} loss {end.loss:6.2f}   std of z {end.std:4.2f}")
    predictions(answer, truth, WHY)
    return "And see: the collapsed run has the *lowest* loss. The loss alone tells you nothing."


# ------------------------------------------------------------------------------- other classes


@exercise
def contrast_classes(answer) -> str:
    """contrast_classes(z1, z2 [N, d], labels [N], temperature) -> one number."""
    z1, z2 = torch.randn(2, 12, 8, generator=draws())
    z2 = z1 + 0.7 * z2
    labels = torch.arange(12) % 4
    result = call(answer, z1, z2, labels, 0.5)
    need(
        not isinstance(result, Tensor) or not result.isinf().any(),
        "it is infinite: the right answer of a row is masked. Its other view has the same class, "
        "and stays; it stands N rows further.",
    )
    value = float(tensor(answer, z1, z2, labels, 0.5, shape=()))
    right = _loss(z1, z2, labels, 0.5)
    for wrong, why in _wrong_losses(z1, z2, labels, 0.5):
        need(
            not near(value, wrong, 1e-5) or near(value, right, 1e-5),
            f"the loss is {value:.4f}: {why}",
        )
    need(near(value, right), f"the loss is {value:.4f}, expected {right:.4f}.")
    need(
        near(number(answer, z1, z2, labels, 0.1), _loss(z1, z2, labels, 0.1)),
        "with another temperature it is wrong.",
    )
    alone = torch.arange(12)
    need(
        near(number(answer, z1, z2, alone, 0.5), float(nt_xent_of_simlab(z1, z2, temperature=0.5))),
        "with a class of its own for every image it should be SimCLR's loss.",
    )
    p1, p2 = z1.clone().requires_grad_(), z2.clone().requires_grad_()
    loss = tensor(answer, p1, p2, labels, 0.5, shape=())
    if loss.requires_grad:
        loss.backward()
    need(
        p1.grad is not None and p2.grad is not None,
        "a gradient is missing. There is no stop-gradient here: other images keep z apart.",
    )
    encoder, _ = toys.networks()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.3, momentum=0.9)

    def training_step(x1: Tensor, x2: Tensor) -> float:
        loss = tensor(answer, encoder(x1), encoder(x2), toys.cloud_of(x1), 0.2, shape=())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    end = toys.train_on_clouds(encoder, training_step)
    print(f"150 steps with your loss: {end}")
    return "Neither predictor nor stop-gradient, and no collapse: it pushes other classes away."


def _loss(z1: Tensor, z2: Tensor, labels: Tensor, temperature: float, **slip) -> float:
    """NT-Xent without false negatives, or a slip in it."""
    rows = torch.cat([z1, z2])  # [2N, d]
    if slip.get("normalised", True):
        rows = F.normalize(rows, dim=slip.get("dim", 1))
    logits = rows @ rows.T
    logits = logits * temperature if slip.get("multiplied") else logits / temperature
    n = len(z1)
    other_view = torch.arange(2 * n).roll(n)
    classes = torch.cat([labels, labels])
    masked = classes[:, None] == classes[None, :]
    if slip.get("inverted"):
        masked = ~masked
    if slip.get("false_negatives"):
        masked = torch.eye(2 * n, dtype=torch.bool)
    if slip.get("with_itself"):
        masked = masked & ~torch.eye(2 * n, dtype=torch.bool)
    masked[torch.arange(2 * n), other_view] = False
    logits = logits.masked_fill(masked, -math.inf)
    return float(F.cross_entropy(logits, other_view, reduction=slip.get("reduction", "mean")))


def _wrong_losses(z1: Tensor, z2: Tensor, labels: Tensor, t: float) -> list[tuple[float, str]]:
    """The values that typical slips give, and what to say of each."""
    u1, u2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    n = len(z1)
    masked = (labels[:, None] == labels[None, :]) & ~torch.eye(n, dtype=torch.bool)
    across = float(F.cross_entropy((u1 @ u2.T / t).masked_fill(masked, -math.inf), torch.arange(n)))
    slips: dict[str, dict] = {
        "images of the same class are pushed away as well: that is SimCLR's loss. Leave false "
        "negatives out.": {"false_negatives": True},
        "an image is compared with itself as well, and nothing is more alike. Its own row is of "
        "its class: mask the diagonal too.": {"with_itself": True},
        "the *other* classes are masked: those are the ones to be pushed away.": {"inverted": True},
        "the rows were not divided by their lengths: these are inner products, and no cosines.": {
            "normalised": False
        },
        "each channel was divided by its length over the batch (dim=0): batch and feature axes "
        "are swapped. Divide each image's z by its own length: dim=1.": {"dim": 0},
        "it was multiplied by the temperature. Divide: a low one makes differences larger.": {
            "multiplied": True
        },
        "it is the sum over the 2N rows: take their mean.": {"reduction": "sum"},
    }
    wrong = [(_loss(z1, z2, labels, t, **slip), why) for why, slip in slips.items()]
    return [
        *wrong,
        (-_loss(z1, z2, labels, t), "it has the wrong sign."),
        (
            across,
            "only the other view's images are pushed away. All of both views are, but those of "
            "the same class.",
        ),
    ]


# ------------------------------------------------------------------------------------------ rank


def effective_rank(z: Tensor) -> Tensor:
    """The exponential of the entropy of the singular values' shares."""
    s = torch.linalg.svdvals(z)
    return torch.exp(torch.special.entr(s / s.sum()).sum())


def _count(strengths: torch.Tensor) -> float:
    """The exponential of the entropy of the strengths' shares."""
    shares = strengths / strengths.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))


@exercise
def rank(answer) -> str:
    """effective_rank(z [N, d]): exp of the entropy of the singular values' shares."""
    q, _ = torch.linalg.qr(torch.randn(64, 8, generator=draws()))
    even = number(answer, q)  # eight equal singular values
    need(
        near(number(answer, 100 * q), even),
        "it changes when all features are multiplied by 100. Divide the singular values by their "
        "sum: an entropy is taken of shares.",
    )
    need(
        not near(even, 2.079, 0.01),
        "it is the entropy, log 8 for eight equal directions. Take its exponential: then it counts "
        "directions.",
    )
    need(near(even, 8, 0.01), f"eight directions of equal strength count as {even:.2f}, not 8.")
    line = torch.outer(torch.randn(64, generator=draws(1)), torch.ones(8))
    need(
        near(number(answer, line), 1, 0.01),
        "features on one line should count as one direction. Is 0 log 0 taken as 0?",
    )
    weak = q * torch.tensor([1.0] + [0.1] * 7)
    value = number(answer, weak)
    need(
        not near(value, 8, 0.01),
        "one strong and seven weak directions count as 8: the matrix rank does not see strength.",
    )
    need(
        not near(value, _count(torch.tensor([1.0] + [0.01] * 7)), 0.01),
        "these are shares of the *squared* singular values (the eigenvalues of z'z). That is a "
        "measure as well, but RankMe, and this course, take the singular values themselves.",
    )
    right = _count(torch.tensor([1.0] + [0.1] * 7))
    moved = weak + 0.05
    centred = float(effective_rank(moved - moved.mean(0)))
    need(
        not near(number(answer, moved), centred, 0.005),
        "the mean was subtracted before. The formula takes z as it is: the mean counts as a "
        "direction, and a collapse onto one point has rank 1.",
    )
    need(near(value, right, 0.01), f"one strong and seven weak: {value:.2f}, expected {right:.2f}.")
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=draws(2)))
    need(
        near(number(answer, weak @ rotation), value, 0.01),
        "it changes when the features are rotated: look at directions, not at single channels.",
    )
    return "It counts directions by their strength, whatever the scale and the rotation."
