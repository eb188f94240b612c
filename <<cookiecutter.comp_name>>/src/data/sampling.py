"""Which rows an epoch shows, how often and in what order: rare classes more, the epoch no longer; a stream of
shards as its disk reads it best."""

from __future__ import annotations

from typing import Literal

import numpy as np

from src.data.classes import ClassTargets

WINDOW = 16  # shards that are mixed with each other: as much is read ahead
POWER = {"balanced": 0.0, "sqrt": 0.5}  # of a class's rows, for the share of the epoch it gets


def row_shares(
    targets: np.ndarray | ClassTargets, kind: Literal["balanced", "sqrt"], task: str
) -> np.ndarray:
    """(N,) what share of an epoch each row should be, of targets (N, C) that may be soft.

    Class c with n_c rows gets n_c ** q of the epoch, q 0 for `balanced` and 1/2 for `sqrt`, and its rows get
    that in equal parts (Kang et al. 2020, Decoupling Representation and Classifier for Long-Tailed
    Recognition). No, and none of the labels, are classes too; a row of several labels gets the parts of all.
    Whatever is NaN counts as no.
    """
    holds = class_membership(targets, task)  # (N, classes)
    rows = holds.sum(0)
    worth = np.zeros(len(rows))
    worth[rows > 0] = rows[rows > 0] ** (POWER[kind] - 1)
    parts = holds @ worth
    return parts / parts.sum()


def class_membership(targets: np.ndarray | ClassTargets, task: str) -> np.ndarray | ClassTargets:
    """(N, classes) how far a row is of each; of binary and multilabel targets the last column is none."""
    if isinstance(targets, ClassTargets):
        return targets
    holds = np.nan_to_num(targets.astype(np.float64))
    if task == "multiclass":
        return holds
    return np.hstack([holds, 1 - holds.max(1, keepdims=True)])


def draw_rows(shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) row numbers in random order: row i comes N * shares[i] times, rounded up or down by chance.

    Systematic sampling: one random offset for all, over the rows in random order. Throwing dice for each
    place would leave a third of the rows of an even class out, and show others thrice.
    """
    n = len(shares)
    order = rng.permutation(n)
    upto = np.cumsum(shares[order]) * n
    places = np.searchsorted(upto, rng.random() + np.arange(n), side="right")
    return rng.permutation(order[np.minimum(places, n - 1)])  # the last edge may fall short of n by a digit


def by_shards(shards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) every row number once: rows of `WINDOW` shards (N,) in random order, then those of the next, the
    shards in random order too.

    A shuffle buffer, as loaders of streams have, that is known before the first image is read: so an epoch
    can be gone on with at any step.
    """
    _, number = np.unique(shards, return_inverse=True)
    turn = rng.permutation(number.max(initial=-1) + 1)[number]
    return np.lexsort((rng.random(len(shards)), turn // WINDOW))
