"""Checks of the exercises of notebook 01."""

import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from . import toys
from .judge import call, draws, exercise, near, need, number, tensor

LR, MOMENTUM = 0.1, 0.9  # of the single step that is checked
RIGHT_REASON = "C"
BLANK_REASON = "still blank. Write the letter of the reason into `reason`."


# ------------------------------------------------------------------------------ a training step


class _Parts:
    """What one step takes: networks [5, 6] -> [5, 4] without BatchNorm, and an optimizer."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.student = nn.Linear(6, 4)
            self.predictor = nn.Linear(4, 4)
            self.teacher = nn.Linear(6, 4)
            self.x1, self.x2 = torch.randn(2, 5, 6)
        weights = [*self.student.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.SGD(weights, lr=LR)

    def outputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predictions p1, p2 and targets t1, t2, [5, 4] each."""
        p1, p2 = (self.predictor(self.student(x)) for x in (self.x1, self.x2))
        with torch.no_grad():
            t1, t2 = self.teacher(self.x1), self.teacher(self.x2)
        return p1, p2, t1, t2

    def arguments(self) -> tuple:
        parts = self.student, self.predictor, self.teacher, self.optimizer
        return *parts, self.x1, self.x2, MOMENTUM


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b, dim=-1).mean()


def _flat(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0)


def _over_batch(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b, dim=0).mean()


def _axes_swapped(a: Tensor, b: Tensor) -> Tensor:
    return (F.normalize(a, dim=0) * F.normalize(b, dim=0)).sum(1).mean()


def _wrong_losses() -> list[tuple[float, str]]:
    """The values that typical slips give, and what to say of each."""
    parts = _Parts()
    p1, p2, t1, t2 = parts.outputs()
    p1, p2 = p1.detach(), p2.detach()
    z1, z2 = (parts.student(x).detach() for x in (parts.x1, parts.x2))
    right = -(_cosine(p1, t2) + _cosine(p2, t1)) / 2
    return [
        (float(-right), "it has the wrong sign: views that agree must have the lowest loss, -1."),
        (float(2 * right), "it is twice as large: the two directions count one half each."),
        (
            float(5 * right),
            "it is the sum over the batch: take the mean over the N images, or the learning rate "
            "would depend on the batch size.",
        ),
        (
            float(-(_flat(p1, t2) + _flat(p2, t1)) / 2),
            "it is one cosine of the whole flattened batch. Long vectors then count more than "
            "short ones: take a cosine for each image, and their mean.",
        ),
        (
            float(-(_over_batch(p1, t2) + _over_batch(p2, t1)) / 2),
            "the cosine is taken over the batch (dim=0): it compares a channel of all images. "
            "Compare an image's vector with its target: dim=-1.",
        ),
        (
            float(-(_axes_swapped(p1, t2) + _axes_swapped(p2, t1)) / 2),
            "F.normalize with dim=0 divides each channel by its length over the batch: batch and "
            "feature axes are swapped. Divide each image's vector by its own length: dim=1.",
        ),
        (
            float(-(_cosine(p1, t1) + _cosine(p2, t2)) / 2),
            "the prediction of a view is compared with the target of the same view, so that the "
            "views never meet: p1 predicts the teacher's t2, and p2 its t1.",
        ),
        (
            float(-(_cosine(p1, z2) + _cosine(p2, z1)) / 2),
            "the targets are the student's own z: that is SimSiam. Here they are the teacher's.",
        ),
        (
            float(-(_cosine(z1, t2) + _cosine(z2, t1)) / 2),
            "the predictor is not used: p = predictor(student(x)).",
        ),
        (float(-_cosine(p1, t2)), "only one direction counts. Add that of p2, and halve."),
        (float(-_cosine(p2, t1)), "only one direction counts. Add that of p1, and halve."),
    ]


@exercise
def step(answer) -> str:
    """training_step(student, predictor, teacher, optimizer, x1, x2, momentum) -> loss."""
    parts, reference = _Parts(), _Parts()
    p1, p2, t1, t2 = reference.outputs()
    right = -(_cosine(p1, t2) + _cosine(p2, t1)) / 2
    old_gradient = torch.ones_like(parts.student.weight)
    parts.student.weight.grad = old_gradient.clone()  # of a step before
    before = copy.deepcopy(parts.student), copy.deepcopy(parts.teacher)
    value = number(answer, *parts.arguments())
    for wrong, why in _wrong_losses():
        need(
            not near(value, wrong, 1e-5) or near(value, right, 1e-5),
            f"the loss is {value:.4f}: {why}",
        )
    need(near(value, right), f"the loss is {value:.4f}, expected {float(right.detach()):.4f}.")

    reference.optimizer.zero_grad()
    right.backward()
    reference.optimizer.step()
    _judge_student(parts, reference, before[0], old_gradient)
    _judge_teacher(parts, reference, *before)

    student, predictor = toys.networks()
    teacher = copy.deepcopy(student)
    weights = [*student.parameters(), *predictor.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.3, momentum=0.9)
    end = toys.train_on_clouds(
        student,
        lambda x1, x2: number(answer, student, predictor, teacher, optimizer, x1, x2, MOMENTUM),
    )
    print(f"150 of your steps: {end}")
    return "The loss, one step of the student, and a teacher that follows: this is BYOL."


def _judge_student(parts: _Parts, reference: _Parts, old: nn.Linear, old_gradient: Tensor):
    weight = parts.student.weight
    need(
        not near(weight, old.weight, 1e-7),
        "the student has not moved. Is there a loss.backward() and an optimizer.step()?",
    )
    need(
        not near(weight, reference.student.weight - LR * old_gradient, 1e-6),
        "the gradient of the step before was added to this one's: optimizer.zero_grad() is "
        "missing before loss.backward().",
    )
    need(
        near(weight, reference.student.weight, 1e-6),
        "the loss is right, but the student moved by another gradient. Does it flow through "
        "both predictions?",
    )


def _judge_teacher(parts: _Parts, reference: _Parts, old: nn.Linear, old_teacher: nn.Linear):
    need(
        parts.teacher.weight.grad is None,
        "a gradient reaches the teacher. Compute its targets under torch.no_grad(), or detach "
        "them: a target is a constant.",
    )
    weight, new = parts.teacher.weight, reference.student.weight
    mixed = MOMENTUM * old_teacher.weight + (1 - MOMENTUM) * new
    inverted = (1 - MOMENTUM) * old_teacher.weight + MOMENTUM * new
    early = MOMENTUM * old_teacher.weight + (1 - MOMENTUM) * old.weight
    need(
        not near(weight, old_teacher.weight, 1e-7),
        "the teacher has not moved: after the optimizer's step it follows the student.",
    )
    need(
        not near(weight, inverted, 1e-6),
        "the momentum is the wrong way round: with 0.9 a teacher keeps nine tenths of itself.",
    )
    need(
        not near(weight, early, 1e-6),
        "the teacher follows the student of before the step: move it after optimizer.step().",
    )
    need(
        near(weight, mixed, 1e-6),
        "the teacher's weights are not momentum * teacher + (1 - momentum) * student.",
    )
    bias = MOMENTUM * old_teacher.bias + (1 - MOMENTUM) * reference.student.bias
    need(near(parts.teacher.bias, bias, 1e-6), "the teacher's weight follows, and its bias not.")


# ---------------------------------------------------------------------------- a direct predictor


@exercise
def direct(answer) -> str:
    """direct_predictor(z [N, d], epsilon) -> the predictor's weights [d, d]."""
    z = torch.randn(50, 8, generator=draws()) * torch.linspace(2, 0.3, 8) + 0.5
    weights = call(answer, z, 0.1)
    need(
        not isinstance(weights, Tensor) or weights.shape != (50, 50),
        "a matrix [50, 50] of all pairs of images: batch and feature axes are swapped. C has a "
        "row and a column for every channel, [8, 8].",
    )
    weights = tensor(answer, z, 0.1, shape=(8, 8))
    u = F.normalize(z, dim=1)
    c = u.T @ u / 50  # [8, 8]
    right = c / torch.linalg.matrix_norm(c, 2) + 0.1 * torch.eye(8)
    raw = z.T @ z / 50
    need(
        not near(weights, raw / torch.linalg.matrix_norm(raw, 2) + 0.1 * torch.eye(8)),
        "the rows of z were not divided by their lengths: the loss sees directions alone.",
    )
    columns = F.normalize(z, dim=0)
    swapped = columns.T @ columns / 50
    need(
        not near(weights, swapped / torch.linalg.matrix_norm(swapped, 2) + 0.1 * torch.eye(8)),
        "each channel was divided by its length over the batch (dim=0): batch and feature axes "
        "are swapped. Divide each image's z by its own length: dim=1.",
    )
    need(
        not near(weights, c / torch.linalg.matrix_norm(c) + 0.1 * torch.eye(8)),
        "C was divided by its Frobenius norm, which is what `norm` gives for a matrix. The "
        "largest eigenvalue is torch.linalg.matrix_norm(C, 2).",
    )
    need(not near(weights, c + 0.1 * torch.eye(8)), "C was not divided by its largest eigenvalue.")
    need(
        not near(weights, c / torch.linalg.matrix_norm(c, 2) + 0.1),
        "epsilon was added to every entry. It belongs on the diagonal: epsilon times torch.eye(d).",
    )
    centred = (u - u.mean(0)).T @ (u - u.mean(0)) / 50
    need(
        not near(weights, centred / torch.linalg.matrix_norm(centred, 2) + 0.1 * torch.eye(8)),
        "the mean was subtracted: that is the covariance. The correlation keeps it.",
    )
    need(
        near(weights, right), "it is not C divided by its largest eigenvalue plus epsilon times I."
    )
    needs_gradient = z.clone().requires_grad_()
    need(
        not tensor(answer, needs_gradient, 0.1, shape=(8, 8)).requires_grad,
        "a gradient flows through the weights. They are computed, not trained: detach z first.",
    )
    end = _train_with_weights(answer)
    print(f"150 steps with your predictor: {end}")
    return "No collapse, and no predictor was trained: the correlations of z are enough."


def _train_with_weights(answer) -> toys.Outcome:
    encoder, _ = toys.networks()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.3, momentum=0.9)

    def training_step(x1: Tensor, x2: Tensor) -> float:
        z1, z2 = encoder(x1), encoder(x2)
        weights = tensor(answer, torch.cat([z1, z2]).detach(), 0.1, shape=(32, 32))
        loss = -(_cosine(z1 @ weights, z2.detach()) + _cosine(z2 @ weights, z1.detach())) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return toys.train_on_clouds(encoder, training_step)


# -------------------------------------------------------------------------------------- break it


@exercise
def broken(answer) -> str:
    """(broken_loss(p1, p2, z1, z2), the letter of the reason)."""
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    need(is_pair, "a pair was expected: your loss, and the letter of the reason.")
    loss, reason = answer
    p1, p2, z1, z2 = torch.randn(4, 16, 8, generator=draws())
    tensor(loss, p1, p2, z1, z2, shape=())
    need(
        near(tensor(loss, z1, z1, z1, z1, shape=()), -1, 0.01),
        "views that agree no longer have the loss -1: then it is another loss. Break it by what "
        "a gradient flows through, not by what is compared.",
    )
    need(
        float(tensor(loss, z1, z1, z2, z2, shape=())) > -0.8,
        "views that differ have a loss near -1 as well: it no longer asks the views to agree.",
    )
    end = _train_with_loss(loss)
    print(f"150 steps with your loss: {end}")
    need(
        end.std < 0.5,
        f"it does not collapse: the std of z is {end.std:.2f}. What keeps all z from moving to one "
        "point? Take that away.",
    )
    need(reason is not None and reason != "", BLANK_REASON)
    need(reason in ("A", "B", "C", "D"), f"the reason is {reason!r}: expected A, B, C or D.")
    why = {
        "A": "SimSiam pushes no image away from another, with or without your change.",
        "B": "the loss has the same lowest value, -1, before and after your change.",
        "D": "the views still differ, and the network was not told of it in any other way.",
    }
    need(reason == RIGHT_REASON, f"{reason} is not the reason: {why.get(reason, '')}")
    return "Now write down for your neighbour why half of the gradient was enough to prevent it."


def _train_with_loss(loss) -> toys.Outcome:
    encoder, predictor = toys.networks()
    optimizer = torch.optim.SGD(
        [*encoder.parameters(), *predictor.parameters()], lr=0.3, momentum=0.9
    )

    def training_step(x1: Tensor, x2: Tensor) -> float:
        z1, z2 = encoder(x1), encoder(x2)
        value = tensor(loss, predictor(z1), predictor(z2), z1, z2, shape=())
        need(value.requires_grad, "no gradient flows at all, so nothing is trained.")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return float(value.detach())

    return toys.train_on_clouds(encoder, training_step)


# --------------------------------------------------------------------------- design augmentation


@exercise
def augmentation(answer) -> str:
    """augment(images [N, 1, 8, 8], generator) -> one view of the same shape."""
    images, labels = toys.drawn_images()
    batch = images[:64].clone()
    view = tensor(answer, batch, draws(), shape=tuple(batch.shape))
    need(torch.equal(batch, images[:64]), "the images themselves were changed. A view is a copy.")
    need(
        near(view, tensor(answer, batch, draws(), shape=tuple(batch.shape))),
        "the same seed gives another view. Hand `generator` to every random draw: a run that "
        "cannot be repeated cannot be debugged.",
    )
    need(not near(view, batch), "the view is the image itself: there is nothing to ignore.")
    same = batch[:1].expand(64, -1, -1, -1).clone()
    views = tensor(answer, same, draws(), shape=tuple(batch.shape))
    need(
        not near(views, views[:1].expand_as(views)),
        "all images of the batch get the same draw. Each needs its own, [N] numbers and not one; "
        "a known mistake of batched augmentation.",
    )
    features = toys.features_that_agree(answer)
    accuracy = toys.neighbours_agree(features, labels)
    pixels = toys.neighbours_agree(images.flatten(1), labels)
    print(f"kNN accuracy: raw pixels {pixels:.0%}, features learned with yours {accuracy:.0%}")
    mirrored = _mirror_pairs(features, labels)
    need(
        mirrored < 0.8 or accuracy >= GOOD,
        "L and its mirror image, or T and the upside-down T, are hardly told apart. An "
        "augmentation that turns one class into another tells the network that they are the same.",
    )
    need(
        accuracy >= GOOD,
        f"better than {GOOD:.0%} was asked. In what do two images of one class differ here? Let "
        "the two views differ in that.",
    )
    return "The views differ in what does not matter, and agree in what does."


GOOD = 0.9


def _mirror_pairs(features: Tensor, labels: Tensor) -> float:
    """The share of the wrong neighbours' votes that fall on the mirror image of the class."""
    u = F.normalize(features, dim=1)
    nearest = (u @ u.T).fill_diagonal_(-2).topk(5, dim=1).indices
    votes = labels[nearest].mode(1).values
    wrong = votes != labels
    return float((votes[wrong] // 2 == labels[wrong] // 2).float().mean()) if wrong.any() else 0.0
