"""Class balance of pseudo-labels: a cap per class, and the class prior.

A bare confidence threshold collapses the prior. Common classes are learned best, so their rows are confident
first, and rare classes almost vanish from the selection. Each label of a multi-label task counts as two
classes, positive and negative; numbers and masks have a single class.
"""

from __future__ import annotations

import numpy as np

from src.config import Pseudo
from src.tasks.base import Task

HEAVIEST = 10.0  # limit of a row's weight, so that no wrong label of a rare class dominates


def classes_of_cells(told: np.ndarray, task: Task) -> np.ndarray:
    """Class of each cell (N, L), -1 if unknown, from hard labels `told` (N, L): the index of a class or
    identity, labels as 0, 1 or NaN, or numbers."""
    if task.stacking in ("values", "pixels"):
        return np.zeros((len(told), 1), dtype=np.int64)
    return np.where(np.isnan(told), -1, told).astype(np.int64)


def class_shares_by_column(classes: np.ndarray, n: int) -> np.ndarray:
    """Share of each class (L, n) among the known cells of each column of `classes` (N, L)."""
    counts = np.stack([np.bincount(column[column >= 0], minlength=n) for column in classes.T])
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def balanced_cells(
    classes: np.ndarray, sure: np.ndarray, prior: np.ndarray | None, settings: Pseudo, asked: int
) -> np.ndarray:
    """Which cells (N, L) are kept under `pseudo.cap` and `pseudo.prior`: the most confident ones of each
    class. `classes` and confidence `sure` are (N, L), `prior` is (L, K), and `asked` is the number of
    unlabelled rows to choose from."""
    kept = np.zeros(classes.shape, dtype=bool)
    n = 1 + max(int(classes.max(initial=0)), 0 if prior is None else prior.shape[1] - 1)
    for column in range(classes.shape[1]):
        known = np.flatnonzero(classes[:, column] >= 0)
        own, trust = classes[known, column], sure[known, column]
        reached = int((trust >= trust.dtype.type(settings.threshold)).sum())
        shares = None if prior is None else np.pad(prior[column], (0, n - prior.shape[1]))
        room = quotas(np.bincount(own, minlength=n), shares, settings, asked, reached)
        kept[known[most_confident(own, trust, room)], column] = True
    return kept


def quotas(
    counts: np.ndarray, prior: np.ndarray | None, settings: Pseudo, asked: int, reached: int
) -> np.ndarray:
    """Number of rows to select for each class (K,), given the available `counts` (K,).

    `keep` drops rows of common classes until the shares match `prior`, so the scarcest class decides the
    total. `quota` distributes as many rows as reach the threshold according to `prior`, even if a class has
    fewer rows above the threshold (Zou, Yu, Kumar and Wang 2018, class-balanced self-training).
    """
    room = counts.astype(np.float64)
    if settings.cap is not None:
        rows = settings.cap if isinstance(settings.cap, int) else max(1, int(settings.cap * asked))
        room = np.minimum(room, rows)
    if settings.prior == "keep" and (there := (room > 0) & (prior > 0)).any():
        room = np.minimum(room, (room[there] / prior[there]).min() * prior)
    if settings.prior == "quota":
        room = np.minimum(room, np.round(reached * prior))
    return np.floor(room + 1e-9).astype(np.int64)


def most_confident(classes: np.ndarray, sure: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Boolean mask (N,) of the `room` (K,) rows of each class with the highest confidence `sure` (N,); ties
    go to the first row."""
    order = np.lexsort((-sure, classes))
    starts = np.searchsorted(classes[order], np.arange(len(room)))
    place = np.empty(len(classes), dtype=np.int64)
    place[order] = np.arange(len(classes)) - starts[classes[order]]
    return place < room[classes]


def class_weights(classes: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Sample weights (N,) with mean 1 that turn the class shares of `classes` (N,) into `prior` (K,). They
    are capped at `HEAVIEST` before normalisation."""
    if not len(classes):
        return np.empty(0)
    share = np.bincount(classes, minlength=len(prior)) / len(classes)
    weights = np.minimum(prior[classes] / share[classes], HEAVIEST)
    return weights / weights.mean() if weights.any() else np.ones(len(classes))
