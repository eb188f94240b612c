"""PK batches for metric learning: P identities with K images each, so that every row has positives and
negatives."""

from __future__ import annotations

import numpy as np


def identity_batches(
    labels: np.ndarray, batch_size: int, images_per_class: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Row numbers of each PK batch of one epoch: P = batch_size // images_per_class identities (or one fewer)
    with K = `images_per_class` rows each, side by side.

    Every row of `labels` (N,) occurs at least once. Identities whose row count is not a multiple of K are
    filled up by repeating their own rows, so a single image gives K copies, whose augmented views are its
    positives. A batch holds an identity twice only if the identity has more than K rows per batch. No batch
    has fewer than 2 K rows; with P = 2 a batch may therefore have 3 K rows. Hermans, Beyer, Leibe 2017, In
    Defense of the Triplet Loss for Person Re-Identification.
    """
    rows, owners = _handfuls(labels, images_per_class, rng)
    table = _deal(owners, n_identity_batches(labels, batch_size, images_per_class), rng)
    return [rows[column[column >= 0]].ravel() for column in table.T]


def n_identity_batches(labels: np.ndarray, batch_size: int, images_per_class: int) -> int:
    """The number of batches that `identity_batches` makes; it does not depend on the generator."""
    counts = np.unique(labels, return_counts=True)[1]
    handfuls = int(_ceil(counts, images_per_class).sum())
    # As few batches as possible, with at least two identities in each: a batch of one identity has no
    # negatives.
    return min(_ceil(handfuls, batch_size // images_per_class), max(1, handfuls // 2))


def _ceil(count, size):
    """Integer division, rounded up."""
    return -(-count // size)


def _handfuls(labels: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows into sets of K rows of one identity: row numbers (M, K) and the identity of each set
    (M,). Identities are in random order and consecutive; their rows are in random order too."""
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
    # Cycle through the rows of an identity, so that copies are as few and as evenly spread as possible.
    rows = order[(counts.cumsum() - counts)[owner] + places % counts[owner]]
    return rows.reshape(-1, size), whose


def _deal(owners: np.ndarray, batches: int, rng: np.random.Generator) -> np.ndarray:
    """Distribute the sets (M,), consecutive per identity, over the batches: a table (depth, batches) of set
    numbers, -1 for an empty place, with the sets of an identity spread as evenly as possible.

    The table is filled row by row, each in a new random order. Only an identity whose sets continue from the
    row above can occur twice in a batch; it is put into the batches that hold it least often.
    """
    table = np.full((_ceil(len(owners), batches) if batches else 0, batches), -1)
    for depth, start in enumerate(range(0, len(owners), batches or 1)):
        numbers = np.arange(start, min(start + batches, len(owners)))
        before = table[:depth]  # these rows are full: only the last row of the table can be short
        held = (owners[before] == owners[start]).sum(0)  # (batches,)
        columns = rng.permutation(batches)
        table[depth, columns[np.argsort(held[columns], kind="stable")][: len(numbers)]] = numbers
    return table
