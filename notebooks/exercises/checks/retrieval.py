"""Retrieval across designers, and the slips in it: a check of an exercise of notebook 07b."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import drawings
from .judge import draws, exercise, near, need, number


@exercise
def recall(answer) -> str:
    """recall(features [N, D], things, designers [N], k) -> one number from 0 to 1."""
    things, designers = drawings.shelf()
    generator = draws(2)
    of_thing = torch.randn(200, 6, generator=generator)[things]
    of_designer = torch.randn(3, 6, generator=generator)[designers]
    noise = torch.randn(len(things), 6, generator=generator)
    lengths = 0.2 + 3 * torch.rand(len(things), 1, generator=generator)
    features = (of_thing + of_designer + 0.7 * noise) * lengths
    values = torch.tensor([number(answer, features.clone(), things, designers, k) for k in KS])
    need(
        (values >= 0).all() and (values <= 1).all(),
        f"a share from 0 to 1 was expected, and yours is {values[0]:.2f}.",
    )
    right = _recalls(features, things, designers)
    for slip, why in _WRONG_RECALLS.items():
        wrong = _recalls(features, things, designers, **{slip: True})
        need(not near(values, wrong, 1e-6), why)
    said = ", ".join(f"{value:.3f}" for value in values)
    expected = ", ".join(f"{value:.3f}" for value in right)
    need(near(values, right, 1e-6), f"with k = 1, 3, 5 it is {said}, expected {expected}.")
    _report_protocols(answer)
    return "Only another designer's drawing counts: nobody is found by their style."


KS = (1, 3, 5)
_WRONG_RECALLS = {
    "with_itself": "each drawing is in its own gallery, and nothing is more similar: all are found "
    "at once, whatever the features are.",
    "same_designer": "drawings by the query's designer are in the gallery, and count. Whoever drew "
    "a thing twice drew it alike: that is found by the style. Leave out all that share the "
    "query's designer.",
    "after_the_cut": "drawings by the query's designer take up some of the k. Leave them out "
    "*before* you take the k most similar.",
    "lengths": "these are inner products. Divide the features by their norms first: without that, "
    "long ones are near to everybody.",
    "channels": "each channel was divided by its length over the drawings (dim=0). Divide each "
    "drawing's features by their own length: dim=1.",
    "least": "it chose the least similar drawings. A cosine is a similarity: the largest are "
    "nearest.",
    "precision": "it is the share of the k that show the thing (a precision). For a recall one "
    "of them is enough: `any`, not `mean`.",
    "first_only": "k is not used: only the most similar drawing is looked at.",
    "one_direction": "only one designer's drawings are queries. All of them are: finding A's from "
    "B's can be easier than finding B's from A's.",
    "alone_missed": "things that no other designer drew count as not found. There is nothing to "
    "find for them: leave them out of the share.",
}


def _recalls(features: Tensor, things: Tensor, designers: Tensor, **slip: bool) -> Tensor:
    return torch.tensor([recall_of(features, things, designers, k, **slip) for k in KS])


def recall_of(features: Tensor, things: Tensor, designers: Tensor, k: int, **slip: bool) -> float:
    """Recall at k across designers, or with a slip in it."""
    u = features if "lengths" in slip else F.normalize(features, dim=0 if "channels" in slip else 1)
    cosines = u @ u.T  # [N, N]
    same_thing = things[:, None] == things[None, :]
    same_designer = designers[:, None] == designers[None, :]
    is_itself = torch.eye(len(things), dtype=torch.bool)
    left_out = same_designer
    if "same_designer" in slip or "after_the_cut" in slip:
        left_out = is_itself
    if "with_itself" in slip:
        left_out = torch.zeros_like(is_itself)
    cosines = cosines.masked_fill(left_out, math.inf if "least" in slip else -math.inf)
    indices = cosines.topk(1 if "first_only" in slip else k, dim=1, largest="least" not in slip)[1]
    hits = same_thing
    if "after_the_cut" in slip:
        hits = hits & ~same_designer
    hits = hits.gather(1, indices)  # [N, k]
    is_found = hits.float().mean(1) if "precision" in slip else hits.any(1).float()
    is_query = (same_thing & ~same_designer).any(1)
    if "one_direction" in slip:
        is_query = is_query & (designers == designers.min())
    if "alone_missed" in slip:
        is_query = torch.ones_like(is_query)
    return float(is_found[is_query].mean())


def _report_protocols(answer):
    """The same pixels by the answer's protocol, and by two that flatter."""
    test = drawings.emoji()[1]
    pixels = drawings.standardised(test.images).flatten(1)
    honest, lenient = (
        number(answer, pixels, test.things, designers, 1)
        for designers in (test.designers, test.styles)
    )
    print(f"raw pixels of held-out things, k = 1: {honest:.2f} by your protocol")
    print(f"with Fluent's flat and modern drawings as two designers': {lenient:.2f}")
    with_itself = recall_of(pixels, test.things, test.designers, 1, with_itself=True)
    print(f"with the query in its own gallery: {with_itself:.2f}")
