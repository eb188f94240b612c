"""Sampling of an epoch: oversampling of rare classes at constant epoch length, and shard order for sequential
reads."""

from __future__ import annotations

from typing import Literal

import numpy as np

from src.data.classes import ClassTargets

WINDOW = 16  # shards that are shuffled together, and so read ahead together
# exponent q of the class count, which gives the class's share of the epoch
POWER = {"balanced": 0.0, "sqrt": 0.5}


def row_shares(
    targets: np.ndarray | ClassTargets, kind: Literal["balanced", "sqrt"], task: str
) -> np.ndarray:
    """Class-balanced sampling: (N,) the share of an epoch that each row gets, from targets (N, C), which may
    be soft.

    Class c with n_c rows gets a share proportional to n_c ** q, with q = 0 for `balanced` and 1/2 for `sqrt`
    (square-root sampling), divided equally among its rows (Kang et al. 2020, Decoupling Representation and
    Classifier for Long-Tailed Recognition). The negative class, and "no label" in multilabel, count as
    classes too; a row with several labels gets the sum of their shares. NaN targets count as 0.
    """
    holds = class_membership(targets, task)  # (N, classes)
    rows = holds.sum(0)
    worth = np.zeros(len(rows))
    worth[rows > 0] = rows[rows > 0] ** (POWER[kind] - 1)
    parts = holds @ worth
    return parts / parts.sum()


def class_membership(targets: np.ndarray | ClassTargets, task: str) -> np.ndarray | ClassTargets:
    """(N, classes) membership of each row in each class; for binary and multilabel targets the last column is
    "none"."""
    if isinstance(targets, ClassTargets):
        return targets
    holds = np.nan_to_num(targets.astype(np.float64))
    if task == "multiclass":
        return holds
    return np.hstack([holds, 1 - holds.max(1, keepdims=True)])


def draw_rows(shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) row numbers in random order: row i occurs N * shares[i] times, randomly rounded up or down.

    Systematic sampling: one random offset over the rows in random order. Independent draws would omit a third
    of the rows of a balanced class and repeat others several times.
    """
    n = len(shares)
    order = rng.permutation(n)
    upto = np.cumsum(shares[order]) * n
    places = np.searchsorted(upto, rng.random() + np.arange(n), side="right")
    return rng.permutation(order[np.minimum(places, n - 1)])  # rounding may leave the last edge just below n


def by_shards(shards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) a permutation of the row numbers in shard order: the rows of `WINDOW` random shards, shuffled,
    then those of the next ones. `shards` (N,) is the shard of each row.

    It works like the shuffle buffer of a streaming loader, but the order is known before the first image is
    read, so an epoch can be resumed at any step.
    """
    _, number = np.unique(shards, return_inverse=True)
    turn = rng.permutation(number.max(initial=-1) + 1)[number]
    return np.lexsort((rng.random(len(shards)), turn // WINDOW))
