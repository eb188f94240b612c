"""Blenders timed in turn, round after round, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "<<cookiecutter.comp_name>>"
sys.path.insert(0, str(PROJECT))  # the project's own code, where it stands


def interleave(
    blenders: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each blender in each round, by CPU time unless told otherwise; a round before them is not
    counted."""
    for work in blenders.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in blenders}
    for number in range(rounds):
        names = list(blenders)
        for name in names[number % len(names) :] + names[: number % len(names)]:  # nobody is always first
            start = clock()
            blenders[name]()
            seconds[name].append(clock() - start)
        print(f"  round {number + 1}/{rounds}", flush=True)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> tuple[float, float, float]:
    """The median over the rounds of how many times as long `slow` takes, the least and the most."""
    found = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    return statistics.median(found), min(found), max(found)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, upto = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, upto))
        upto = max(upto, last)
    return total
