"""Batches of identities: a few images of each of a few, so that every row meets its like and others."""

from __future__ import annotations

import numpy as np


def identity_batches(
    labels: np.ndarray, batch_size: int, images_per_class: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Row numbers of each batch of one epoch: batch_size // images_per_class identities (P), or one fewer,
    with `images_per_class` rows (K) each, side by side.

    Every row of `labels` (N,) comes at least once. Identities whose rows do not fill K are filled up with
    rows of their own, so a single image gives K copies: its augmented views are then its positives. A batch
    holds an identity twice only where that one has more rows than K a batch. No batch is left with less than
    two times K rows, so with P = 2 one may have three times K. The PK batches of Hermans, Beyer, Leibe 2017,
    In Defense of the Triplet Loss for Person Re-Identification.
    """
    rows, owners = _handfuls(labels, images_per_class, rng)
    table = _deal(owners, n_identity_batches(labels, batch_size, images_per_class), rng)
    return [rows[column[column >= 0]].ravel() for column in table.T]


def n_identity_batches(labels: np.ndarray, batch_size: int, images_per_class: int) -> int:
    """How many batches `identity_batches` makes, whatever the generator."""
    counts = np.unique(labels, return_counts=True)[1]
    handfuls = int(_ceil(counts, images_per_class).sum())
    # As few as hold them all, but two identities in each: a batch of one has no negatives.
    return min(_ceil(handfuls, batch_size // images_per_class), max(1, handfuls // 2))


def _ceil(count, size):
    """Division, rounded up."""
    return -(-count // size)


def _handfuls(labels: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (M, K) of one identity each, and whose they are (M,). Identities come one after the other
    in random order, their rows too."""
    identity = np.unique(labels, return_inverse=True)[1].reshape(-1)
    identity = rng.permutation(identity.max(initial=-1) + 1)[identity]
    order = np.lexsort((rng.random(len(identity)), identity))
    counts = np.bincount(identity)
    handfuls = _ceil(counts, size)
    places = np.arange(handfuls.sum() * size) - np.repeat(
        (handfuls.cumsum() - handfuls) * size, handfuls * size
    )
    whose = np.repeat(np.arange(len(counts)), handfuls)  # (M,)
    owner = np.repeat(whose, size)
    # Once through its rows and on from the first again: copies are as few and as even as can be.
    rows = order[(counts.cumsum() - counts)[owner] + places % counts[owner]]
    return rows.reshape(-1, size), whose


def _deal(owners: np.ndarray, batches: int, rng: np.random.Generator) -> np.ndarray:
    """Handfuls (M,), those of one owner in succession, to a table (depth, batches) of their numbers, -1
    where there is none; each owner's as evenly over the batches as can be.

    Row by row of the table, in a new random order each. Only an owner whose handfuls go on from the row above
    could meet itself: it takes the batches that hold it least.
    """
    table = np.full((_ceil(len(owners), batches) if batches else 0, batches), -1)
    for depth, start in enumerate(range(0, len(owners), batches or 1)):
        numbers = np.arange(start, min(start + batches, len(owners)))
        before = table[:depth]  # full: only the last row of the table can be short
        held = (owners[before] == owners[start]).sum(0)  # (batches,)
        columns = rng.permutation(batches)
        table[depth, columns[np.argsort(held[columns], kind="stable")][: len(numbers)]] = numbers
    return table
