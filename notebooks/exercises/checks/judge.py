"""What all checks share: a verdict in words. An answer is tried, and the first thing that is wrong
with it is said together with why it matters."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

BLANK = "still blank. Write your answer into the cell above and run both cells again."


class NotYet(Exception):
    """Why an answer is not right; the message is the lesson."""


def exercise(check: Callable[..., str]) -> Callable[..., None]:
    """Turn `check(answer) -> what is worth saying` into one that prints its verdict."""

    @functools.wraps(check)
    def judged(answer):
        try:
            print("Right.", check(answer))
        except NotYet as why:
            print("Not yet:", why)

    return judged


def need(holds, why: str):
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
    what = f"of shape {list(shape)}" if shape else "with a single number (no dimensions)"
    need(
        tuple(result.shape) == tuple(shape),
        f"a tensor {what} was expected, and yours has the shape {list(result.shape)}.",
    )
    need(
        not result.is_floating_point() or result.isfinite().all(),
        "there is a NaN or an infinity in it: look for a division by zero.",
    )
    return result


def number(answer: Callable, *args) -> float:
    """`call`, for an answer that has to be one number."""
    result = call(answer, *args)
    single = isinstance(result, int | float) or (hasattr(result, "ndim") and result.ndim == 0)
    need(single, f"one number was expected, and yours is {described(result)}.")
    need(float(result) == float(result), "it is NaN: look for a division by zero.")
    return float(result)


def described(result) -> str:
    shape = f" of shape {list(result.shape)}" if hasattr(result, "shape") else ""
    return f"a {type(result).__name__}{shape}"


def near(a, b, tolerance: float = 1e-3) -> bool:
    """Equal within rounding, numbers or tensors."""
    return bool(torch.allclose(torch.as_tensor(a).double(), torch.as_tensor(b).double(),
                               atol=tolerance, rtol=1e-4))  # fmt: skip


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictions(answer: dict, truth: dict[str, bool], why: dict[str, str]):
    """A dict of predictions is complete, and each is right; else the reason of the first wrong one."""
    need(isinstance(answer, dict) and set(answer) == set(truth),
         f"a prediction for each of these was expected: {', '.join(truth)}.")  # fmt: skip
    need(all(isinstance(value, bool) for value in answer.values()),
         "still blank. Put True or False for each, before you run on: a guess that you wrote down "
         "is one you can learn from.")  # fmt: skip
    for name, value in truth.items():
        need(answer[name] == value, f"{name!r} is {value}. {why[name]}")
