"""Checks of the exercises of notebook 02."""

import itertools

import pandas as pd
import torch

from .judge import call, draws, exercise, near, need, number, tensor

COLUMNS = ["method", "augmentation", "labels", "epochs", "accuracy"]
RUNS = pd.DataFrame(
    [
        ["SimSiam", "crop, colour", 1000, 100, 0.62],
        ["SimSiam", "crop", 1000, 100, 0.55],
        ["SimSiam", "crop, colour", 100, 100, 0.49],
        ["SimCLR", "crop, colour", 1000, 200, 0.66],
        ["SimCLR", "crop", 1000, 100, 0.57],
        ["supervised", "crop", 100, 50, 0.41],
    ],
    index=list("ABCDEF"),
    columns=COLUMNS,
)  # fmt: skip


@exercise
def draw(answer) -> str:
    """draw_labels(labels [N], number, seed) -> indices [number], as many of each class."""
    labels = torch.arange(5).repeat_interleave(40)
    labels = labels[torch.randperm(200, generator=draws())]
    chosen = tensor(answer, labels, 50, 0, shape=(50,))
    need(
        not chosen.is_floating_point() and chosen.min() >= 0 and chosen.max() < 200,
        "indices into `labels` were expected: whole numbers from 0 to N - 1.",
    )
    need(
        len(chosen.unique()) == 50,
        "an image was drawn twice. Fifty labels are fifty different images: draw without "
        "putting back (randperm, not randint).",
    )
    counts = labels[chosen].bincount(minlength=5)
    need(
        (counts == 10).all(),
        f"the classes got {counts.tolist()} labels. As many of each were asked: by chance alone a "
        "class may get too few, and the number tells more about the draw than about the features.",
    )
    need(
        sorted(tensor(answer, labels, 50, 0, shape=(50,)).tolist()) == sorted(chosen.tolist()),
        "the same seed draws other images: make a generator from `seed`.",
    )
    need(
        set(tensor(answer, labels, 50, 1, shape=(50,)).tolist()) != set(chosen.tolist()),
        "another seed draws the same images, so all intervals would have the width zero.",
    )
    return "Balanced, without repetition, and another draw for another seed."


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

    _judge_shape(call(answer, bank, labels, query, 1, 0.1), len(bank))

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
    return "The k nearest vote, the nearer with more weight, and lengths do not matter."


def _judge_shape(result, bank: int):
    """A class for each query [2], not for each image of the bank."""
    need(
        not isinstance(result, torch.Tensor) or tuple(result.shape) != (bank,),
        "a class for every image of the bank: queries and bank are swapped. Of the cosines "
        "[Q, N] the largest along dim 1 are a query's neighbours.",
    )


@exercise
def report(answer) -> str:
    """report(validation [R], test [R]) -> the accuracy to report."""
    validation = torch.tensor([0.60, 0.71, 0.73, 0.65])
    test = torch.tensor([0.58, 0.70, 0.69, 0.66])
    value = number(answer, validation, test)
    need(
        not near(value, 0.70),
        "0.70 is the highest test accuracy. The test images chose the regulariser, so they are no "
        "longer unseen: the number is too high by luck, and the more settings, the more luck.",
    )
    need(
        not near(value, 0.73),
        "0.73 is the validation accuracy by which the setting was chosen: for the same reason it "
        "is too high. Report the test images' answer for that setting.",
    )
    need(near(value, 0.69), f"it is {value:.2f}: take the test accuracy where validation is best.")
    need(
        near(number(answer, validation.flip(0), test.flip(0)), 0.69)
        and near(number(answer, test, validation), 0.71),
        "it does not follow the best validation accuracy when the numbers change.",
    )
    return "Validation chooses, the test reports, once."


@exercise
def compare(answer) -> str:
    """{column: two runs of RUNS that differ in it alone, or "no pair"}."""
    factors = ["augmentation", "labels", "method", "epochs"]
    need(
        isinstance(answer, dict) and set(answer) == set(factors),
        f"an answer for each of these was expected: {', '.join(factors)}.",
    )
    for factor in factors:
        _judge_pair(factor, answer[factor])
    return "A comparison answers a question only where nothing else differs."


def _differences(a: str, b: str) -> list[str]:
    """The factors in which two runs differ."""
    return [factor for factor in COLUMNS[:-1] if RUNS.loc[a, factor] != RUNS.loc[b, factor]]


def _judge_pair(factor: str, pair):
    need(
        pair is not None and pair != "",
        "still blank. For each question, name two runs, such as ('A', 'B'), or 'no pair'.",
    )
    if pair == "no pair":
        exists = any(
            _differences(a, b) == [factor] for a, b in itertools.combinations(RUNS.index, 2)
        )
        need(not exists, f"{factor}: there is a pair that differs in nothing else. Look again.")
        return
    is_pair = isinstance(pair, tuple | list | str) and len(pair) == 2
    need(
        is_pair and set(pair) <= set(RUNS.index),
        f"{factor}: {pair!r} is no pair of runs from A to F.",
    )
    a, b = pair
    differences = _differences(a, b)
    need(
        factor in differences,
        f"{factor}: {a} and {b} have the same {factor}, so they say nothing about it.",
    )
    others = [name for name in differences if name != factor]
    need(
        not others,
        f"{factor}: {a} and {b} also differ in {' and '.join(others)}. The difference in "
        "accuracy may come from either; the comparison is confounded.",
    )
