"""Checks of the exercises of notebook 01."""

import torch
from torch import Tensor

from .judge import call, draws, exercise, near, need, tensor


@exercise
def loss(answer) -> str:
    """simsiam_loss(p1, p2, z1, z2) of [N, d] each."""
    p1, p2, z1, z2 = torch.randn(4, 16, 8, generator=draws())
    value = tensor(answer, p1, p2, z1, z2, shape=())
    for longer in ((3 * p1, 3 * p2, z1, z2), (p1, p2, 3 * z1, 3 * z2)):
        need(
            near(tensor(answer, *longer, shape=()), value),
            "it changes when vectors get three times as long. A cosine does not see lengths: "
            "divide by the norms, or use F.cosine_similarity.",
        )
    agree = tensor(answer, z1, z1, z1, z1, shape=())
    need(
        not near(agree, 1),
        "for views that agree it is +1, the worst a loss can do. It is the *negative* cosine.",
    )
    need(
        not near(agree, -16),
        "for views that agree it is -16, the number of images: take their mean and not their "
        "sum, or the learning rate would depend on the batch size.",
    )
    need(
        near(value, tensor(answer, p2, p1, z2, z1, shape=())),
        "it changes when the two views change places. Neither view is the first one by nature: "
        "add the other direction, D(p2, z1).",
    )
    need(
        not near(agree, -2),
        "for views that agree it is -2. There are two directions: each counts one half.",
    )
    need(
        near(tensor(answer, z2, z1, z1, z2, shape=()), -1),
        "the prediction of one view is compared with the same view. p1 has to predict z2, and p2 "
        "has to predict z1; otherwise the views never meet.",
    )
    need(near(agree, -1), f"for views that agree it is {float(agree):.2f} and should be -1.")
    p1, p2, z1, z2 = (t.clone().requires_grad_() for t in (p1, p2, z1, z2))
    value = tensor(answer, p1, p2, z1, z2, shape=())
    if value.requires_grad:
        value.backward()
    need(
        _has_gradient(p1) and _has_gradient(p2),
        "no gradient reaches the predictions p1 and p2, so nothing would learn. The stop-gradient "
        "belongs to the targets z.",
    )
    need(
        not _has_gradient(z1) and not _has_gradient(z2),
        "the value is right, but a gradient flows into z. The target must be taken as it is: "
        "z.detach(). Without that the targets move towards the predictions, and everything "
        "collapses into one point (notebook 3).",
    )
    return "It is symmetric, blind to lengths, -1 at best, and z gets no gradient."


def _has_gradient(t: Tensor) -> bool:
    return t.grad is not None and bool(t.grad.abs().max() > 0)


@exercise
def views(answer) -> str:
    """two_views(x, generator): x float [N, 1, H, W] -> two of them."""
    x = 0.5 + torch.rand(256, 1, 4, 4, generator=draws(1))
    original = x.clone()
    pair = call(answer, x, draws())
    need(isinstance(pair, tuple | list) and len(pair) == 2, "two views were expected.")
    first = tensor(lambda: pair[0], shape=tuple(x.shape))
    second = tensor(lambda: pair[1], shape=tuple(x.shape))
    need(torch.equal(x, original), "the images themselves were changed. A view is a copy.")
    again = call(answer, x, draws())
    need(
        near(first, again[0]) and near(second, again[1]),
        "the same seed gives other views. Hand `generator` to every random draw: a run that cannot "
        "be repeated cannot be debugged.",
    )
    need(
        not near(first, second),
        "both views are the same. Draw twice: what two *different* views share is the lesson.",
    )
    mirrored = []
    for view in (first, second):
        flips, factors = _explain(x, view)
        need(
            flips.float().std() > 0,
            "all images of the batch are mirrored, or none. Each needs its own draw, [N] numbers "
            "and not one; a known mistake of batched augmentation.",
        )
        need(
            factors.std() > 1e-3,
            "all images of the batch get the same brightness: draw one factor for each, "
            "shape [N, 1, 1, 1].",
        )
        need(
            factors.min() > 0.599 and factors.max() < 1.401,
            f"the factors go from {factors.min():.2f} to {factors.max():.2f}: "
            "0.6 to 1.4 was asked.",
        )
        need(
            factors.min() < 0.7 and factors.max() > 1.3,
            "the factors do not fill the range from 0.6 to 1.4.",
        )
        mirrored.append(flips)
    share = torch.cat(mirrored).float().mean()
    need(0.4 < share < 0.6, f"{share:.0%} of the images are mirrored: one half was asked.")
    return "Every image has its own draw, and the same seed gives the same views."


def _explain(x: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each image was mirrored [N], and by which factor it was multiplied [N]."""
    factors = (view.sum((1, 2, 3)) / x.sum((1, 2, 3)))[:, None, None, None]
    straight = (x * factors - view).abs().amax((1, 2, 3)) < 1e-4
    mirrored = (x.flip(-1) * factors - view).abs().amax((1, 2, 3)) < 1e-4
    need(
        (straight | mirrored).all(),
        "a view is not its image, mirrored left to right or not, times one factor.",
    )
    return mirrored, factors.flatten()


@exercise
def vote(answer) -> str:
    """knn_vote(bank [N, D], labels [N], queries [Q, D], k, temperature) -> classes [Q]."""
    # five directions of the plane, in degrees from the query at 0
    degrees = torch.tensor([5.0, 40.0, 41.0, 120.0, 180.0])
    labels = torch.tensor([2, 0, 0, 1, 1])
    bank = torch.stack((torch.cos(degrees.deg2rad()), torch.sin(degrees.deg2rad())), dim=1)
    query = torch.tensor([[1.0, 0.0], [2.0, 0.0]])

    def classes(k, temperature, bank=bank):
        return tensor(answer, bank, labels, query, k, temperature, shape=(2,)).tolist()

    nearest = classes(1, 0.1)
    need(
        nearest != [1, 1],
        "it chose the least similar image. A cosine is a similarity: the largest are nearest.",
    )
    if nearest == [0, 0]:
        need(
            classes(1, 0.1, bank.roll(1, 0)) == [0, 0],
            "it returns the index of the nearest image in the bank and not its class: look it "
            "up in `labels`.",
        )
    need(
        nearest == [2, 2],
        "with k=1 a query gets the class of its most similar image, which is 2 here.",
    )
    far = bank.clone()
    far[1:3] *= 10
    need(
        classes(1, 0.1, far) == [2, 2],
        "it changes when features get longer. Divide them by their norms first: without that, "
        "bright images are everybody's neighbours.",
    )
    need(
        classes(3, 0.05) == [2, 2],
        "one neighbour at 5 degrees and two at 40 do not count the same. Weigh each vote with "
        "exp(similarity / temperature).",
    )
    need(
        classes(3, 50.0) == [0, 0],
        "with a high temperature all k votes count the same, and two of three say 0. Is the "
        "temperature used, and are k neighbours asked?",
    )
    need(
        classes(5, 0.05) == [2, 2] and classes(3, 50.0, bank.flip(0)) in ([1, 1], [2, 2]),
        "it depends on something other than the k most similar images.",
    )
    return "The k nearest vote, the nearer the louder, and lengths do not matter."
