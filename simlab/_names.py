"""The end of an error message about an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with the nearest right name, or else all that are known."""
    known = [str(k) for k in known]
    match = get_close_matches(str(name), known, 1)
    words = ", ".join(sorted(known)) or "none"
    return f"; did you mean {match[0]!r}?" if match else f"; known: {words}"
