"""Checks of the exercises of notebook 02."""

import itertools

import pandas as pd
import torch
import torch.nn.functional as F

from .judge import draws, exercise, near, need, number, tensor

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
    """vote_of_others(features [N, D], labels [N], k, temperature) -> classes [N]."""
    generator = draws()
    labels = torch.arange(3).repeat_interleave(torch.tensor([72, 30, 18]))
    labels = labels[torch.randperm(120, generator=generator)]
    centres = torch.randn(3, 5, generator=generator)
    features = centres[labels] + 1.5 * torch.randn(120, 5, generator=generator)
    features = F.normalize(features, dim=1) * (0.2 + 2 * torch.rand(120, 1, generator=generator))
    result = tensor(answer, features.clone(), labels, 7, 0.3, shape=(120,))
    need(
        not result.is_floating_point() and result.min() >= 0,
        "classes 0, 1, ... were expected: whole numbers.",
    )
    need(
        result.max() < 3,
        "these are indices of images, and not their classes: look them up in `labels`.",
    )
    right = _vote(features, labels, 7, 0.3)
    for slip, why in _WRONG_VOTES.items():
        wrong = _vote(features, labels, 7, 0.3, **{slip: True})
        need(not torch.equal(result, wrong) or torch.equal(result, right), why)
    need(
        torch.equal(result, right),
        f"{int((result != right).sum())} of 120 images get another class than they should. Try it "
        "by hand with k = 1, where the class is that of the most similar other image.",
    )
    for k, temperature in ((1, 0.3), (7, 0.05), (15, 2.0)):
        need(
            torch.equal(
                tensor(answer, features.clone(), labels, k, temperature, shape=(120,)),
                _vote(features, labels, k, temperature),
            ),
            f"with k = {k} and a temperature of {temperature} it is wrong: are both used?",
        )
    return "The k nearest others vote, the nearer with more weight, and no class by its numbers."


_WRONG_VOTES = {
    "with_itself": "every image votes about itself as well, and nothing is more similar: with "
    "k = 1 all would be right, whatever the features are. Leave the diagonal out.",
    "least": "it chose the least similar images. A cosine is a similarity: the largest are "
    "nearest.",
    "lengths": "these are inner products. Divide the features by their norms first: without that, "
    "long ones are everybody's neighbours.",
    "channels": "each channel was divided by its length over the images (dim=0). Divide each "
    "image's features by their own length: dim=1.",
    "numbers": "a frequent class wins by its numbers: divide each vote by how many images its "
    "class has.",
    "heads": "all k votes count nearly the same. Weigh each with exp(similarity / temperature), "
    "divided and not multiplied: a low temperature listens to the nearest alone.",
    "fixed": "the temperature is not used.",
}


def _vote(
    features: torch.Tensor, labels: torch.Tensor, k: int, temperature: float, **slip: bool
) -> torch.Tensor:
    """The vote of the others, or of a slip in it."""
    u = F.normalize(features, dim=0 if "channels" in slip else 1)
    u = features if "lengths" in slip else u
    cosines = u @ u.T
    if "with_itself" not in slip:
        cosines.fill_diagonal_(torch.inf if "least" in slip else -torch.inf)
    similar, indices = cosines.topk(k, dim=1, largest="least" not in slip)  # [N, k]
    scale = 0.1 if "fixed" in slip else temperature
    weights = torch.ones_like(similar) if "heads" in slip else (similar / scale).exp()
    if "numbers" not in slip:
        weights = weights / labels.bincount()[labels[indices]]
    kinds = F.one_hot(labels[indices], int(labels.max()) + 1)  # [N, k, classes]
    return (weights[:, :, None] * kinds).sum(1).argmax(1)


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
