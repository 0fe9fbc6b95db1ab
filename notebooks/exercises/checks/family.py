"""Checks of the exercises of notebook 07."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from simlab.methods import sinkhorn, swav_loss

from .judge import call, described, draws, exercise, near, need, tensor


def _cosines(n: int, k: int, seed: int = 0) -> Tensor:
    images, prototypes = torch.randn(2, max(n, k), 8, generator=draws(seed))
    return F.normalize(images[:n], dim=1) @ F.normalize(prototypes[:k], dim=1).T


@exercise
def unshared(answer) -> str:
    """(unshared_loss(s1, s2, epsilon, temperature), all_on_one(n, k) -> scores [n, k])."""
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    need(is_pair, "a pair was expected: your loss, and your scores.")
    loss, all_on_one = answer
    s1, s2 = _cosines(24, 6), _cosines(24, 6, seed=1)
    value = float(tensor(loss, s1.clone(), s2.clone(), 0.05, 0.1, shape=()))
    right = _swapped(s1, s2, 0.05, 0.1)
    shared = float(swav_loss([s1, s2], [sinkhorn(s, 0.05) for s in (s1, s2)]))
    for wrong, why in (
        (shared, "the codes are still shared out: leave that away."),
        (
            _swapped(s1, s2, 0.1, 0.05),
            "epsilon and temperature are swapped: codes are the sharper.",
        ),
        (
            (_one(s1, s1) + _one(s2, s2)) / 2,
            "each view predicts its own code. Predict the *other*.",
        ),
        (_one(s1, s2), "one direction is missing: the mean of both was asked."),
        (_one(s2, s1), "one direction is missing: the mean of both was asked."),
        (2 * right, "it is twice as large: the mean of both directions was asked."),
        (24 * right, "it is the sum over the images: take their mean."),
        (right / 6, "it is the mean over the prototypes too. A cross-entropy sums over them."),
        (-right, "it has the wrong sign."),
    ):
        need(not near(value, wrong, 1e-4), f"the loss is {value:.4f}: {why}")
    need(near(value, right, 1e-4), f"the loss is {value:.4f}, expected {right:.4f}.")
    need(
        near(float(tensor(loss, s1, s2, 0.2, 0.5, shape=())), _swapped(s1, s2, 0.2, 0.5), 1e-4),
        "with another epsilon and temperature it is wrong: are both used?",
    )
    _need_constant_codes(loss, s1, s2)

    scores = tensor(all_on_one, 24, 6, shape=(24, 6)).float()
    need(
        scores.abs().max() <= 1 + 1e-6,
        f"cosines go from -1 to 1, and yours up to {scores.abs().max():.1f}.",
    )
    need(
        near(scores, scores[:1].expand(24, -1)),
        "the rows differ: that is no collapse. The same row for every image was asked.",
    )
    need(
        not near(scores, scores[:, :1].expand(-1, 6)),
        f"all prototypes are equally near, and the loss is log 6 = {math.log(6):.2f}: nothing is "
        "predicted. Let all images prefer one prototype.",
    )
    lowest = _swapped(scores, scores, 0.05, 0.1)
    best = -torch.ones(24, 6)
    best[:, 0] = 1
    need(
        lowest < _swapped(best, best, 0.05, 0.1) + 1e-6,
        f"the loss of these is {lowest:.1e}; cosines allow less. How far from the others can one "
        "of them be?",
    )
    codes = sinkhorn(scores, 0.05)
    with_share = float(swav_loss([scores, scores], [codes, codes]))
    print(f"all on one prototype: loss {lowest:.1e}; with an equal share {with_share:.1f}")
    return "All images on one prototype, and no lower loss: only the equal share forbids it."


def _one(s: Tensor, other: Tensor, epsilon: float = 0.05, temperature: float = 0.1) -> float:
    """The cross-entropy of softmax codes of `s` and the predictions of `other`."""
    code = (s / epsilon).softmax(1)
    return float(-(code * (other / temperature).log_softmax(1)).sum(1).mean())


def _swapped(s1: Tensor, s2: Tensor, epsilon: float, temperature: float) -> float:
    return (_one(s1, s2, epsilon, temperature) + _one(s2, s1, epsilon, temperature)) / 2


def _need_constant_codes(loss, s1: Tensor, s2: Tensor):
    """The gradient must be that of the predictions alone."""
    mine = s1.clone().requires_grad_()
    value = tensor(loss, mine, s2.clone(), 0.05, 0.1, shape=())
    need(value.requires_grad, "no gradient flows at all: the predictions need one.")
    (gradient,) = torch.autograd.grad(value, mine)
    theirs = s1.clone().requires_grad_()
    code = (s2 / 0.05).softmax(1)
    wanted = -(code * (theirs / 0.1).log_softmax(1)).sum(1).mean() / 2
    (right,) = torch.autograd.grad(wanted, theirs)
    need(near(gradient, right, 1e-4), "a gradient flows through the codes: they are constants.")


@exercise
def blind_spots(answer) -> str:
    """(fools_variance(n, d), fools_covariance(n, d)), projections [n, d] each."""
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    need(is_pair, "a pair was expected: fools_variance and fools_covariance.")
    flat = tensor(answer[0], 40, 5, shape=(40, 5)).double()
    std = flat.std(0)
    need(
        std.max() > 1e-3,
        "fools_variance: the images do not differ at all, which is what the variance term sees.",
    )
    need(
        std.min() >= 1 - 1e-6,
        f"fools_variance: a channel has a standard deviation of {std.min():.2f}, and the variance "
        "term asks for 1.",
    )
    strength = torch.linalg.svdvals(flat - flat.mean(0))
    need(
        strength[1] < 1e-3 * strength[0],
        "fools_variance: the channels differ in more than one direction, so that nothing has "
        "collapsed. Let all be the same one, or multiples of it.",
    )
    point = tensor(answer[1], 40, 5, shape=(40, 5)).double()
    spread = float(point.std(0).max())
    need(
        spread <= 0.01,
        f"fools_covariance: a channel has a standard deviation of {spread:.2f}: the images differ, "
        "and nothing has collapsed to a point.",
    )
    covariance = torch.cov(point.T)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    need(off_diagonal.abs().max() < 1e-3, "fools_covariance: two channels have a covariance.")
    for name, z in (("one direction", flat), ("one point", point)):
        terms = _vicreg_terms(z)
        print(f"{name}: " + ", ".join(f"{term} {value:.2f}" for term, value in terms.items()))
    return "Each term is blind where the other one sees."


def _vicreg_terms(z: Tensor) -> dict[str, float]:
    """VICReg's variance and covariance terms of one view, without their weights."""
    missing = F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
    c = torch.cov(z.T)
    return {
        "variance term": float(missing),
        "covariance term": float((c.square().sum() - c.diagonal().square().sum()) / len(c)),
    }


@exercise
def follow(answer) -> str:
    """follow(teacher, student, m) -> the teacher's new weights; all are {name: tensor}."""
    teacher = {"stem": torch.zeros(2), "head": torch.zeros(2)}
    student = {"stem": torch.ones(2), "sim": torch.full((2,), 9.0), "head": torch.full((2,), 2.0)}
    moved = call(answer, dict(teacher), dict(student), 0.75)
    need(
        isinstance(moved, dict) and all(isinstance(value, Tensor) for value in moved.values()),
        f"a dict of tensors was expected, not {described(moved)}.",
    )
    need(
        set(moved) == set(teacher),
        f"the teacher has {sorted(teacher)}, and yours {sorted(map(str, moved))}: it keeps its own "
        "layers, and no others.",
    )
    for value in moved.values():
        need(value.shape == (2,), f"a weight became {described(value)}.")
    need(
        not near(moved["head"], torch.full((2,), 2.25)),
        "the head followed the student's second weight, which is another layer. Pair them by name: "
        "a student may have more layers than its teacher.",
    )
    need(
        not near(moved["stem"], torch.full((2,), 0.75)),
        "that is m of the student. m is how much of the teacher stays: near 1, it moves slowly.",
    )
    is_right = near(moved["stem"], torch.full((2,), 0.25)) and near(
        moved["head"], torch.full((2,), 0.5)
    )
    need(is_right, "m times the teacher plus (1 - m) times the student, weight by weight.")
    still = call(answer, dict(teacher), dict(student), 1.0)
    need(
        isinstance(still, dict) and all(near(still[k], teacher[k]) for k in teacher),
        "with m = 1 the teacher should stay what it is.",
    )
    grown = call(answer, dict(teacher), {k: v.requires_grad_() for k, v in student.items()}, 0.5)
    need(
        not any(value.requires_grad for value in grown.values()),
        "a gradient would flow into the teacher: detach the student's weights, or use "
        "torch.no_grad().",
    )
    return "By name, slowly, and without a gradient."
