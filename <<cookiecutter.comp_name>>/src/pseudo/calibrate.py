"""Temperature scaling of pseudo-label probabilities, fitted on rows whose label is known.

The model must not have been trained on these rows, and the student must not be scored on them: for fold k
they are the early-stopping rows of that fold. A temperature fitted on all OOF rows would leak fold k's labels
into its own training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.config import UserError
from src.maps import Maps, resize_maps
from src.tasks.base import Task, targets_in

FEWEST_ROWS = 20  # rows needed for calibration: fewer cannot show an error rate of one in ten
HOTTEST = 20.0  # upper limit of the temperature; its inverse is the lower limit
TINY = 1e-7  # smallest probability: a float32 softmax gives none between it and zero


def calibrated(said: Any, known: pd.DataFrame, task: Task, outputs: list[str]) -> Any:
    """Predictions rescaled by the temperature fitted on `known`, a prediction table with its targets. Raises
    `UserError` if `known` has too few rows."""
    if len(known) < FEWEST_ROWS:
        raise UserError(
            f"04: pseudo.calibrate fits a temperature on the rows that decide when to stop, and there are "
            f"{len(known)} of them; {FEWEST_ROWS} are needed: lower cv.stop_parts, or set "
            f"pseudo.calibrate=null"
        )
    seen = task.read(known, outputs)
    if task.kind == "maps":
        truth = task.truth(targets_in(known), outputs)
        return at_temperature(said, temperature(*_levels(seen, truth), rows=len(known)))
    truth = task.encode(targets_in(known), outputs)
    logs = np.log(np.clip(seen.astype(np.float64), TINY, 1 - TINY))
    counts = truth
    if task.stacking == "labels":  # each label becomes a pair of log(1 - p) and log p
        logs = np.stack([np.log1p(-np.exp(logs)), logs], -1).reshape(-1, 2)
        counts = np.stack([1 - truth, truth], -1).reshape(-1, 2)
    found = temperature(logs, counts.astype(np.float64), rows=len(known))
    return at_temperature(said, found, task.stacking == "labels")


def temperature(logs: np.ndarray, counts: np.ndarray, rows: int) -> float:
    """The temperature T that maximises the likelihood of softmax(logs / T) (M, K); `counts` (M, K) is how
    often each answer was true. Guo, Pleiss, Sun and Weinberger 2017, On Calibration of Modern Neural
    Networks.

    Targets are smoothed to (rows + 1) / (rows + 2), as in Platt 1999, so that thirty rows without an error do
    not make the model more certain than that. The likelihood is concave in 1 / T, so bisection finds where
    its slope is zero.
    """
    doubt = 1 / (rows + 2)
    total = counts.sum(1, keepdims=True)
    wanted = (1 - doubt) * counts + doubt * (total - counts) / (counts.shape[1] - 1)

    def slope(inverse: float) -> float:
        scaled = inverse * logs
        p = np.exp(scaled - scaled.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return float(((total * p - wanted) * logs).sum())

    low, high = -np.log(HOTTEST), np.log(HOTTEST)  # log of 1 / T
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def at_temperature(said: Any, t: float, labels: bool = False) -> Any:
    """Probabilities (N, C) or `Maps` rescaled to temperature t. Each row of (N, C) is one softmax; with
    `labels` each cell is an independent sigmoid."""
    if isinstance(said, Maps):
        table = np.clip(np.arange(256) / 255, 1 / 510, 509 / 510)  # 0 and 255 count as half a step
        table = np.round(255 / (1 + (1 / table - 1) ** (1 / t))).astype(np.uint8)
        return Maps.of(table[maps] for maps in said.resized(None)).resized(said.sizes)
    p = np.clip(said.astype(np.float64), TINY, 1 - TINY)
    power = p ** (1 / t)
    rest = (1 - p) ** (1 / t) if labels else power.sum(1, keepdims=True) - power
    return (power / (power + rest)).astype(np.float32)


def _levels(seen: Maps, truth: Maps) -> tuple[np.ndarray, np.ndarray]:
    """For each of 256 levels log(1 - p) and log p (256, 2), and the number of pixels of that level outside
    and inside the masks (256, 2)."""
    counts = np.zeros((256, 2))
    for maps, mask in zip(seen.resized(None), truth, strict=True):
        inside = resize_maps(mask, maps.shape[1:]) >= 128
        for side in (0, 1):
            counts[:, side] += np.bincount(maps[inside == side], minlength=256)
    p = np.clip(np.arange(256) / 255, 1 / 510, 509 / 510)
    return np.log(np.stack([1 - p, p], 1)), counts
