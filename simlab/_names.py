"""The end of an error message about an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: object, choices: Iterable[object]) -> str:
    """Return "; did you mean ...?" with the nearest right name, or else all names that exist.

    Args:
        name: What was given.
        choices: The names that would have been right.
    """
    names = [str(choice) for choice in choices]
    matches = get_close_matches(str(name), names, n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; known: {', '.join(sorted(names)) or 'none'}"
