"""What is noticed while a dataset is loaded, for whoever uses it."""

import sys
import warnings


class Notes:
    """Sentences on what was left out, converted or chosen; they end up in `Dataset.notes`.

    `say` notes what is good to know; `warn` notes it and issues a UserWarning as well.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        """Note a sentence."""
        self.texts.append(text)

    def warn(self, text: str) -> None:
        """Note a sentence, and warn of it at the line that loads the dataset."""
        self.say(text)
        warnings.warn(text, UserWarning, stacklevel=_levels_to_the_caller())


def count(number: int, thing: str) -> str:
    """A number and its thing: 1 file, 2 files, 1,200 files."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _levels_to_the_caller() -> int:
    """How many frames above `warn` the first one outside of this package is."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(__package__ or ""):
        frame = frame.f_back
        level += 1
    return level
