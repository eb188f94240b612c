"""Folds for identities (retrieval): some are held out entirely and are new in validation, the others have
images in several folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from src.config import CrossValidation, UserError


def assign_identities(
    labels: np.ndarray, groups: np.ndarray, n: int, seed: int, new_share: float, key: str = "cv.n_folds"
) -> np.ndarray:
    """k-fold assignment for retrieval: (N,) fold numbers 0 to n-1 for rows with identities `labels` (N,).
    Rows of one of the `groups` (N,) share a fold, whatever their identity.

    A share `new_share` of the identities, spread evenly over large and small ones, is kept whole in one fold
    each, so that in validation these are new identities. Identities whose rows are all in one group are whole
    as well. Whole identities are distributed evenly over the folds; the rows of every other identity are
    spread over as many folds as possible. Raises `UserError` naming `key` if there are too few groups for `n`
    folds.
    """
    rng = np.random.default_rng(seed)
    owners, groups = pd.factorize(labels)[0], pd.factorize(groups)[0]
    whole = _held_out_whole(owners, groups, new_share, rng)
    units = _units(owners, groups, whole)
    n_units = units.max(initial=-1) + 1
    if n_units < n:
        hint = f", or cv.new_share={new_share}: all of a new identity is one group" if new_share else ""
        raise UserError(f"{key}={n}: there are only {n_units} groups of rows to share out; lower it{hint}")
    return _deal(owners, units, whole, n, rng)[units]


def _held_out_whole(
    owners: np.ndarray, groups: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """(identities,) whether all rows go to one fold: identities with a single group, and a share of the
    others."""
    whole = np.bincount(np.unique(np.stack([owners, groups]), axis=1)[0]) == 1
    rows = np.bincount(owners)
    free = np.flatnonzero(~whole)
    free = free[np.lexsort((rng.random(len(free)), rows[free]))]  # few rows first
    # every 1/share-th, from a random offset
    steps = np.floor(np.arange(len(free) + 1) * share + rng.random())
    whole[free[np.diff(steps) > 0]] = True
    return whole


def _units(owners: np.ndarray, groups: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(N,) units of rows that must share a fold: rows of a group, rows of a whole identity, and chains of
    these."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, n_groups = len(owners), groups.max(initial=-1) + 1
    tied = np.flatnonzero(whole[owners])
    # bipartite graph: rows on one side, their groups and identities on the other
    left = np.r_[np.arange(n), tied]
    right = np.r_[n + groups, n + n_groups + owners[tied]]
    size = n + n_groups + len(whole)
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(size, size))
    return pd.factorize(connected_components(graph, directed=False)[1][:n])[0]


def _deal(
    owners: np.ndarray, units: np.ndarray, whole: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """(units,) fold numbers, assigned greedily. New identities come first, equally many per fold. Then each
    unit goes to the fold with the fewest units of its identities; ties go to the smaller fold. Units of
    several identities have the least choice and come first; large units come before small ones, which even
    out the rest."""
    unit, owner = np.unique(np.stack([units, owners]), axis=1)
    sizes, members = np.bincount(units), np.bincount(unit)
    first = members.cumsum() - members
    new = np.bincount(unit, weights=whole[owner])  # (units,) the number of whole identities in each unit
    choice = np.where(new > 0, 0, -members)
    order = np.lexsort((rng.random(len(sizes)), -sizes, choice, new == 0))
    fold = np.zeros(len(sizes), dtype=np.int64)
    rows, news, held = np.zeros(n), np.zeros(n), np.zeros((len(whole), n), dtype=np.int64)
    for u in order:
        mine = owner[first[u] : first[u] + members[u]]
        wanted = news if new[u] else held[mine].sum(0)
        k = fold[u] = np.lexsort((rows, wanted))[0]
        rows[k] += sizes[u]
        news[k] += new[u]
        held[mine, k] += 1
    return fold


def check_identities(counts: dict[str, int], cv: CrossValidation, new_label: str | None, path: Path) -> None:
    """Raise `UserError` for an identity with one image, which cannot be found when that image is held out,
    unless `cv.allow_rare`."""
    single = sorted(label for label, count in counts.items() if count < 2)
    if single and not cv.allow_rare:
        then = "never found while it is held out" if new_label is None else f"only ever {new_label!r}"
        raise UserError(
            f"{path}: identity {single[0]!r} has one image and cannot be found when it is held out "
            f"({len(single)} such identities); set cv.allow_rare=true (it is then {then}), or take it out"
        )
