"""Every metric against scikit-learn or a loop that spells its definition out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from src.config import Config, UserError
from src.metrics import METRICS, create_metric, names
from src.tasks import create_task

CLASSES = 6


def answers(seed: int = 0, rows: int = 200, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(N,) targets of uneven classes and (N, C) probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(CLASSES, rows, p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    targets[:CLASSES] = np.arange(CLASSES)  # every class is there
    logits = rng.normal(size=(rows, CLASSES)) + skill * np.eye(CLASSES)[targets]
    probabilities = np.exp(logits)
    return targets, probabilities / probabilities.sum(1, keepdims=True)


# --- references: loops over rows and classes, or scikit-learn under another route ---------------------------


def in_order(row: np.ndarray) -> list[int]:
    """Classes from the most to the least probable."""
    return sorted(range(len(row)), key=lambda c: -row[c])


def accuracy(t, p):
    return sum(in_order(row)[0] == y for y, row in zip(t, p, strict=True)) / len(t)


def recall_of(t, p, c):
    rows = [i for i, y in enumerate(t) if y == c]
    return sum(in_order(p[i])[0] == c for i in rows) / len(rows)


def f1_of(t, p, c):
    said = [in_order(row)[0] for row in p]
    hit = sum(y == c == s for y, s in zip(t, said, strict=True))
    return 2 * hit / (sum(y == c for y in t) + sum(s == c for s in said))


def qwk(t, p):
    said, n = [in_order(row)[0] for row in p], len(t)
    observed = sum((a - b) ** 2 for a, b in zip(t, said, strict=True)) / n
    expected = sum((a - b) ** 2 for a in t for b in said) / n**2
    return 1 - observed / expected


def mcc(t, p):
    """Gorodkin (2004): the correlation of the two one-hot matrices."""
    x, y = np.eye(CLASSES)[t], np.eye(CLASSES)[[in_order(row)[0] for row in p]]
    covariance = lambda a, b: ((a - a.mean(0)) * (b - b.mean(0))).sum()  # noqa: E731
    return covariance(x, y) / math.sqrt(covariance(x, x) * covariance(y, y))


def auc_of(t, p, c):
    """Share of pairs, a row of the class and another, that stand the right way round; a tie is half."""
    yes, no = p[t == c, c], p[t != c, c]
    return np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no])


def average_precision_of(t, p, c):
    rows = sorted(range(len(t)), key=lambda i: -p[i, c])
    hits = [rank for rank, i in enumerate(rows, start=1) if t[i] == c]
    return np.mean([count / rank for count, rank in enumerate(hits, start=1)])


def top(k):
    return lambda t, p: sk.top_k_accuracy_score(t, p, k=k, labels=range(p.shape[1]))


def map_at(k):
    """As Kaggle scores a list of k guesses with one right answer: 1 / its place, or 0."""

    def score(t, p):
        places = [
            in_order(row)[:k].index(y) + 1 if y in in_order(row)[:k] else None
            for y, row in zip(t, p, strict=True)
        ]
        return sum(1 / place for place in places if place) / len(t)

    return score


REFERENCES = {
    "accuracy": accuracy,
    "balanced_accuracy": lambda t, p: np.mean([recall_of(t, p, c) for c in range(CLASSES)]),
    "log_loss": lambda t, p: sk.log_loss(t, p, labels=range(p.shape[1])),
    "f1_macro": lambda t, p: np.mean([f1_of(t, p, c) for c in range(CLASSES)]),
    "f1_micro": accuracy,  # with one label a row, precision, recall and accuracy are one number
    "qwk": qwk,
    "mcc": mcc,
    "roc_auc": lambda t, p: np.mean([auc_of(t, p, c) for c in range(CLASSES)]),
    "average_precision": lambda t, p: np.mean([average_precision_of(t, p, c) for c in range(CLASSES)]),
    "brier": lambda t, p: np.mean(
        [sum((p[i, c] - (t[i] == c)) ** 2 for c in range(CLASSES)) for i in range(len(t))]
    ),
    "top3_accuracy": top(3),
    "top5_accuracy": top(5),
    "map3": map_at(3),
    "map5": map_at(5),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", names("multiclass"))
def test_a_metric_is_what_its_definition_gives(name, seed):
    targets, probabilities = answers(seed)
    assert create_metric("multiclass", name)(targets, probabilities) == pytest.approx(
        REFERENCES[name](targets, probabilities), rel=1e-9
    )


@pytest.mark.parametrize("name", names("multiclass"))
def test_float32_predictions_score_as_float64_ones_do(name):
    targets, probabilities = answers()
    metric = create_metric("multiclass", name)
    single = metric(targets, probabilities.astype(np.float32))
    assert type(single) is float
    assert single == pytest.approx(metric(targets, probabilities), rel=1e-5)


@pytest.mark.parametrize("name", names("multiclass"))
def test_a_metrics_direction_prefers_skill_to_luck_and_certainty_to_both(name):
    metric = create_metric("multiclass", name)
    lucky, skilled = metric(*answers(skill=0.0)), metric(*answers(skill=3.0))
    targets, _ = answers()
    perfect = metric(targets, np.eye(CLASSES)[targets])
    assert metric.better(skilled, lucky)
    assert not metric.better(lucky, skilled)
    assert not metric.better(skilled, perfect)
    assert perfect == pytest.approx(1.0 if metric.sign == 1 else 0.0, abs=1e-12)


@pytest.mark.parametrize("name", names("multiclass"))
def test_anything_beats_nothing_but_nan_beats_nothing_and_no_score_beats_itself(name):
    metric = create_metric("multiclass", name)
    assert metric.better(0.5, None)
    assert not metric.better(float("nan"), None)
    assert not metric.better(float("nan"), 0.5)
    assert not metric.better(0.5, 0.5)


def test_a_probability_of_zero_costs_as_much_as_one_of_ten_to_the_minus_15():
    probabilities = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    assert METRICS["log_loss"](np.array([0, 0]), probabilities) == pytest.approx(
        15 * math.log(10) / 2, rel=1e-12
    )


@pytest.mark.parametrize("name", ["top3_accuracy", "top5_accuracy", "map3", "map5"])
@pytest.mark.parametrize("value", [0.1, 0.0, float("nan")])
def test_ties_and_nan_go_against_us_so_that_a_constant_answer_earns_nothing(name, value):
    targets = np.arange(10)
    assert METRICS[name](targets, np.full((10, 10), value)) == 0.0


def test_a_tie_with_the_right_class_counts_as_a_place_before_it():
    probabilities = np.array([[0.4, 0.4, 0.1, 0.1]])
    assert METRICS["map3"](np.array([0]), probabilities) == 0.5
    assert METRICS["map3"](np.array([2]), probabilities) == 0.0
    assert METRICS["map5"](np.array([2]), probabilities) == 0.25


def test_a_class_without_a_row_is_left_out_of_what_is_averaged_over_classes():
    targets, probabilities = answers()
    keep = targets != 5
    targets, probabilities = targets[keep], probabilities[keep]
    for name, of_one in (("roc_auc", auc_of), ("average_precision", average_precision_of)):
        expected = np.mean([of_one(targets, probabilities, c) for c in range(5)])
        assert METRICS[name](targets, probabilities) == pytest.approx(expected, rel=1e-9)
    assert math.isnan(METRICS["roc_auc"](np.zeros(4, int), np.full((4, 2), 0.5)))


def test_kappa_is_zero_for_one_constant_answer_and_below_for_the_opposite():
    targets = np.array([0, 1, 2, 3] * 5)
    assert METRICS["qwk"](targets, np.eye(4)[np.zeros(20, int)]) == pytest.approx(0.0)
    assert METRICS["qwk"](targets, np.eye(4)[3 - targets]) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("name", "near"),
    [("acuracy", "accuracy"), ("logloss", "log_loss"), ("f1macro", "f1_macro"), ("roc", "roc_auc")],
)
def test_an_unknown_metric_is_answered_with_the_near_ones(name, near):
    with pytest.raises(UserError) as caught:
        create_metric("multiclass", name)
    assert str(caught.value).startswith(f"task.metric: {name!r} is no metric of multiclass; ")
    assert near in str(caught.value)


def test_a_metric_like_no_other_is_answered_with_all_that_there_are():
    with pytest.raises(UserError) as caught:
        create_metric("multiclass", "zzz")
    assert str(caught.value).endswith(f"known are {', '.join(METRICS)}")


@pytest.mark.parametrize("blank", [None, ""])
def test_no_metric_means_the_tasks_usual_one(blank):
    assert create_metric("multiclass", blank).name == "accuracy"


# --- what the multiclass task makes of labels and predictions -----------------------------------------------


def multiclass():
    return create_task(Config())


def test_the_task_scores_with_the_competitions_metric():
    targets, probabilities = answers()
    task = create_task(Config.model_validate({"task": {"metric": "log_loss"}}))
    assert task.score(targets, probabilities) == METRICS["log_loss"](targets, probabilities)


def test_labels_become_indices_and_one_hot_rows_in_the_order_of_the_outputs():
    import pandas as pd

    labels, outputs = pd.Series(["dog", "cat", "dog", "emu"]), ["cat", "dog", "emu"]
    assert multiclass().truth(labels, outputs).tolist() == [1, 0, 1, 2]
    assert multiclass().encode(labels, outputs).tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    strata = multiclass().strata(labels)
    assert (strata[0] == strata[2], len(set(strata.tolist()))) == (True, 3)


def test_confidence_is_the_top_probability_and_hardening_makes_it_one():
    predictions = np.array([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]])
    assert multiclass().confidence(predictions).tolist() == [0.7, 0.5]
    assert multiclass().harden(predictions).tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["id", "label"], [["a", "dog"], ["b", "cat"]]),
        (["label", "id"], [["dog", "a"], ["cat", "b"]]),
        (["id", "emu", "cat", "dog"], [["a", 0.1, 0.2, 0.7], ["b", 0.0, 0.6, 0.4]]),
    ],
)
def test_a_submission_has_the_samples_columns_in_the_samples_order(columns, expected):
    import pandas as pd

    sample = pd.DataFrame({column: ["a", "b"] if column == "id" else ["", ""] for column in columns})
    predictions = np.array([[0.2, 0.7, 0.1], [0.6, 0.4, 0.0]])  # cat, dog, emu
    table = multiclass().submission(predictions, sample, "id", ["cat", "dog", "emu"])
    assert (table.columns.tolist(), table.to_numpy().tolist()) == (columns, expected)
