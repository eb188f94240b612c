"""The weighted mean by hill climbing, against a climb by hand and against all weights there are."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score

from src.config import Config, Stack
from src.ensemble.blenders import restored
from src.ensemble.blenders.base import LevelData, nested_oof
from src.ensemble.blenders.hill_climbing import (
    BAGS,
    CLIMB_PATIENCE,
    CLIMB_ROUNDS,
    FEWEST_MEMBERS,
    bags,
    fit,
    hill_climb_bag,
)
from src.tasks import create_task


def level(
    kind: str, members: int = 5, n: int = 80, outputs: int = 3, seed: int = 0, metric: str | None = None
):
    """Members of unlike skill on the same rows."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=(n, outputs))
    noise = np.linspace(0.5, 2.5, members)[:, None, None]
    said = signal + noise * random.normal(size=(members, n, outputs))
    if kind == "classes":
        truth = signal.argmax(1)
        oof, targets = np.exp(said) / np.exp(said).sum(2, keepdims=True), np.eye(outputs)[truth]
    elif kind == "labels":
        truth = (signal > 0).astype(int)
        oof, targets = 1 / (1 + np.exp(-said)), truth.astype(float)
    else:
        truth, oof, targets = signal, said, signal
    names = {"classes": "multiclass", "labels": "multilabel", "values": "regression"}
    scored = (
        None if metric is None else create_task(Config(task={"name": names[kind], "metric": metric})).metric
    )
    return LevelData(oof, targets, np.arange(n) % 4, kind, Stack(), seed, metric=scored, truth=truth)


LOSSES = {
    "classes": lambda level, p: log_loss(level.truth, p, labels=range(p.shape[1])),
    "labels": lambda level, p: np.mean([log_loss(t, q) for t, q in zip(level.truth.T, p.T, strict=True)]),
    "values": lambda level, p: mean_squared_error(level.truth / level.truth.std(0), p / level.truth.std(0)),
}


@pytest.mark.parametrize("kind", list(LOSSES))
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("members", [1, 2, 5, 9])
def test_hill_climbing_is_never_below_its_best_member_on_the_rows_it_is_fitted_on(kind, seed, members):
    rows = level(kind, members, seed=seed)
    found = fit(rows)
    alone = [LOSSES[kind](rows, one) for one in rows.oof]
    assert LOSSES[kind](rows, found.apply(rows.oof)) <= min(alone) + 1e-12
    assert found.weights.shape == (members,)
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    assert (found.weights >= 0).all()


@pytest.mark.parametrize(
    ("kind", "metric"), [("classes", "accuracy"), ("labels", "roc_auc"), ("values", "mae")]
)
@pytest.mark.parametrize("seed", range(2))
def test_it_climbs_the_competitions_metric_and_is_never_below_the_best_member_in_it(kind, metric, seed):
    rows = level(kind, seed=seed, metric=metric)
    sign = rows.metric.sign
    alone = [sign * rows.metric(rows.truth, one) for one in rows.oof]
    assert sign * rows.metric(rows.truth, fit(rows).apply(rows.oof)) >= max(alone) - 1e-12


def test_another_metric_finds_other_weights_and_one_that_needs_decisions_leaves_the_own_loss():
    plain, auc, f1 = (level("labels", metric=name) for name in (None, "roc_auc", "f1_macro"))
    assert f1.metric.decides is not None
    np.testing.assert_array_equal(fit(plain).weights, fit(f1).weights)
    assert not np.array_equal(fit(plain).weights, fit(auc).weights)


def test_a_climb_takes_the_member_that_helps_most_step_by_step():
    """By hand, with scikit-learn's log loss of the mean of what was taken so far."""
    rows = level("classes", members=4)
    p = np.take_along_axis(rows.oof, rows.truth[None, :, None], axis=2)[:, :, 0]

    def loss(x):
        return -np.log(x).mean()

    found = hill_climb_bag(p, loss, np.arange(4), [loss(one) for one in p])
    taken = [int(np.argmin([LOSSES["classes"](rows, one) for one in rows.oof]))]
    best, lowest, size = None, np.inf, 1
    while len(taken) <= CLIMB_ROUNDS:
        score = LOSSES["classes"](rows, rows.oof[taken].mean(0))
        if score < lowest - 1e-15:
            best, lowest, size = np.bincount(taken, minlength=4) / len(taken), score, len(taken)
        elif len(taken) - size >= CLIMB_PATIENCE:
            break
        tried = [LOSSES["classes"](rows, rows.oof[[*taken, m]].mean(0)) for m in range(4)]
        taken.append(int(np.argmin(tried)))
    np.testing.assert_allclose(found, best, atol=1e-12)


def test_it_comes_near_the_best_of_all_weights():
    rows = level("values", members=3, n=400, outputs=1)
    grid = [w for w in itertools.product(np.arange(0, 1.0001, 0.04), repeat=3) if abs(sum(w) - 1) < 1e-9]
    best = min(LOSSES["values"](rows, np.tensordot(w, rows.oof, axes=1)) for w in grid)
    assert LOSSES["values"](rows, fit(rows).apply(rows.oof)) < best * 1.02


def test_bags_hold_half_of_the_members_and_differ_and_few_members_are_climbed_once():
    found = bags(12, seed=0)
    assert len(found) == BAGS
    assert all(len(bag) == len(set(bag.tolist())) == 6 for bag in found)
    assert len({tuple(bag) for bag in found}) > 1
    assert [bag.tolist() for bag in bags(12, seed=0)] == [bag.tolist() for bag in found]
    assert [bag.tolist() for bag in bags(FEWEST_MEMBERS, seed=0)] == [list(range(FEWEST_MEMBERS))]


def test_weights_of_many_members_are_the_mean_of_their_bags_climbs():
    rows = level("values", members=9, outputs=1)
    error = (rows.oof - rows.targets)[:, :, 0]

    def loss(x):
        return np.mean(x**2)

    alone = [loss(one) for one in error]
    by_hand = np.mean([hill_climb_bag(error, loss, bag, alone) for bag in bags(9, rows.seed)], axis=0)
    np.testing.assert_allclose(fit(rows).weights, by_hand, atol=1e-9)


def test_cells_whose_answer_is_unknown_do_not_count():
    rows = level("labels")
    hidden = np.random.default_rng(3).random(rows.targets.shape) < 0.4
    shouted = np.where(hidden, 1 - rows.oof, rows.oof)
    holes = rows.but(targets=np.where(hidden, np.nan, rows.targets))
    np.testing.assert_array_equal(fit(holes).weights, fit(holes.but(oof=shouted)).weights)
    assert not np.array_equal(fit(rows).weights, fit(rows.but(oof=shouted)).weights)


@pytest.mark.parametrize("kind", list(LOSSES))
def test_a_member_that_is_no_number_gets_no_weight(kind):
    rows = level(kind)
    broken = rows.oof.copy()
    broken[0, 3] = np.nan
    assert fit(rows.but(oof=broken)).weights[0] == 0


def test_a_metric_that_these_rows_leave_undefined_keeps_the_mean():
    rows = level("labels", metric="roc_auc")
    rows = rows.but(truth=np.zeros_like(rows.truth))
    np.testing.assert_array_equal(fit(rows).weights, np.full(5, 0.2))


def test_on_members_that_know_nothing_it_flatters_itself_in_sample_and_not_on_rows_it_did_not_see():
    inside, outside = [], []
    for seed in range(8):
        random = np.random.default_rng(seed)
        oof, truth = random.random((40, 200, 1)), np.arange(200) % 2
        targets, fold = truth[:, None].astype(float), np.arange(200) // 2 % 4
        rows = LevelData(oof, targets, fold, "labels", Stack(), seed)
        inside.append(roc_auc_score(truth, fit(rows).apply(oof)[:, 0]))
        outside.append(roc_auc_score(truth, nested_oof(fit, rows)[:, 0]))
    assert np.mean(inside) > 0.58
    assert abs(np.mean(outside) - 0.5) < 3 * np.std(outside, ddof=1) / np.sqrt(8)


def test_stored_weights_are_plain_numbers_and_weigh_the_same():
    rows = level("classes")
    found = fit(rows)
    again = restored("hill_climbing", json.loads(json.dumps(found.as_json())))
    np.testing.assert_array_equal(again.apply(rows.oof), found.apply(rows.oof))
