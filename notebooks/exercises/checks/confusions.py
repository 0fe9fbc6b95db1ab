"""Which changes turn one thing into another: a check of an exercise of notebook 07b."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from simlab.augment.transforms import adjust_hue, rgb_to_grayscale

from . import drawings
from .judge import all_predicted, draws, exercise, need, predictions, tensor


@exercise
def confusions(answer) -> str:
    """(turned_into(drawings, changed [N, 3, H, W]) -> indices [N], {change: above 1 % or not})."""
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    need(is_pair, "a pair was expected: turned_into, and your predictions.")
    turned_into, predicted = answer
    images, changed = _half_way()
    result = tensor(turned_into, images.clone(), changed.clone(), shape=(len(images),))
    need(
        not result.is_floating_point() and result.min() >= -1 and result.max() < len(images),
        "indices of drawings were expected, whole numbers from 0 to N - 1, or -1.",
    )
    result = result.long()
    need(
        (result != torch.arange(len(images))).all(),
        "a drawing has become itself. Leave the diagonal out: another one was asked for.",
    )
    right = _turned_into(images, changed)
    for slip, why in _WRONG_CONFUSIONS.items():
        need(not torch.equal(result, _turned_into(images, changed, **{slip: True})), why)
    need(
        torch.equal(result, right),
        f"{int((result != right).sum())} of {len(images)} drawings get another index than they "
        "should. Try it by hand with two drawings.",
    )
    truth = dict.fromkeys(CHANGES, False)
    if all_predicted(predicted):
        truth = {name: _report_change(name) > SHARE for name in CHANGES}
    predictions(predicted, truth, _WHY)
    return "What turns one thing into another is no augmentation here; ask it of your own data."


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "mirrored": lambda x: x.flip(3),
    "upside down": lambda x: x.flip(2),
    "moved by a sixteenth": lambda x: F.pad(x, (1, 0, 0, 0), value=1.0)[..., :-1],
    "a tenth darker": lambda x: 0.9 * x,
    "hue turned by a tenth": lambda x: adjust_hue(x, torch.full((len(x),), 0.1)),
    "hue turned by a half": lambda x: adjust_hue(x, torch.full((len(x),), 0.5)),
    "without colour": lambda x: rgb_to_grayscale(x).expand_as(x),
}
SHARE = 0.01  # of the drawings
STYLE = 1  # Twemoji's

_WHY = {
    "mirrored": "Arrows, clocks and moons have a left and a right, and so have people who face "
    "right.",
    "upside down": "Thumbs up and thumbs down, and all arrows.",
    "moved by a sixteenth": "No thing is another one that stands elsewhere.",
    "a tenth darker": "No thing is another one in less light.",
    "hue turned by a tenth": "Red hearts come near to orange ones, but few things differ in colour "
    "alone, and most of those by more than a tenth of the wheel.",
    "hue turned by a half": "Half of the wheel turns the most frequent colours into each other, "
    "yellow and blue: hearts, circles, books, faces.",
    "without colour": "Hearts, circles and squares have grey and white fellows, and flags differ "
    "in little else than their colours.",
}
_WRONG_CONFUSIONS = {
    "no_half": "any drawing that is nearer than the original counts. *Half* of that distance was "
    "asked: without it whatever moves far has become something.",
    "squared": "the distances are squared, and half of a square is not the square of a half.",
    "unchanged": "distances between the drawings themselves decide. Which are near to the "
    "*changed* one?",
    "axis": "the axes are swapped: for each original it is the changed drawing that is nearest. Go "
    "from each changed drawing to the originals.",
    "farthest": "it chose the farthest drawing: a distance is small where two are alike.",
    "first": "it is the first drawing that is near enough, and not the nearest.",
    "duplicates": "a drawing that did not change has become its duplicate: 0 is not less than half "
    "of 0.",
    "always": "every drawing has become another one. Those that have not get -1.",
}


def _half_way() -> tuple[Tensor, Tensor]:
    """Drawings [20, 3, 4, 4], and each on its way to another one."""
    images = torch.rand(20, 3, 4, 4, generator=draws())
    images[1] = images[0] + 0.1 * torch.rand(3, 4, 4, generator=draws(1))
    images[19] = images[18]
    target = torch.arange(20).roll(7)
    target[5] = 1
    way = torch.tensor([0.0, 0.4, 0.55, 0.6, 0.8]).repeat(4)[:, None, None, None]
    way[5], way[18:] = 0.95, 0.0
    return images, images + way * (images[target] - images)


def _turned_into(images: Tensor, changed: Tensor, **slip: bool) -> Tensor:
    """The drawing that each changed one is nearest to, or -1; or a slip in it."""
    originals = images.flatten(1)
    views = originals if "unchanged" in slip else changed.flatten(1)
    distances = torch.cdist(views, originals)
    moved = (changed - images).flatten(1).norm(dim=1)  # [N]
    if "axis" in slip:
        distances = distances.T
    if "squared" in slip:
        distances, moved = distances.square(), moved.square()
    others = distances.clone().fill_diagonal_(math.inf)
    nearest, index = others.min(1)
    if "farthest" in slip:
        nearest, index = distances.max(1)
    limit = moved if "no_half" in slip else moved / 2
    if "first" in slip:
        index = (others < limit[:, None]).int().argmax(1)
    is_near = nearest <= limit if "duplicates" in slip else nearest < limit
    if "farthest" in slip:
        is_near = nearest > limit
    if "always" in slip:
        is_near = torch.ones_like(is_near)
    return torch.where(is_near, index, -1)


def _report_change(name: str) -> float:
    """How many drawings a change turns into another thing's; printed, with the clearest of them.

    Some flags are drawn alike: what a change does not move is not counted.
    """
    images, names = drawings.all_by(STYLE)
    changed = CHANGES[name](images)
    turned = _turned_into(images, changed)
    moved = (changed - images).flatten(1).norm(dim=1)
    indices = ((turned >= 0) & (moved > 0.1)).nonzero()[:, 0]
    left = (changed[indices] - images[turned[indices]]).flatten(1).norm(dim=1)
    clearest = indices[(left / moved[indices]).argsort()[:6:2]].tolist()
    examples = "; ".join(f"{names[i]} -> {names[turned[i]]}" for i in clearest)
    share = len(indices) / len(images)
    print(f"{name:<22}{share:6.1%}   {examples}")
    return share
