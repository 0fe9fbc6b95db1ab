"""Words for errors: the nearest names beside an unknown one."""

import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def nearest(name: object, names: Iterable[str]) -> str:
    """Word "; did you mean 'x' or 'y'?" for an unknown name; empty where nothing is near."""
    close = difflib.get_close_matches(str(name), list(dict.fromkeys(names)), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def one_of(value: T, names: Iterable[str], what: str) -> T:
    """Return `value` if it is one of `names`; else raise ValueError with the nearest and all."""
    names = list(names)
    if value in names:
        return value
    raise ValueError(
        f"{what}={value!r}{nearest(value, names)}; expected one of: {', '.join(names) or 'none'}"
    )
