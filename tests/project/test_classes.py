"""Targets kept as numbers of classes do what the dense table of them does, row for row."""

from __future__ import annotations

import numpy as np
import pytest

from src.config import Train
from src.data.classes import ClassTargets, taken
from src.data.loaders import TrainingRows
from src.data.sampling import row_shares
from src.losses.balance import class_counts, weights_of_classes

RANDOM = np.random.default_rng(0)
CODES = RANDOM.integers(0, 5, 40)
SOFT = RANDOM.dirichlet(np.ones(6), 7).astype(np.float32)
DENSE = np.concatenate([np.eye(6, dtype=np.float32)[CODES], SOFT])  # no row is of class 5 alone
TARGETS = ClassTargets.of(CODES, 6) + SOFT[:3] + SOFT[3:]
TAKEN = [slice(None), slice(3, 45, 2), np.array([46, 0, 41, 41]), DENSE[:, 0] > 0.5, np.empty(0, int), 2, 46]


@pytest.mark.parametrize("rows", TAKEN, ids=str)
def test_rows_of_it_are_rows_of_the_dense_table(rows):
    assert TARGETS[rows].dtype == np.float32
    assert TARGETS[rows].tolist() == DENSE[rows].tolist()
    if not isinstance(rows, int):
        part = taken(TARGETS, rows)
        assert (isinstance(part, ClassTargets), part.shape) == (True, DENSE[rows].shape)
        assert np.asarray(part).tolist() == DENSE[rows].tolist()
        np.testing.assert_allclose(part.sum(0), DENSE[rows].sum(0), rtol=1e-6)


def test_what_sampling_weights_and_batches_of_identities_ask_of_it():
    assert TARGETS.argmax(1).tolist() == DENSE.argmax(1).tolist()
    for kind in ("balanced", "sqrt"):
        np.testing.assert_allclose(
            row_shares(TARGETS, kind, "multiclass"), row_shares(DENSE, kind, "multiclass")
        )
    np.testing.assert_allclose(class_counts(TARGETS, 6), class_counts(DENSE, 6), rtol=1e-6)
    settings, names = Train(class_weights="inverse"), list("abcdef")
    np.testing.assert_allclose(
        weights_of_classes(settings, TARGETS, names), weights_of_classes(settings, DENSE, names), rtol=1e-6
    )


def test_rows_to_learn_from_and_pseudo_labels_behind_them_stay_numbers():
    rows, more = (
        TrainingRows(np.arange(n), t, np.ones(n)) for n, t in ((40, ClassTargets.of(CODES, 6)), (7, SOFT))
    )
    both = rows + more
    assert isinstance(both.targets, ClassTargets)
    assert np.asarray(both.targets).tolist() == DENSE.tolist()
    assert np.asarray(both.part(slice(30, 44)).targets).tolist() == DENSE[30:44].tolist()


def test_ten_thousand_classes_take_memory_by_the_row():
    targets = ClassTargets.of(np.arange(20_000) % 10_000, 10_000)
    assert targets.codes.nbytes + targets.soft.nbytes < 200_000
    assert targets[[3, 10_003]].argmax(1).tolist() == [3, 3]
    assert targets.sum(0).tolist() == [2.0] * 10_000
