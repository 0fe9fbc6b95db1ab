"""Two functions timed in turn, and what a machine and its packages are."""

import importlib.metadata
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

Call = Callable[[], object]
MEGABYTE = 2**20


@dataclass(frozen=True)
class Ratio:
    """What paired rounds gave: medians, and the ratio of each round."""

    ours: float  # seconds, median
    peers: float  # seconds, median
    median: float  # of the rounds' ratios, peers / ours
    low: float  # the smallest of these ratios
    high: float  # the greatest
    rounds: int

    def moved_from(self, before: "Ratio") -> bool:
        """Tell whether each median lies outside of the other's rounds."""
        outside_before = not before.low <= self.median <= before.high
        outside_now = not self.low <= before.median <= self.high
        return outside_before and outside_now


def seconds_of(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def paired_rounds(ours: Call, peers: Call, rounds: int) -> Ratio:
    """Time both in every round, in turns the one or the other first, after one call to warm up."""
    ours()
    peers()
    times: list[tuple[float, float]] = []
    for round_ in range(rounds):
        if round_ % 2:
            their_time = seconds_of(peers)
            times.append((seconds_of(ours), their_time))
        else:
            our_time = seconds_of(ours)
            times.append((our_time, seconds_of(peers)))
    ratios = [their_time / our_time for our_time, their_time in times]
    return Ratio(
        ours=statistics.median(our_time for our_time, _ in times),
        peers=statistics.median(their_time for _, their_time in times),
        median=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        rounds=rounds,
    )


def memory_of(call: Call) -> float:
    """Megabytes by which a call raises this process' memory at its peak; call it once a process."""
    before = psutil.Process().memory_info().rss
    call()
    return max(0, peak_bytes() - before) / MEGABYTE


def peak_bytes() -> int:
    """The most memory that this process has had.

    On Linux from /proc, since getrusage's maximum there includes that of the process which started
    this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> str:
    """The processor, its cores and the memory, in words."""
    info = Path("/proc/cpuinfo")  # of Linux alone
    names = [line for line in info.read_text().splitlines() if "model name" in line]
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    memory = psutil.virtual_memory().total / 2**30
    return f"{name or platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB"


def versions(*packages: str) -> dict[str, str]:
    """The version of Python and of each package; "-" where it is missing."""
    version_of = {"python": platform.python_version()}
    for package in packages:
        try:
            version_of[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version_of[package] = "-"
    return version_of
