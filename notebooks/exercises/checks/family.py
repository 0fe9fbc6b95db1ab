"""Checks of the exercises of notebook 07."""

import torch
import torch.nn.functional as F
from torch import Tensor

from simlab.methods import sinkhorn

from .judge import call, described, draws, exercise, near, need, tensor


def _cosines(n: int, k: int, seed: int = 0) -> Tensor:
    images, prototypes = torch.randn(2, max(n, k), 8, generator=draws(seed))
    return F.normalize(images[:n], dim=1) @ F.normalize(prototypes[:k], dim=1).T


@exercise
def share_out(answer) -> str:
    """share_out(scores [N, K], epsilon) -> codes [N, K]: Sinkhorn's algorithm, three rounds."""
    scores = _cosines(24, 6)
    right = sinkhorn(scores, 0.05)
    codes = tensor(answer, scores.clone(), 0.05, shape=(24, 6))
    need((codes >= 0).all(), "there are negative shares: begin with exp(scores / epsilon).")
    rows = codes.sum(1)
    need(
        not near(rows, torch.full((24,), 1 / 24), 1e-4),
        "each image's shares sum to 1/N. A code is a distribution over the prototypes: times N at "
        "the end.",
    )
    need(
        near(rows, torch.ones(24), 1e-4),
        "an image's shares should sum to 1. End each round with the images (rows), to have them "
        "exact.",
    )
    masses = codes.sum(0)
    need(
        not near(codes, (scores / 0.05).softmax(1), 1e-4),
        "this is a softmax, which lets all images go to one prototype. Divide each prototype "
        "(column) by its mass as well, round after round.",
    )
    need(
        near(tensor(answer, scores + 0.3, 0.05, shape=(24, 6)), codes, 1e-4),
        "adding one number to all scores changes the result: it should not.",
    )
    softer = tensor(answer, scores.clone(), 0.5, shape=(24, 6))
    need(not near(softer, codes), "another epsilon gives the same codes: is it used?")
    need(
        masses.max() / masses.min() < 1.2 * right.sum(0).max() / right.sum(0).min(),
        "the prototypes' shares are more unequal than after three rounds: "
        f"{masses.min():.1f} to {masses.max():.1f} images.",
    )
    need(
        near(codes, right, 1e-4), "nearly: three rounds, first prototypes, then images, were asked."
    )
    return "Every image is shared out, and every prototype gets about as much."


@exercise
def hinge(answer) -> str:
    """hinge(z [N, d]) -> VICReg's variance term: how much of a std of 1 is missing, on average."""
    z = torch.randn(40, 5, generator=draws(1)) * torch.tensor([0.1, 0.5, 0.9, 1.5, 3.0])
    missing = F.relu(1 - (z.var(0) + 1e-4).sqrt())
    value = tensor(answer, z.clone(), shape=())
    need(
        not near(value, (1 - (z.var(0) + 1e-4).sqrt()).mean()),
        "a dimension that varies more than it must makes up for one that does not vary. Cut off at "
        "0, dimension by dimension: F.relu.",
    )
    need(
        not near(value, F.relu(1 - (z.var(0) + 1e-4).sqrt().mean())),
        "cut off before you average: one dimension of std 3 hides four that collapsed.",
    )
    need(
        not near(value, F.relu(1 - z.var(0)).mean(), 2e-3),
        "this is the variance; near a collapse its gradient vanishes. The paper takes its root.",
    )
    need(
        not near(value, F.relu(1 - (z.var(1) + 1e-4).sqrt()).mean()),
        "over the images (dimension 0) and not over an image's dimensions: the question is whether "
        "images differ.",
    )
    need(not near(value, missing.sum()), "the mean over the dimensions, not their sum.")
    need(near(value, missing.mean(), 2e-3), f"{float(value):.4f}, and not {missing.mean():.4f}.")
    collapsed = torch.zeros(40, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(call(answer, collapsed), collapsed, allow_unused=True)
    need(
        gradient is not None and gradient.isfinite().all(),
        "of features that are all equal the gradient is NaN: a root has no slope at 0. Add 1e-4 to "
        "the variance, inside of the root.",
    )
    return "Each dimension must vary, and at a collapse the gradient is still a number."


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
