"""Near pairs of hashes are found without comparing each with each, and none is missed."""

from __future__ import annotations

import numpy as np
import pytest

from src.data import hamming
from src.data.hamming import near_pairs


def hashes_of(n: int, seed: int = 0) -> np.ndarray:
    """(n,) uint64, a third of them another one with up to 12 bits turned."""
    rng = np.random.default_rng(seed)
    found = rng.integers(2**64, size=n, dtype=np.uint64)
    for i in rng.choice(np.arange(1, n), n // 3, replace=False):
        turned = rng.choice(64, rng.integers(0, 13), replace=False)
        found[i] = found[rng.integers(i)] ^ np.uint64(sum(1 << int(b) for b in turned))
    return found


def brute(hashes: np.ndarray, bits: int) -> set[tuple[int, int]]:
    found = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= bits
    return {(i, j) for i, j in zip(*np.nonzero(found), strict=True) if i < j}


@pytest.mark.parametrize("same", [0, 1, 2, 4])
@pytest.mark.parametrize("bits", [0, 1, 4, 9])
def test_every_near_pair_is_found_once_whichever_way_is_taken(monkeypatch, bits, same):
    monkeypatch.setattr(hamming, "_bands_in_common", lambda n, bits: same)
    hashes = hashes_of(700)
    left, right = near_pairs(hashes, bits)
    pairs = list(zip(left.tolist(), right.tolist(), strict=True))
    assert pairs == sorted(brute(hashes, bits))
    assert len(pairs) > 10


def test_many_hashes_take_the_way_of_bands_and_find_what_the_other_finds():
    hashes = hashes_of(6000)
    assert hamming._bands_in_common(6000, 4) > 0
    for found, expected in zip(near_pairs(hashes, 4), hamming._each_with_each(hashes, 4), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("n", [20_000, 200_000])
def test_most_hashes_are_compared_with_no_other(monkeypatch, n):
    """Each with each would be n / 2 comparisons a hash."""
    count, compared = np.bitwise_count, []
    monkeypatch.setattr(np, "bitwise_count", lambda x: compared.append(x.size) or count(x))
    near_pairs(np.random.default_rng(1).integers(2**64, size=n, dtype=np.uint64), 4)
    assert sum(compared) < 200 * n


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_hashes_have_few_pairs(n):
    left, right = near_pairs(np.zeros(n, np.uint64), 4)
    assert (left.tolist(), right.tolist()) == (([0], [1]) if n == 2 else ([], []))
