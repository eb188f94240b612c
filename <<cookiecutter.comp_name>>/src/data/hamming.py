"""Near-duplicate search: all pairs of 64-bit hashes within a Hamming distance, without comparing every
pair."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import comb

import numpy as np

_FEW = 4096  # hashes for which all pairs are compared at once
SORT = 32  # rough cost of sorting one hash, in comparisons


def near_pairs(hashes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (P,) and (P,) of all pairs i < j of (N,) uint64 hashes that differ in at most `bits` bits, in
    ascending order.

    If the hashes are cut into more bands than bits may differ, two near hashes agree in some of the bands.
    For each choice of bands only the hashes that agree in them are compared (Manku, Jain, Das Sarma 2007,
    Detecting Near-Duplicates for Web Crawling). This is far faster than comparing all pairs for a hundred
    thousand hashes.
    """
    same = _bands_in_common(len(hashes), bits)
    if same == 0:
        return _each_with_each(hashes, bits)
    edges = np.linspace(0, 64, bits + same + 1).astype(int).tolist()
    bands = [((1 << b) - (1 << a)) & (2**64 - 1) for a, b in pairwise(edges)]
    found = [
        _that_share(hashes, np.uint64(sum(chosen)), bits) for chosen in combinations(bands, same)
    ]  # bands are disjoint, so their sum is their union
    pairs = np.unique(np.concatenate(found), axis=0)  # (P, 2) ascending
    return pairs[:, 0], pairs[:, 1]


def _bands_in_common(n: int, bits: int) -> int:
    """The number of common bands with the least work; 0 if comparing all pairs is cheaper."""
    if n <= _FEW:
        return 0
    work = {0: n * n / 2}
    for same in range(1, 9):
        alike = n * n / 2 * 2.0 ** (-64 * same / (bits + same))
        work[same] = comb(bits + same, same) * (SORT * n + alike)
    return min(work, key=work.get)


def _that_share(hashes: np.ndarray, mask: np.uint64, bits: int) -> np.ndarray:
    """(P, 2) near pairs i < j among hashes that are equal under `mask`."""
    keys = hashes & mask
    order = np.argsort(keys, kind="stable")
    keys, sorted_ = keys[order], hashes[order]
    pairs, step = [np.empty((0, 2), np.int64)], 1
    places = np.flatnonzero(keys[:-1] == keys[1:])
    while len(places):
        near = places[np.bitwise_count(sorted_[places] ^ sorted_[places + step]) <= bits]
        # stable sort: the first is the smaller
        pairs.append(np.stack([order[near], order[near + step]], axis=1))
        step += 1
        places = places[places < len(keys) - step]
        places = places[keys[places] == keys[places + step]]
    return np.concatenate(pairs)


def _each_with_each(hashes: np.ndarray, bits: int, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Compare all pairs, one block of hashes against all at a time."""
    left: list[np.ndarray] = [np.empty(0, np.int64)]
    right: list[np.ndarray] = [np.empty(0, np.int64)]
    block = max(1, min(block, 2**24 // max(1, len(hashes))))  # at most 128 MiB at a time
    for start in range(0, len(hashes), block):
        distance = np.bitwise_count(hashes[start : start + block, None] ^ hashes[None, start:])
        i, j = np.nonzero(distance <= bits)
        keep = i < j
        left.append(i[keep] + start)
        right.append(j[keep] + start)
    return np.concatenate(left), np.concatenate(right)
