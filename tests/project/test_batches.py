"""Batches of identities: everyone comes, in company, and an epoch has as many batches as it says."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from src.data.batches import identity_batches, n_identity_batches


def crowd(identities: int, most: int, seed: int = 0) -> np.ndarray:
    """Shuffled labels of identities with 1 to `most` rows each; the numbers have gaps."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.repeat(3 * np.arange(identities), rng.integers(1, most + 1, identities)))


CASES = {
    "one row each": np.arange(37),
    "two rows or fewer each": crowd(50, 2),
    "few rows each": crowd(60, 9),
    "many rows each": crowd(12, 80),
    "two identities": np.arange(30) % 2,
    "one with most of the rows": np.r_[np.zeros(300, int), crowd(20, 3) + 1],
    "float targets": crowd(30, 6).astype(np.float32),
    "names": crowd(30, 6).astype(str),
}


def epoch(labels, batch_size, size, seed=0):
    return identity_batches(labels, batch_size, size, np.random.default_rng(seed))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("batch_size", "size"), [(8, 4), (12, 4), (32, 4), (33, 4), (16, 2), (64, 3), (30, 15)]
)
def test_an_epoch_shows_every_row_in_handfuls_of_one_identity_and_has_the_batches_it_says(
    case, batch_size, size
):
    labels, fit = CASES[case], batch_size // size
    for seed in range(3):
        batches = epoch(labels, batch_size, size, seed)
        assert len(batches) == n_identity_batches(labels, batch_size, size)
        assert set(np.concatenate(batches).tolist()) == set(range(len(labels)))
        whose = [labels[rows].reshape(-1, size) for rows in batches]
        assert all((handfuls == handfuls[:, :1]).all() for handfuls in whose)
        sizes = [len(handfuls) for handfuls in whose]
        assert min(sizes) >= 2
        assert max(sizes) <= (fit if fit > 2 else 3)
        assert max(sizes) - min(sizes) <= 1
        # As few copies as there can be: an identity's handfuls are its rows by K, rounded up.
        owners = Counter(name for handfuls in whose for name in handfuls[:, 0].tolist())
        assert owners == {name: -(-count // size) for name, count in Counter(labels.tolist()).items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", [8, 32, 128])
def test_a_batch_holds_an_identity_as_seldom_as_can_be(case, batch_size):
    labels = CASES[case]
    batches = epoch(labels, batch_size, 4)
    for name, count in Counter(labels.tolist()).items():
        times = [int((labels[rows] == name).sum()) // 4 for rows in batches]
        fewest, rest = divmod(-(-count // 4), len(batches))
        assert (min(times), max(times)) == (fewest, fewest + (rest > 0))


@pytest.mark.parametrize("seed", range(20))
def test_an_identity_with_a_handful_a_batch_stands_once_in_every_batch(seed):
    """The tightest case that has a solution."""
    batches = epoch(np.r_[np.zeros(24, int), np.repeat(np.arange(1, 8), 4), [8, 9]], 20, 4, seed)
    # 6 handfuls of identity 0, 9 of others: three batches hold 15, so 0 stands twice in each
    assert [int((rows < 24).sum()) for rows in batches] == [8] * 3
    batches = epoch(np.r_[np.zeros(12, int), np.repeat(np.arange(1, 10), 4)], 16, 4, seed)
    assert [int((rows < 12).sum()) for rows in batches] == [4] * 3


@pytest.mark.parametrize(("rows", "size"), [(1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (7, 3), (13, 4)])
def test_copies_are_as_few_and_as_even_as_can_be(rows, size):
    batches = epoch(np.r_[np.zeros(rows, int), np.ones(40, int)], 2 * size, size)
    shown = [handful for b in batches for handful in b.reshape(-1, size).tolist() if handful[0] < rows]
    assert len(shown) == -(-rows // size)
    times = Counter(row for handful in shown for row in handful)
    assert len(times) == rows
    assert max(times.values()) - min(times.values()) <= 1
    if rows >= size:  # a row does not stand beside its own copy where there are others
        assert all(len(set(handful)) == size for handful in shown)


def test_the_same_generator_gives_the_same_epoch_and_the_next_epoch_is_another():
    labels = CASES["few rows each"]
    first, again, other = (epoch(labels, 32, 4, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(first) == len(other)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_an_identity_meets_many_others_within_an_epoch():
    """Sixty-four identities with eight handfuls each, eight a batch: 56 meetings, and few of them again."""
    labels = np.repeat(np.arange(64), 16)
    batches = epoch(labels, 16, 2)
    met = {frozenset(p) for rows in batches for p in combinations(np.unique(labels[rows]).tolist(), 2)}
    assert len(met) > 0.4 * 64 * 63 / 2  # drawn at random 0.59 of all pairs meet; in one fixed order 0.1


def test_over_the_epochs_everyone_meets_everyone():
    labels = np.arange(20)
    met = {
        frozenset(p)
        for seed in range(80)
        for rows in epoch(labels, 8, 2, seed)
        for p in combinations(np.unique(labels[rows]).tolist(), 2)
    }
    assert len(met) == 20 * 19 // 2


def test_rows_come_together_in_all_ways_over_the_epochs():
    labels = np.repeat([0, 1], 6)
    seen = set()
    for seed in range(60):
        for rows in epoch(labels, 6, 3, seed):
            seen |= {frozenset(p) for half in (rows[:3], rows[3:]) for p in combinations(half.tolist(), 2)}
    assert len(seen) == 2 * 15


def test_one_identity_alone_makes_batches_of_itself():
    batches = epoch(np.full(10, 5), 8, 4)
    assert sorted(np.concatenate(batches).tolist()) == sorted(
        [*range(10), *np.concatenate(batches).tolist()[10:]]
    )
    assert len(batches) == n_identity_batches(np.full(10, 5), 8, 4) == 1
    assert len(batches[0]) == 12


def test_a_single_row_makes_one_batch_and_none_makes_none():
    assert [rows.tolist() for rows in epoch(np.array([7]), 8, 4)] == [[0, 0, 0, 0]]
    assert epoch(np.array([], dtype=int), 8, 4) == []
    assert n_identity_batches(np.array([], dtype=int), 8, 4) == 0
