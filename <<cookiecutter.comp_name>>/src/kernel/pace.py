"""Cost per image in seconds and memory, measured inside the kernel's process over many images.

The rehearsal extrapolates these costs to the hidden test set.
"""

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
PIECES, MOST = 10, 20_000  # the minimum number of timed pieces, and the maximum number of images
NOISE, LEAK = (
    32.0,
    2048.0,
)  # MiB of total growth: below the first it is noise, above the second it is a leak and measuring ends


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
    """Predict the `total` test images repeatedly for about `seconds` in equal pieces; return costs per image.

    The result holds seconds and MiB per image. The first two pieces are not counted, because they are slower
    than the others. The measurement stops early at the time `end`.
    """
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
    """A lower bound of the memory growth in MiB per image.

    It is the slope of a regression line through the last two thirds of the measurements, minus two standard
    errors, because the memory also fluctuates.
    """
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
    """The resident memory of this process in MiB, or its peak where the system does not report the current
    value."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return peak()


def peak() -> float:
    """The peak memory of this process in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # the unit is bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
