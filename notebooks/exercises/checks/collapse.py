"""Checks of the exercises of notebook 03."""

import functools

import torch
import torch.nn as nn
import torch.nn.functional as F

from .judge import all_predicted, draws, exercise, near, need, number, predictions

WHY = {
    "SimSiam as it is": "With stop-gradient and predictor the spread of z stays near 1.",
    "without stop-gradient": "The loss is then smallest when all z are one point, and gradient "
    "descent finds that: the targets move towards the predictions.",
    "without predictor": "With p = z the stop-gradient alone does not help: each view pulls the "
    "other one, and all images end in one point.",
    "batches of 32 instead of 128": "No image is pushed away from another, so SimSiam needs no "
    "large batches: it has no negatives.",
}
OPTIONS = {
    "SimSiam as it is": {},
    "without stop-gradient": {"stop_gradient": False},
    "without predictor": {"predictor": False},
    "batches of 32 instead of 128": {"batch": 32},
}


@functools.cache
def toy(
    stop_gradient: bool = True, predictor: bool = True, batch: int = 128
) -> tuple[float, float]:
    """Loss and spread of z after 150 steps of SimSiam on ten clouds of vectors; half a second."""
    generator = draws()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
        predict = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32))
    if not predictor:
        predict = nn.Identity()
    centres = torch.randn(10, 20, generator=generator)
    x = centres[torch.arange(512) % 10] + 0.3 * torch.randn(512, 20, generator=generator)
    weights = [*encoder.parameters(), *predict.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.3, momentum=0.9)
    for _ in range(150):
        sample = x[torch.randint(512, (batch,), generator=generator)]
        z1 = encoder(sample + 0.3 * torch.randn(sample.shape, generator=generator))
        z2 = encoder(sample + 0.3 * torch.randn(sample.shape, generator=generator))
        target1, target2 = z1, z2
        if stop_gradient:
            target1, target2 = z1.detach(), z2.detach()
        cosine12 = F.cosine_similarity(predict(z1), target2)
        cosine21 = F.cosine_similarity(predict(z2), target1)
        loss = -(cosine12 + cosine21).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    spread = F.normalize(z1.detach(), dim=1).std(0).mean() * 32**0.5
    return float(loss.detach()), float(spread)


@exercise
def ablations(answer) -> str:
    """{run: does it collapse?}; the runs are made here, after the prediction."""
    truth = dict.fromkeys(OPTIONS, False)
    if all_predicted(answer):
        for name, options in OPTIONS.items():
            loss, spread = toy(**options)
            truth[name] = spread < 0.5
            print(f"{name:<30} loss {loss:6.2f}   spread of z {spread:4.1f}")
    predictions(answer, truth, WHY)
    return "And see: the collapsed runs have the *lower* loss. The loss alone tells you nothing."


@exercise
def spread(answer) -> str:
    """spread(z [N, d]) -> sqrt(d) times the mean std of the normalised z's channels."""
    z = torch.randn(2000, 16, generator=draws())
    healthy = number(answer, z)
    longer = z * (1 + 9 * torch.rand(2000, 1, generator=draws(1)))
    need(
        near(number(answer, longer), healthy, 0.03),
        "it changes when some vectors get longer. The loss does not see lengths, so the "
        "measure must not either: divide each z by its norm first.",
    )
    need(
        number(answer, z[:1] + 1e-6 * z[:50]) < 1e-3,
        "when every image gets the same z it should be 0. Is the spread taken over the images "
        "(dim 0) and not over the channels?",
    )
    need(
        not near(healthy, 0.25, 0.02),
        "for features that use all directions it is 1 / sqrt(d), here 0.25. Multiply by sqrt(d), "
        "so that healthy is 1 whatever the width.",
    )
    need(
        near(healthy, 1, 0.03), f"for features that use all directions it is {healthy:.2f}, not 1."
    )
    wide = torch.randn(2000, 64, generator=draws(2))
    need(near(number(answer, wide), 1, 0.03), "with 64 channels instead of 16 it is no longer 1.")
    return "0 for one point, 1 for all directions, whatever the lengths and the width."


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
    need(near(value, right, 0.01), f"one strong and seven weak: {value:.2f}, expected {right:.2f}.")
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=draws(2)))
    need(
        near(number(answer, weak @ rotation), value, 0.01),
        "it changes when the features are rotated: look at directions, not at single channels.",
    )
    return "It counts directions by their strength, whatever the scale and the rotation."
