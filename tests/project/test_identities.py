"""Folds for identities: new ones whole in one fold, known ones on both sides, look-alikes never apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.config import CrossValidation, UserError
from src.data.identities import assign_identities, check_identities


def crowd(identities: int = 200, most: int = 12, seed: int = 0) -> np.ndarray:
    """Shuffled names, each with 1 to `most` rows."""
    rng = np.random.default_rng(seed)
    names = np.array([f"w_{i:04d}" for i in range(identities)], dtype=object)
    return rng.permutation(np.repeat(names, rng.integers(1, most + 1, identities)))


def pairs(n: int, share: float, seed: int = 0) -> np.ndarray:
    """(n,) groups: a share of the rows in pairs, whoever they show."""
    rng = np.random.default_rng(seed)
    groups, paired = np.arange(n), rng.permutation(n)[: int(n * share) // 2 * 2]
    groups[paired[::2]] = groups[paired[1::2]]
    return groups


def spread(keys: np.ndarray, folds: np.ndarray) -> pd.Series:
    """How many folds each key has rows in."""
    return pd.Series(folds).groupby(keys).nunique()


def sizes(keys: np.ndarray) -> pd.Series:
    return pd.Series(keys).value_counts()


@pytest.mark.parametrize("n", [2, 5, 10])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("paired", [0.0, 0.1])
def test_every_row_lies_in_one_fold_none_is_empty_and_groups_stay_together(n, share, paired):
    labels = crowd()
    groups = pairs(len(labels), paired)
    folds = assign_identities(labels, groups, n, 1, share)
    assert folds.shape == labels.shape
    assert np.array_equal(np.unique(folds), np.arange(n))
    assert (spread(groups, folds) == 1).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [2, 5, 10])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5, 1.0])
def test_without_groups_the_share_is_whole_and_the_rest_lies_in_as_many_folds_as_it_has_rows(share, n, seed):
    labels = crowd(seed=seed)
    folds = assign_identities(labels, np.arange(len(labels)), n, seed, share)
    counts = sizes(labels)
    several = counts.index[counts > 1]
    found = spread(labels, folds)[several]
    whole = found == 1
    assert abs(whole.sum() - share * len(several)) < 1
    assert (found[~whole] == np.minimum(counts[several][~whole], n)).all()


@pytest.mark.parametrize("n", [2, 5, 10])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_new_identities_and_rows_are_shared_out_evenly(share, n):
    labels = crowd(400)
    folds = assign_identities(labels, np.arange(len(labels)), n, 1, share)
    assert np.ptp(np.bincount(folds)) <= 2
    new = (spread(labels, folds) == 1)[labels].to_numpy()
    per_fold = pd.Series(labels[new]).groupby(folds[new]).nunique()
    assert np.ptp(per_fold) <= 1
    assert len(per_fold) == n
    assert np.ptp(np.bincount(folds[new])) <= 0.05 * np.bincount(folds[new]).mean() + 1


@pytest.mark.parametrize("seed", range(5))
def test_large_and_small_identities_are_held_out_alike(seed):
    """A share of the identities is then about that share of the rows."""
    labels = np.repeat(np.arange(100), np.r_[np.full(90, 2), np.full(10, 80)])
    folds = assign_identities(labels, np.arange(len(labels)), 5, seed, 0.2)
    new = (spread(labels, folds) == 1).to_numpy()
    assert new[:90].sum() == 18
    assert new[90:].sum() == 2


def test_new_identities_are_shared_out_by_number_where_rows_cannot_be():
    labels = np.repeat(np.arange(8), [40, 2, 2, 2, 2, 2, 2, 2])
    folds = assign_identities(labels, np.arange(len(labels)), 2, 1, 1.0)
    assert pd.Series(labels).groupby(folds).nunique().tolist() == [4, 4]


def test_anyone_can_be_held_out_also_where_no_two_have_as_many_rows():
    labels = np.repeat(np.arange(20), np.arange(2, 22))
    drawn = [spread(labels, assign_identities(labels, np.arange(len(labels)), 4, s, 0.2)) for s in range(60)]
    times = sum((found == 1).astype(int) for found in drawn)
    assert times.sum() == 4 * 60
    assert times.min() >= 3  # of twelve at the mean


def test_an_identity_of_one_group_or_one_row_is_whole_though_no_share_is():
    labels = np.array(["a"] * 6 + ["b"] * 6 + ["c"] * 6 + ["one"])
    groups = np.r_[np.full(6, 0), np.arange(6) // 2 + 1, np.arange(6) + 4, 99]
    folds = assign_identities(labels, groups, 3, 1, 0.0)
    assert spread(labels, folds).to_dict() == {"a": 1, "b": 3, "c": 3, "one": 1}


def test_look_alikes_of_two_identities_keep_whole_ones_together_along_chains():
    """a and b are one group each, tied by two look-alikes: wherever one is new, so is the other."""
    labels = np.array(["a", "a", "a", "b", "b", "b", *["c"] * 4, *["d"] * 4])
    groups = np.r_[0, 1, 2, 2, 3, 4, np.arange(10, 18)]
    for seed in range(10):
        folds = assign_identities(labels, groups, 2, seed, 1.0)
        assert len(set(folds[:6])) == 1
        assert (spread(labels, folds) == 1).all()
        folds = assign_identities(labels, groups, 2, seed, 0.0)
        assert spread(labels, folds).tolist() == [2, 2, 2, 2]
        assert folds[2] == folds[3]


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_two_identities_cost_neither_of_them_a_fold(seed):
    """Each identity has five rows, one of them a look-alike of a row of the next identity's."""
    labels = np.repeat(np.arange(20), 5)
    groups = np.arange(100)
    groups[5::10] = groups[0::10]
    folds = assign_identities(labels, groups, 5, seed, 0.0)
    assert (spread(groups, folds) == 1).all()
    assert (spread(labels, folds) == 5).all()
    assert np.ptp(np.bincount(folds)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_small_groups_of_two_identities_are_placed_before_large_ones_of_one(seed):
    """Afterwards the one fold that either still lacks would mostly not be the same."""
    labels = np.repeat(np.arange(20), 13)
    groups = 5 * labels + np.tile(np.repeat(np.arange(5), [1, 3, 3, 3, 3]), 20)  # four groups of three, a row
    groups[13::26] = groups[0::26]  # the single rows in pairs
    folds = assign_identities(labels, groups, 5, seed, 0.0)
    assert (spread(groups, folds) == 1).all()
    assert (spread(labels, folds) == 5).all()


def test_groups_of_many_rows_are_evened_out_by_the_others():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), 8)
    groups = np.where(rng.random(480) < 0.5, labels * 8, np.arange(480))  # half of each identity looks alike
    folds = assign_identities(labels, groups, 4, 1, 0.0)
    assert np.ptp(np.bincount(folds)) <= 4
    assert (spread(groups, folds) == 1).all()


def test_the_same_seed_gives_the_same_folds_and_another_seed_others():
    labels = crowd()
    first, again, other = (assign_identities(labels, np.arange(len(labels)), 5, s, 0.2) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    new = [set(pd.Index(labels[(spread(labels, f) == 1)[labels].to_numpy()])) for f in (first, other)]
    assert new[0] != new[1]


def test_only_who_shares_a_label_counts_not_what_the_label_is():
    labels = crowd()
    numbers = pd.factorize(labels)[0]
    groups = pairs(len(labels), 0.1)
    expected = assign_identities(labels, groups, 5, 1, 0.2)
    assert np.array_equal(assign_identities(numbers, 7 * groups + 3, 5, 1, 0.2), expected)


def test_too_few_groups_for_the_folds_are_refused_by_the_key_that_asks_too_much():
    labels, groups = np.repeat(["a", "b", "c"], 4), np.arange(12)
    with pytest.raises(
        UserError, match=r"^cv.n_folds=5: there are only 3 groups of rows .*cv.new_share=1.0: "
    ):
        assign_identities(labels, groups, 5, 1, 1.0)
    with pytest.raises(UserError, match=r"^cv.stop_parts=5: there are only 3 groups of rows .*; lower it$"):
        assign_identities(labels, groups % 3, 5, 1, 0.0, key="cv.stop_parts")
    assert len(np.unique(assign_identities(labels, groups, 12, 1, 0.0))) == 12
    assert len(np.unique(assign_identities(labels, groups, 3, 1, 1.0))) == 3


# --- identities of one image --------------------------------------------------------------------------------


def test_identities_of_one_image_are_named_counted_and_refused_unless_they_are_allowed():
    counts, path = {"w_3": 1, "w_2": 1, "w_1": 2, "w_0": 9}, Path("train.csv")
    expected = (
        r"^train.csv: identity 'w_2' has one image and cannot be found when it is held out "
        r"\(2 such identities\); set cv.allow_rare=true \(it is then only ever 'new_id'\), or take it out$"
    )
    with pytest.raises(UserError, match=expected):
        check_identities(counts, CrossValidation(), "new_id", path)
    with pytest.raises(UserError, match=r"\(it is then never found while it is held out\)"):
        check_identities(counts, CrossValidation(kind="plain"), None, path)
    check_identities(counts, CrossValidation(allow_rare=True), "new_id", path)
    check_identities({"w_1": 2, "w_0": 9}, CrossValidation(), None, path)
