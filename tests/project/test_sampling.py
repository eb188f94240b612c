"""Class-balanced and square-root sampling: each class its share of the epoch, the epoch as long as ever, the
same for the same seed; and not together with class weights."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from src.config import Config
from src.configfile import load_config
from src.data.images import ImageStore
from src.data.loaders import EpochSampler, TrainingRows, create_sampler, training_loader
from src.data.sampling import draw_rows, row_shares

COUNTS = (400, 90, 10)  # a long tail


def one_hot(counts=COUNTS, seed: int = 0) -> np.ndarray:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    return np.eye(len(counts), dtype=np.float32)[labels]


def rows_of(targets: np.ndarray) -> TrainingRows:
    return TrainingRows(np.arange(len(targets)), targets, np.ones(len(targets), np.float32))


def class_counts(targets: np.ndarray, epochs: EpochSampler) -> np.ndarray:
    return targets[np.concatenate(epochs.batches())].sum(0)


# --- the shares ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "power"), [("balanced", 0.0), ("sqrt", 0.5)])
def test_a_class_gets_the_share_of_the_paper_and_its_rows_equal_parts_of_it(kind, power):
    targets = one_hot()
    shares = row_shares(targets, kind, "multiclass")
    assert shares.sum() == pytest.approx(1)
    wanted = np.array(COUNTS, float) ** power
    np.testing.assert_allclose(targets.T @ shares, wanted / wanted.sum(), rtol=1e-12)
    for label in range(3):
        assert np.ptp(shares[targets[:, label] == 1]) == 0


def by_hand(targets: np.ndarray, power: float) -> np.ndarray:
    """Draw a class, then one of its rows, in loops; a row without any label is of a class of its own."""
    holders = [[r for r in range(len(targets)) if targets[r][c] == 1] for c in range(targets.shape[1])]
    holders.append([r for r in range(len(targets)) if not any(value == 1 for value in targets[r])])
    holders = [rows for rows in holders if rows]
    total = sum(len(rows) ** power for rows in holders)
    shares = [0.0] * len(targets)
    for rows in holders:
        for row in rows:
            shares[row] += len(rows) ** power / total / len(rows)
    return np.array(shares)


@pytest.mark.parametrize(("kind", "power"), [("balanced", 0.0), ("sqrt", 0.5)])
@pytest.mark.parametrize("empty", [True, False], ids=["some have none", "all have some"])
def test_a_row_of_several_labels_gets_the_parts_of_all(kind, power, empty):
    rng = np.random.default_rng(0)
    targets = (rng.random((80, 4)) < [0.5, 0.3, 0.1, 0.04]).astype(np.float32)
    targets = targets if empty else targets[targets.any(1)]
    np.testing.assert_allclose(row_shares(targets, kind, "multilabel"), by_hand(targets, power), rtol=1e-9)


@pytest.mark.parametrize("kind", ["balanced", "sqrt"])
def test_no_is_a_class_of_a_binary_task_as_yes_is(kind):
    yes = (np.random.default_rng(0).random((200, 1)) < 0.1).astype(np.float32)
    two = np.hstack([1 - yes, yes])
    np.testing.assert_allclose(row_shares(yes, kind, "binary"), row_shares(two, kind, "multiclass"))


def test_a_soft_target_is_that_much_of_each_class():
    """Three hard rows and a pseudo-labelled one: classes of 1.75 and 2.25 rows."""
    targets = np.array([[1, 0], [0, 1], [0, 1], [0.75, 0.25]], np.float32)
    shares = row_shares(targets, "balanced", "multiclass")
    a, b = 0.5 / 1.75, 0.5 / 2.25
    np.testing.assert_allclose(shares, [a, b, b, 0.75 * a + 0.25 * b])


def test_an_unknown_label_counts_as_no_and_every_row_keeps_a_share():
    known = np.array([[1, 0], [0, 1], [0, 0], [1, 1]], np.float32)
    unknown = np.array([[1, np.nan], [np.nan, 1], [0, np.nan], [1, 1]], np.float32)
    shares = row_shares(unknown, "balanced", "multilabel")
    np.testing.assert_allclose(shares, row_shares(known, "balanced", "multilabel"))
    assert (shares > 0).all()


def test_a_class_that_this_fold_does_not_hold_takes_nothing_from_the_others():
    targets = np.insert(one_hot(), 1, 0, axis=1)
    np.testing.assert_allclose(
        row_shares(targets, "balanced", "multiclass"), row_shares(one_hot(), "balanced", "multiclass")
    )


# --- the draw -----------------------------------------------------------------------------------------------


def test_a_row_comes_its_share_of_the_epoch_rounded_up_or_down_and_neither_always():
    shares = row_shares(one_hot(), "balanced", "multiclass")
    rng, up = np.random.default_rng(0), np.zeros(len(shares))
    epochs = 400
    for _ in range(epochs):
        rows = draw_rows(shares, rng)
        assert len(rows) == len(shares)
        times = np.bincount(rows, minlength=len(shares))
        whole = np.floor(len(shares) * shares)
        assert ((times == whole) | (times == whole + 1)).all()
        up += times - whole
    rest = len(shares) * shares % 1
    assert (np.abs(up / epochs - rest) <= 5 * np.sqrt(rest * (1 - rest) / epochs) + 1e-9).all()


def test_rows_that_are_alike_come_once_each():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 1000):
        assert sorted(draw_rows(np.full(n, 1 / n), rng)) == list(range(n))


def test_rows_are_spread_over_the_epoch_and_do_not_come_in_blocks():
    targets = one_hot((300, 300))
    rows = draw_rows(row_shares(targets, "balanced", "multiclass"), np.random.default_rng(0))
    changes = (np.diff(targets[rows, 0]) != 0).sum()
    assert abs(changes - 299.5) < 5 * math.sqrt(599) / 2


# --- the epochs ---------------------------------------------------------------------------------------------


def read(project, *overrides: str) -> Config:
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


@pytest.mark.parametrize("kind", ["balanced", "sqrt"])
def test_every_epoch_has_the_same_length_and_the_wanted_classes(project, kind):
    targets = one_hot()
    plain, epochs = (
        create_sampler(rows_of(targets), read(project, *more), seed=5)
        for more in ((), (f"train.sampling={kind}",))
    )
    assert len(epochs) == len(plain)
    assert list(map(len, epochs.batches())) == list(map(len, plain.batches()))
    wanted = np.array(COUNTS, float) ** {"balanced": 0, "sqrt": 0.5}[kind]
    for epochs.epoch in range(5):
        found = class_counts(targets, epochs)
        assert np.abs(found - 500 * wanted / wanted.sum()).max() <= 12  # the rounding of rows alone
    assert class_counts(targets, plain).tolist() == list(COUNTS)


def orders(seed: int, epochs: range) -> list[list[int]]:
    shares = row_shares(one_hot(), "balanced", "multiclass")
    sampler, found = EpochSampler(500, 32, seed, shares=shares), []
    for sampler.epoch in epochs:
        found.append(np.concatenate(sampler.batches()).tolist())
    return found


def test_an_epoch_is_the_same_for_the_same_seed_whichever_came_before_it():
    first = orders(1, range(3))
    assert orders(1, range(3)) == first
    assert orders(1, range(2, 3)) == first[2:]  # as after a resume
    assert len({tuple(order) for order in first + orders(2, range(3))}) == 6


def test_rows_of_a_small_class_that_come_twice_are_augmented_anew(project):
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    targets = one_hot((30, 2))
    store = ImageStore(
        np.repeat(image, 32, axis=0), np.arange(32), np.arange(0), [], [], (0.5,) * 3, (1,) * 3
    )
    config = read(project, "train.sampling=balanced", "augment.rotate=30", "train.batch_size=32")
    (images, labels, _), *_ = training_loader(rows_of(targets), store, config, 0, seed=1)[0]
    rare = images[labels[:, 1] == 1].flatten(1)
    assert len(rare) == 16
    assert len(rare.unique(dim=0)) == 16


@pytest.mark.parametrize(
    ("task", "more"),
    [("regression", "data.target=y"), ("segmentation", "data.rle=rle"), ("retrieval", "data.target=who")],
)
def test_a_task_without_classes_to_balance_is_refused(project, task, more):
    from src.config import UserError

    with pytest.raises(UserError, match=f"train.sampling=sqrt balances classes, and {task} has none"):
        read(project, f"task.name={task}", more, "train.sampling=sqrt")


# --- why it is one of sampling and class weights ------------------------------------------------------------


def test_balanced_rows_and_inverse_weights_together_overshoot():
    """What the network is told of a long tail, as the share of the loss that each class has."""
    targets = one_hot()
    counts = targets.sum(0)
    inverse = 1 / counts
    sampled = targets.T @ row_shares(targets, "balanced", "multiclass")
    both = sampled * inverse / (sampled * inverse).sum()
    weighted = counts * inverse / (counts * inverse).sum()
    np.testing.assert_allclose(sampled, 1 / 3)
    np.testing.assert_allclose(weighted, 1 / 3)
    np.testing.assert_allclose(both, [0.022, 0.098, 0.880], atol=1e-3)


def test_pseudo_labelled_rows_take_part(project):
    targets = np.concatenate([one_hot((20, 4)), np.array([[0.1, 0.9]] * 6, np.float32)])
    rows = dataclasses.replace(rows_of(targets), weights=np.full(30, 0.5, np.float32))
    epochs = create_sampler(rows, read(project, "train.sampling=balanced"), seed=0)
    found = np.mean([class_counts(targets, epochs) for epochs.epoch in range(20)], axis=0)
    np.testing.assert_allclose(found, [15, 15], atol=1)
