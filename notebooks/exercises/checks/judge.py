"""What all checks share: a verdict in words.

An answer is tried, and the first thing that is wrong with it is reported, with why it matters.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

BLANK = "still blank. Write your answer into the cell above and run both cells again."
graded = False  # set in notebooks that a program grades: it gives no point for an error alone


class NotYet(Exception):
    """Why an answer is not right; the message is the lesson."""


def exercise(check: Callable[..., str]) -> Callable[..., None]:
    """Turn `check(answer) -> what is worth saying` into one that prints its verdict."""

    @functools.wraps(check)
    def judged(answer):
        try:
            print("Right.", check(answer))
        except NotYet as why:
            if graded:
                raise AssertionError(f"Not yet: {why}") from None
            print("Not yet:", why)

    return judged


def need(holds, why: str):
    """Go on if it holds; else the verdict is `why`."""
    if not bool(holds):
        raise NotYet(why)


def call(answer: Callable, *args):
    """What the answer returns; blank answers and errors inside it become a verdict."""
    try:
        result = answer(*args)
    except NotImplementedError:
        result = None
    except Exception as error:  # whatever a learner's code may raise
        raise NotYet(f"your code stopped with {type(error).__name__}: {error}") from error
    need(result is not None and result is not ..., BLANK)
    return result


def tensor(answer: Callable, *args, shape: tuple[int, ...]) -> Tensor:
    """`call`, for an answer that has to be a finite tensor of this shape."""
    result = call(answer, *args)
    need(
        isinstance(result, Tensor),
        f"a tensor was expected, and yours is a {type(result).__name__}.",
    )
    expected = f"of shape {list(shape)}" if shape else "with a single number (no dimensions)"
    need(
        tuple(result.shape) == tuple(shape),
        f"a tensor {expected} was expected, and yours has the shape {list(result.shape)}.",
    )
    need(
        not result.is_floating_point() or result.isfinite().all(),
        "there is a NaN or an infinity in it: look for a division by zero.",
    )
    return result


def number(answer: Callable, *args) -> float:
    """`call`, for an answer that has to be one number."""
    result = call(answer, *args)
    is_scalar_array = hasattr(result, "ndim") and result.ndim == 0
    need(
        isinstance(result, int | float) or is_scalar_array,
        f"one number was expected, and yours is {described(result)}.",
    )
    need(not math.isnan(float(result)), "it is NaN: look for a division by zero.")
    return float(result)


def described(result) -> str:
    shape = f" of shape {list(result.shape)}" if hasattr(result, "shape") else ""
    return f"a {type(result).__name__}{shape}"


def near(a, b, tolerance: float = 1e-3) -> bool:
    """Equal within rounding, numbers or tensors."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return torch.allclose(a, b, atol=tolerance, rtol=1e-4)


def draws(seed: int = 0) -> torch.Generator:
    """A generator of random numbers, for `generator=` of torch's functions."""
    return torch.Generator().manual_seed(seed)


def all_predicted(answer) -> bool:
    """Whether it is a dict with True or False for everything in it."""
    return isinstance(answer, dict) and all(isinstance(value, bool) for value in answer.values())


def predictions(answer: dict, truth: dict[str, bool], why: dict[str, str]):
    """Need a complete dict of predictions that are right; else say why the first wrong one is."""
    need(
        isinstance(answer, dict) and set(answer) == set(truth),
        f"a prediction for each of these was expected: {', '.join(truth)}.",
    )
    need(
        all_predicted(answer),
        "still blank. Put True or False for each, before you run on: a prediction that you wrote "
        "down is one you can learn from.",
    )
    for name, value in truth.items():
        need(answer[name] == value, f"{name!r} is {value}. {why[name]}")
