"""Temperature scaling: probabilities that are right as often as they say, by rows whose label is known.

The rows must be none that the model learned from, and none whose label its pupil is scored by: of fold k the
rows that decide when to stop. A temperature fitted on all OOF rows would carry fold k's labels back to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.config import UserError
from src.maps import Maps, resize_maps
from src.tasks.base import Task, targets_in

FEWEST_ROWS = 20  # rows to calibrate on: fewer say nothing of one in ten
HOTTEST = 20.0  # no temperature lies above this, or below its inverse
TINY = 1e-7  # the smallest probability; float32 knows none between it and zero that a softmax gives


def calibrated(said: Any, known: pd.DataFrame, task: Task, outputs: list[str]) -> Any:
    """Predictions at the temperature that suits `known`, a prediction table with its targets; raises
    `UserError` where that has too few rows."""
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
    if task.stacking == "labels":  # each label a pair of yes and no
        logs = np.stack([np.log1p(-np.exp(logs)), logs], -1).reshape(-1, 2)
        counts = np.stack([1 - truth, truth], -1).reshape(-1, 2)
    found = temperature(logs, counts.astype(np.float64), rows=len(known))
    return at_temperature(said, found, task.stacking == "labels")


def temperature(logs: np.ndarray, counts: np.ndarray, rows: int) -> float:
    """The T that makes softmax(logs / T) (M, K) likeliest, `counts` (M, K) saying how often each was right.
    Guo, Pleiss, Sun and Weinberger 2017, On Calibration of Modern Neural Networks.

    The truth is taken as certain to (rows + 1) / (rows + 2), as Platt 1999 does, so that thirty rows without
    a mistake make nobody surer than that. The likelihood is convex in 1 / T: its slope is halved to zero.
    """
    doubt = 1 / (rows + 2)
    total = counts.sum(1, keepdims=True)
    wanted = (1 - doubt) * counts + doubt * (total - counts) / (counts.shape[1] - 1)

    def slope(inverse: float) -> float:
        scaled = inverse * logs
        p = np.exp(scaled - scaled.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return float(((total * p - wanted) * logs).sum())

    low, high = -np.log(HOTTEST), np.log(HOTTEST)  # of 1 / T
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def at_temperature(said: Any, t: float, labels: bool = False) -> Any:
    """Probabilities (N, C) of one answer a row, of `labels` one a cell, or `Maps`, as they are at T = t."""
    if isinstance(said, Maps):
        table = np.clip(np.arange(256) / 255, 1 / 510, 509 / 510)  # of a level between two steps
        table = np.round(255 / (1 + (1 / table - 1) ** (1 / t))).astype(np.uint8)
        return Maps.of(table[maps] for maps in said.resized(None)).resized(said.sizes)
    p = np.clip(said.astype(np.float64), TINY, 1 - TINY)
    power = p ** (1 / t)
    rest = (1 - p) ** (1 / t) if labels else power.sum(1, keepdims=True) - power
    return (power / (power + rest)).astype(np.float32)


def _levels(seen: Maps, truth: Maps) -> tuple[np.ndarray, np.ndarray]:
    """Of 256 levels log(1 - p) and log p (256, 2), and in how many pixels of the masks each was wrong and
    right (256, 2)."""
    counts = np.zeros((256, 2))
    for maps, mask in zip(seen.resized(None), truth, strict=True):
        inside = resize_maps(mask, maps.shape[1:]) >= 128
        for side in (0, 1):
            counts[:, side] += np.bincount(maps[inside == side], minlength=256)
    p = np.clip(np.arange(256) / 255, 1 / 510, 509 / 510)
    return np.log(np.stack([1 - p, p], 1)), counts
