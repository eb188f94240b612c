"""What an image costs: seconds and memory, measured inside the kernel's process over many images, for the
rehearsal to project the hidden test set from."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.kernel.time_guard import PLANS, Guard
from src.machine import cpu_count

PACE = "pace.json"
PIECES, MOST = 10, 20_000  # at least so many pieces are timed, and at most so many images
NOISE, LEAK = (
    32.0,
    2048.0,
)  # MiB of growth in all that prove nothing, and after which nothing is left to prove


def measure(
    predict: Callable[[Guard, np.ndarray], Any],
    guard: Guard,
    total: int,
    most: int,
    batch: int,
    seconds: float,
    end: float = math.inf,
    memory: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Predict the `total` test images again and again for about so many seconds, in pieces of one size; gives
    seconds and MiB of an image. The first two pieces are left out, for they are slower than the others; at
    the time `end` it stops with what it has."""
    memory = memory or resident
    predict(guard, np.arange(1))
    size = int(seconds / PIECES / max(guard.cost(guard.plan), 1e-9))
    size = min(most, size // batch * batch if size >= batch else max(1, size))
    predict(guard, np.arange(size) % total)
    began, seen, held = guard.clock(), [0], [memory()]
    if began < end:
        guard.forget()
    while began < end and (len(seen) <= PIECES or guard.clock() - began < seconds):
        predict(guard, np.arange(seen[-1], seen[-1] + size) % total)
        seen.append(seen[-1] + size)
        held.append(memory())
        if seen[-1] >= MOST or held[-1] - held[0] > LEAK or guard.clock() > end:
            break
    return {
        "images": seen[-1],
        "reading": guard.reading.each,
        "networks": {str(plan): guard.busiest(plan) for plan in PLANS},
        "growth": growth(np.array(seen, dtype=float), np.array(held)),
        "cores": cpu_count(),
    }


def growth(images: np.ndarray, held: np.ndarray) -> float:
    """MiB an image by which the memory grows at least: the slope of a line through the later two thirds, less
    two standard errors, for memory also rises and falls by itself."""
    images, held = images[len(images) // 3 :], held[len(held) // 3 :]
    centred = images - images.mean()
    spread = float((centred**2).sum())
    slope = float(centred @ held) / max(spread, 1e-9)
    if len(images) < 4 or slope * (images[-1] - images[0]) < NOISE:
        return 0.0
    rest = held - held.mean() - slope * centred
    error = float(np.sqrt((rest**2).sum() / (len(images) - 2) / spread))
    return max(0.0, slope - 2 * error)


def resident() -> float:
    """MiB of memory that this process holds now; where the system does not tell, the most it ever held."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return peak()


def peak() -> float:
    """The most MiB that this process ever held."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
