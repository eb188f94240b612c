"""How many pseudo-labels of each class: a cap, and the class prior.

A bare threshold collapses the prior: common classes are learned best, so their rows are sure first, and the
rare classes all but vanish from what is selected. A label of many is a pair of classes, yes and no; numbers
and masks have one class.
"""

from __future__ import annotations

import numpy as np

from src.config import Pseudo
from src.tasks.base import Task

HEAVIEST = 10.0  # a row's weight against the mean: one wrong label of a rare class must not count for fifty


def classes_of_cells(told: np.ndarray, task: Task) -> np.ndarray:
    """(N, L) the class of each cell, -1 where it is unknown, of what rows were told (N, L): a class or an
    identity as its number, labels as 0, 1 or NaN, or numbers."""
    if task.stacking in ("values", "pixels"):
        return np.zeros((len(told), 1), dtype=np.int64)
    return np.where(np.isnan(told), -1, told).astype(np.int64)


def class_shares_by_column(classes: np.ndarray, n: int) -> np.ndarray:
    """(L, n) the share of each class among a column's known cells (N, L)."""
    counts = np.stack([np.bincount(column[column >= 0], minlength=n) for column in classes.T])
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def balanced_cells(
    classes: np.ndarray, sure: np.ndarray, prior: np.ndarray | None, settings: Pseudo, asked: int
) -> np.ndarray:
    """(N, L) which cells stay under `pseudo.cap` and `pseudo.prior`, the surest of each class; `classes` and
    `sure` are (N, L), `prior` (L, K), `asked` the rows there were to choose from."""
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
    """(K,) how many rows of each class are taken, of `counts` (K,) that could be.

    `keep` leaves out rows of the common classes until the shares are those of `prior`: the scarcest class
    decides. `quota` deals out as many rows as reach the threshold by `prior`, whether a class has as many
    above it or not (Zou, Yu, Kumar and Wang 2018, class-balanced self-training).
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
    """(N,) bool: of each class the `room` (K,) rows with the most of `sure` (N,); of equals the first."""
    order = np.lexsort((-sure, classes))
    starts = np.searchsorted(classes[order], np.arange(len(room)))
    place = np.empty(len(classes), dtype=np.int64)
    place[order] = np.arange(len(classes)) - starts[classes[order]]
    return place < room[classes]


def class_weights(classes: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(N,) a weight a row, 1 in the mean, by which the shares of `classes` (N,) become those of `prior` (K,),
    but for rows that would outweigh ten."""
    if not len(classes):
        return np.empty(0)
    share = np.bincount(classes, minlength=len(prior)) / len(classes)
    weights = np.minimum(prior[classes] / share[classes], HEAVIEST)
    return weights / weights.mean() if weights.any() else np.ones(len(classes))
