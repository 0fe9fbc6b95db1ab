"""What `make run` shows while it works: a line for each lesson, and how long the rest will take."""

import shutil
import sys
import threading
import time
from typing import TextIO


class Progress:
    """One line for each lesson: in a terminal it follows the cells, elsewhere it is written once.

        progress = Progress(["01_a", "02_b"], expected=[83, 70])
        progress.start("01_a", cells=30)
        progress.cell(3, "The loss")     # before each cell
        progress.finish("done")

    `expected` are seconds of each lesson on the machine that measured them. How much slower this
    machine is says the first lesson; before it has ended, no time left is given.
    """

    def __init__(self, names: list[str], expected: list[float], stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.names = names
        self.expected = dict(zip(names, expected, strict=True))
        self.taken: dict[str, float] = {}
        self.width = max(map(len, names))
        self._line = threading.Lock()

    def start(self, name: str, cells: int):
        """A lesson begins."""
        self.name = name
        self.cells = cells
        self.index = 0
        self.heading = ""
        self.started = time.monotonic()
        if self.live:
            self._over = threading.Event()
            self._clock = threading.Thread(target=self._tick, daemon=True)
            self._clock.start()

    def cell(self, index: int, heading: str):
        """The cell at `index` begins, which stands below `heading`."""
        self.index = index
        self.heading = heading
        if self.live:
            self._redraw()

    def finish(self, status: str) -> float:
        """The lesson has ended; returns its seconds."""
        seconds = time.monotonic() - self.started
        self.taken[self.name] = seconds
        if self.live:
            self._over.set()
            self._clock.join()
            self.stream.write("\r\x1b[K")  # to the line's start, and clear it
        left = self.left()
        rest = f", {rounded(left)} left" if left else ""
        self._write(f"{self.name:<{self.width}}  {status} in {clock(seconds)}{rest}\n")
        return seconds

    def left(self, within: float = 0) -> float:
        """Seconds until all is done, `within` seconds into the present lesson; 0: not known yet."""
        if not self.taken:
            return 0
        slower = sum(self.taken.values()) / sum(self.expected[name] for name in self.taken)
        ahead = {name: s * slower for name, s in self.expected.items() if name not in self.taken}
        present = ahead.pop(self.name, 0)
        return sum(ahead.values()) + max(0, present - within)

    def _tick(self):
        while not self._over.wait(1):
            self._redraw()

    def _redraw(self):
        within = time.monotonic() - self.started
        left = self.left(within)
        rest = f", {rounded(left)} left" if left else ""
        line = (
            f"{self.name:<{self.width}}  {self.index + 1}/{self.cells}  {clock(within)}{rest}"
            f"  {self.heading}"
        )
        columns = shutil.get_terminal_size().columns
        self._write(f"\r\x1b[K{line[: columns - 1]}")

    def _write(self, text: str):
        with self._line:
            self.stream.write(text)
            self.stream.flush()


def clock(seconds: float) -> str:
    """83 -> 1:23"""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def rounded(seconds: float) -> str:
    """How long something will take, as well as it is known."""
    if seconds < 90:
        return "about a minute"
    return f"about {round(seconds / 60)} minutes"
