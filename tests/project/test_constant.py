"""The best constant prediction against closed forms; and that a CV no better than it says so."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from src.config import Config
from src.decisions.constant import best_constant
from src.metrics import METRICS, create_metric
from src.metrics.retrieval import Ranking
from src.scoring import against_constant, evaluate, no_better_than_constant
from src.tasks import create_task
from src.tasks.base import as_target_columns

N, FOLDS = 240, 4
FOLD = np.arange(N) % FOLDS
RNG = np.random.default_rng(0)
CLASSES = RNG.permutation(np.repeat([0, 1, 2], [150, 60, 30]))
YES = (CLASSES > 0).astype(int)  # three eighths
NUMBERS = np.exp(RNG.normal(size=N)).round(2) + 0.01
NAMES = np.array(["a", "b", "c"], dtype=object)
MASKS = [np.full((1, 4, 4), i % 4 == 0) for i in range(N)]  # a quarter full, the others empty


def said(outputs: int) -> np.ndarray:
    return np.random.default_rng(1).random((N, outputs)).astype(np.float32)


RANKED = Ranking([["b", "a", "c"]] * N, [[0.9, 0.5, 0.1]] * N)
DATA = {
    "multiclass": (CLASSES, said(3)),
    "binary": (YES, said(1)),
    "multilabel": (np.eye(3, dtype=int)[CLASSES], said(3)),
    "regression": (NUMBERS[:, None], said(1)),
    "segmentation": (MASKS, list((said(16) * 255).astype(np.uint8).reshape(N, 1, 4, 4))),
    "retrieval": (NAMES[CLASSES], RANKED),
}


def others(k: int) -> np.ndarray:
    return k != FOLD


def by_fold(score) -> list[float]:
    """Of each fold, by what the other folds hold."""
    return [score(others(k), k == FOLD) for k in range(FOLDS)]


def shares(of: np.ndarray) -> np.ndarray:
    return np.bincount(of, minlength=3) / len(of)


def most(own: np.ndarray, others: np.ndarray) -> float:
    """The share of own rows that are what most others are."""
    return (own == (others.mean() >= 0.5)).mean()


def likeliest(k: np.ndarray, o: np.ndarray) -> float:
    return (NAMES[CLASSES[k]] == Counter(NAMES[CLASSES[o]]).most_common()[0][0]).mean()


EXPECTED = [
    ("multiclass", "accuracy", lambda o, k: (CLASSES[k] == shares(CLASSES[o]).argmax()).mean()),
    ("multiclass", "log_loss", lambda o, k: -np.log(shares(CLASSES[o]))[CLASSES[k]].mean()),
    ("binary", "roc_auc", lambda o, k: 0.5),
    ("binary", "average_precision", lambda o, k: YES[k].mean()),
    ("binary", "f1", lambda o, k: 2 * YES[k].mean() / (1 + YES[k].mean())),  # yes to all
    ("binary", "accuracy", lambda o, k: 1 - YES[k].mean()),  # no to all
    (
        "multilabel",
        "accuracy",
        lambda o, k: np.mean([most(CLASSES[k] == c, CLASSES[o] == c) for c in range(3)]),
    ),
    ("regression", "rmse", lambda o, k: np.sqrt(((NUMBERS[k] - NUMBERS[o].mean()) ** 2).mean())),
    ("regression", "mae", lambda o, k: abs(NUMBERS[k] - np.median(NUMBERS[o])).mean()),
    ("regression", "pearson", lambda o, k: 0.0),
    ("segmentation", "dice", lambda o, k: np.mean([not MASKS[i].any() for i in np.flatnonzero(k)])),  # empty
    ("retrieval", "map1", lambda o, k: likeliest(k, o)),
]


@pytest.mark.parametrize(("task", "name", "expected"), EXPECTED, ids=[f"{t}-{n}" for t, n, _ in EXPECTED])
def test_the_best_constant_scores_what_a_closed_form_gives(task, name, expected):
    found = best_constant(create_metric(task, name), *DATA[task], FOLD)
    tolerance = 0.04 if task == "regression" else 1e-6  # a twentieth of the rows apart
    np.testing.assert_allclose(found.folds, by_fold(expected), rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize(("task", "name"), [(task, name) for task in METRICS for name in METRICS[task]])
def test_every_metric_has_one(task, name):
    targets, predictions = DATA[task]
    if task == "regression" and name == "qwk":
        targets = np.rint(targets)
    found = best_constant(create_metric(task, name), targets, predictions, FOLD)
    assert np.isfinite([found.score, *found.folds]).all()


def scored(task: str, name: str, said: np.ndarray) -> dict:
    config = Config(task={"name": task, "metric": name})
    labels = pd.DataFrame({"y": NUMBERS.astype(str) if task == "regression" else NAMES[CLASSES]})
    outputs = ["y"] if task == "regression" else list(NAMES)
    oof = (
        pd.DataFrame({"fold": FOLD}).join(as_target_columns(labels)).join(pd.DataFrame(said, columns=outputs))
    )
    metrics = evaluate(create_task(config), oof, outputs)
    return metrics | against_constant(create_task(config), oof, outputs, metrics)


@pytest.mark.parametrize(("task", "name"), [("multiclass", "log_loss"), ("multiclass", "accuracy")])
def test_a_model_that_learned_nothing_says_so_and_one_that_did_says_nothing(task, name):
    nothing = scored(task, name, said(3) / said(3).sum(1, keepdims=True))
    assert nothing["constant"]["gain"] < 0
    assert f"scores {nothing['constant']['score']:.4f}" in no_better_than_constant(nothing)
    much = scored(task, name, (0.05 + 0.85 * np.eye(3)[CLASSES]).astype(np.float32))
    assert much["constant"]["gain"] > much["constant"]["gain_error"]
    assert no_better_than_constant(much) == ""


def test_a_gain_within_its_error_is_none_and_where_lower_is_better_less_is_a_gain():
    near = (NUMBERS + RNG.normal(size=N)).astype(np.float32)[:, None]
    better = scored("regression", "rmse", near)
    assert (better["constant"]["gain"] > 0) == (better["cv"] < better["constant"]["score"])
    assert no_better_than_constant({"constant": {"score": 0.5, "gain": 0.01, "gain_error": 0.02}})
    assert not no_better_than_constant({"constant": {"score": 0.5, "gain": 0.03, "gain_error": 0.02}})
    assert not no_better_than_constant({"constant": {"score": None, "gain": None, "gain_error": None}})
    assert not no_better_than_constant({})  # of an earlier version
