"""Every metric against scikit-learn or a loop that spells its definition out."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from src.config import Config, UserError
from src.metrics import METRICS, Metric, create_metric, names, own
from src.metrics.retrieval import Ranking
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


def f_beta_of(t, p, c, beta):
    """Van Rijsbergen's: precision and recall, recall counting beta times as much."""
    said = np.array([in_order(row)[0] for row in p])
    precision, recall = np.mean(t[said == c] == c), np.mean(said[t == c] == c)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


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


MULTICLASS = {
    "accuracy": accuracy,
    "balanced_accuracy": lambda t, p: np.mean([recall_of(t, p, c) for c in range(CLASSES)]),
    "log_loss": lambda t, p: sk.log_loss(t, p, labels=range(p.shape[1])),
    "f1_macro": lambda t, p: np.mean([f1_of(t, p, c) for c in range(CLASSES)]),
    "f1_micro": accuracy,  # with one label a row, precision, recall and accuracy are one number
    "f1_weighted": lambda t, p: sum(f1_of(t, p, c) * (t == c).mean() for c in range(CLASSES)),
    "f2_macro": lambda t, p: np.mean([f_beta_of(t, p, c, 2) for c in range(CLASSES)]),
    "f05_macro": lambda t, p: np.mean([f_beta_of(t, p, c, 0.5) for c in range(CLASSES)]),
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
@pytest.mark.parametrize("name", MULTICLASS)
def test_a_metric_is_what_its_definition_gives(name, seed):
    targets, probabilities = answers(seed)
    assert create_metric("multiclass", name)(targets, probabilities) == pytest.approx(
        MULTICLASS[name](targets, probabilities), rel=1e-9
    )


@pytest.mark.parametrize("name", MULTICLASS)
def test_float32_predictions_score_as_float64_ones_do(name):
    targets, probabilities = answers()
    metric = create_metric("multiclass", name)
    single = metric(targets, probabilities.astype(np.float32))
    assert type(single) is float
    assert single == pytest.approx(metric(targets, probabilities), rel=1e-5)


@pytest.mark.parametrize("name", MULTICLASS)
def test_a_metrics_direction_prefers_skill_to_luck_and_certainty_to_both(name):
    metric = create_metric("multiclass", name)
    lucky, skilled = metric(*answers(skill=0.0)), metric(*answers(skill=3.0))
    targets, _ = answers()
    perfect = metric(targets, np.eye(CLASSES)[targets])
    assert metric.better(skilled, lucky)
    assert not metric.better(lucky, skilled)
    assert not metric.better(skilled, perfect)
    assert perfect == pytest.approx(1.0 if metric.sign == 1 else 0.0, abs=1e-12)


@pytest.mark.parametrize("name", MULTICLASS)
def test_anything_beats_nothing_but_nan_beats_nothing_and_no_score_beats_itself(name):
    metric = create_metric("multiclass", name)
    assert metric.better(0.5, None)
    assert metric.better(0.5, float("nan"))
    assert not metric.better(float("inf") * metric.sign, 0.5)
    assert not metric.better(float("nan"), None)
    assert not metric.better(float("nan"), 0.5)
    assert not metric.better(0.5, 0.5)


def test_a_probability_of_zero_costs_as_much_as_one_of_ten_to_the_minus_15():
    probabilities = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    assert create_metric("multiclass", "log_loss")(np.array([0, 0]), probabilities) == pytest.approx(
        15 * math.log(10) / 2, rel=1e-12
    )


@pytest.mark.parametrize("name", ["top3_accuracy", "top5_accuracy", "map3", "map5"])
@pytest.mark.parametrize("value", [0.1, 0.0, float("nan")])
def test_ties_and_nan_go_against_us_so_that_a_constant_answer_earns_nothing(name, value):
    targets = np.arange(10)
    assert create_metric("multiclass", name)(targets, np.full((10, 10), value)) == 0.0


def test_a_tie_with_the_right_class_counts_as_a_place_before_it():
    probabilities = np.array([[0.4, 0.4, 0.1, 0.1]])
    assert create_metric("multiclass", "map3")(np.array([0]), probabilities) == 0.5
    assert create_metric("multiclass", "map3")(np.array([2]), probabilities) == 0.0
    assert create_metric("multiclass", "map5")(np.array([2]), probabilities) == 0.25


def test_a_class_without_a_row_is_left_out_of_what_is_averaged_over_classes():
    targets, probabilities = answers()
    keep = targets != 5
    targets, probabilities = targets[keep], probabilities[keep]
    for name, of_one in (("roc_auc", auc_of), ("average_precision", average_precision_of)):
        expected = np.mean([of_one(targets, probabilities, c) for c in range(5)])
        assert create_metric("multiclass", name)(targets, probabilities) == pytest.approx(expected, rel=1e-9)
    assert math.isnan(create_metric("multiclass", "roc_auc")(np.zeros(4, int), np.full((4, 2), 0.5)))


def test_kappa_is_zero_for_one_constant_answer_and_below_for_the_opposite():
    targets = np.array([0, 1, 2, 3] * 5)
    assert create_metric("multiclass", "qwk")(targets, np.eye(4)[np.zeros(20, int)]) == pytest.approx(0.0)
    assert create_metric("multiclass", "qwk")(targets, np.eye(4)[3 - targets]) == pytest.approx(-1.0)


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
    assert str(caught.value).endswith(f"known are {', '.join(names('multiclass'))}")


@pytest.mark.parametrize("blank", [None, ""])
@pytest.mark.parametrize(
    ("task", "usual"),
    [
        ("multiclass", "accuracy"),
        ("binary", "roc_auc"),
        ("multilabel", "roc_auc"),
        ("regression", "rmse"),
        ("segmentation", "dice"),
        ("retrieval", "map5"),
    ],
)
def test_no_metric_means_the_tasks_usual_one(task, usual, blank):
    assert create_metric(task, blank).name == usual


def test_a_metric_of_ones_own_is_one_function_and_one_line():
    """The example in `own.py`, uncommented, is a metric."""
    source = Path(own.__file__).read_text(encoding="utf-8")
    names: dict = {}
    exec(re.sub(r"^( *)# ", r"\1", source, flags=re.MULTILINE), names)
    (metric,) = names["METRICS"]
    assert metric.tasks == ("multiclass",)
    assert metric(np.array([0, 0, 1]), np.eye(2)[[0, 1, 1]]) == pytest.approx((2 + 1) / 5)


# --- binary and multilabel ----------------------------------------------------------------------------------


def labelled(seed: int = 0, rows: int = 150, labels: int = 4, skill: float = 1.5, unknown: float = 0.0):
    """(N, L) targets in {0, 1}, common to rare, some unknown, and (N, L) probabilities that know of them."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, labels)) < np.linspace(0.5, 0.15, labels)).astype(np.float64)
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=targets.shape) + skill * (targets - 0.5))))
    targets[rng.random(targets.shape) < unknown] = np.nan
    return targets, probabilities


def of_columns(function):
    """The mean over columns of a function of one, known rows alone."""

    def score(t, p):
        known = [~np.isnan(column) for column in t.T]
        return np.mean([function(t[k, c], p[k, c]) for c, k in enumerate(known)])

    return score


def of_rows(function):
    """The mean over rows of a function of one row's known cells; a row without any is left out."""
    return lambda t, p: of_columns(function)(t.T[:, ~np.isnan(t).all(1)], p.T[:, ~np.isnan(t).all(1)])


def of_cells(function):
    return lambda t, p: function(t[~np.isnan(t)], p[~np.isnan(t)])


def f(beta):
    return lambda t, p: sk.fbeta_score(t, p >= 0.5, beta=beta, zero_division=0)


def pairs_in_order(t, p):
    return np.mean([(a > b) + 0.5 * (a == b) for a in p[t == 1] for b in p[t == 0]])


def lrap_of_row(t, p):
    if not (t == 1).any():
        return 1.0
    return np.mean([(t[p >= p[j]] == 1).mean() for j in np.flatnonzero(t == 1)])


BINARY = {
    "roc_auc": pairs_in_order,
    "log_loss": sk.log_loss,
    "average_precision": sk.average_precision_score,
    "accuracy": lambda t, p: sk.accuracy_score(t, p >= 0.5),
    "balanced_accuracy": lambda t, p: sk.balanced_accuracy_score(t, p >= 0.5),
    "f1": f(1),
    "f2": f(2),
    "f05": f(0.5),
    "mcc": lambda t, p: sk.matthews_corrcoef(t, p >= 0.5),
    "brier": sk.brier_score_loss,
}
MULTILABEL = {
    "roc_auc": of_columns(pairs_in_order),
    "average_precision": of_columns(sk.average_precision_score),
    "log_loss": of_columns(sk.log_loss),
    "f1_macro": of_columns(f(1)),
    "f1_micro": of_cells(f(1)),
    "f1_samples": of_rows(f(1)),
    "f2_samples": of_rows(f(2)),
    "accuracy": of_cells(lambda t, p: sk.accuracy_score(t, p >= 0.5)),
    "subset_accuracy": of_rows(lambda t, p: ((p >= 0.5) == t).all()),
    "brier": of_columns(sk.brier_score_loss),
    "lrap": of_rows(lrap_of_row),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", BINARY)
def test_a_binary_metric_is_what_its_definition_gives_of_one_column_or_none(name, seed):
    targets, probabilities = labelled(seed, labels=1)
    metric = create_metric("binary", name)
    expected = pytest.approx(BINARY[name](targets[:, 0], probabilities[:, 0]), rel=1e-9)
    assert metric(targets[:, 0].astype(np.int64), probabilities) == expected
    assert metric(targets[:, 0], probabilities[:, 0]) == expected
    assert metric(targets[:, 0], probabilities.astype(np.float32)) == pytest.approx(
        expected.expected, rel=1e-5
    )


@pytest.mark.parametrize("unknown", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", MULTILABEL)
def test_a_multilabel_metric_is_what_its_definition_gives_of_the_known_cells(name, seed, unknown):
    targets, probabilities = labelled(seed, unknown=unknown)
    expected = MULTILABEL[name](targets, probabilities)
    assert create_metric("multilabel", name)(targets, probabilities) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("average", ["macro", "micro", "samples"])
def test_f1_of_labels_is_scikit_learns(average):
    targets, probabilities = labelled()
    expected = sk.f1_score(targets, probabilities >= 0.5, average=average, zero_division=0)
    assert create_metric("multilabel", f"f1_{average}")(targets, probabilities) == pytest.approx(expected)


def test_label_ranking_average_precision_is_scikit_learns():
    targets, probabilities = labelled()
    expected = sk.label_ranking_average_precision_score(targets, probabilities)
    assert create_metric("multilabel", "lrap")(targets, probabilities) == pytest.approx(expected)


@pytest.mark.parametrize("name", MULTILABEL)
def test_what_is_predicted_in_an_unknown_cell_changes_nothing(name):
    targets, probabilities = labelled(unknown=0.3)
    changed = np.where(np.isnan(targets), 1 - probabilities, probabilities)
    metric = create_metric("multilabel", name)
    assert metric(targets, changed) == metric(targets, probabilities)


def test_a_column_with_one_class_alone_is_left_out_of_the_mean_auc():
    targets, probabilities = labelled()
    targets[:, 1] = 0
    expected = np.mean([pairs_in_order(targets[:, c], probabilities[:, c]) for c in (0, 2, 3)])
    assert create_metric("multilabel", "roc_auc")(targets, probabilities) == pytest.approx(expected)
    assert math.isnan(create_metric("binary", "roc_auc")(np.ones(5), np.full((5, 1), 0.5)))


# --- regression ---------------------------------------------------------------------------------------------


def numbers(seed: int = 0, rows: int = 120, targets: int = 3, skill: float = 1.0):
    """(N, T) numbers of 0 and more, with ties, and predictions that know something."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, (rows, targets)).astype(np.float64)
    return truth, truth * skill + rng.normal(size=truth.shape) + (1 - skill) * 2.5


def rounded_kappa(t, p):
    return sk.cohen_kappa_score(
        t.astype(int), np.rint(p).astype(int), weights="quadratic", labels=range(-9, 20)
    )


REGRESSION = {
    "rmse": sk.root_mean_squared_error,
    "rmsle": lambda t, p: sk.root_mean_squared_log_error(t, np.maximum(p, 0)),
    "mae": sk.mean_absolute_error,
    "mse": sk.mean_squared_error,
    "r2": sk.r2_score,
    "spearman": lambda t, p: stats.spearmanr(t, p).statistic,
    "pearson": lambda t, p: stats.pearsonr(t, p).statistic,
    "qwk": rounded_kappa,
    "medae": sk.median_absolute_error,
    "mape": sk.mean_absolute_percentage_error,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", REGRESSION)
def test_a_regression_metric_is_what_its_definition_gives_column_by_column(name, seed):
    targets, predictions = numbers(seed)
    metric = create_metric("regression", name)
    expected = [REGRESSION[name](targets[:, c], predictions[:, c]) for c in range(3)]
    assert metric(targets, predictions) == pytest.approx(np.mean(expected), rel=1e-9)
    assert metric(targets[:, 0], predictions[:, :1]) == pytest.approx(expected[0], rel=1e-9)


def test_an_unknown_target_is_left_out_of_its_own_column():
    targets, predictions = numbers()
    targets[:50, 1] = np.nan
    expected = [
        sk.root_mean_squared_error(targets[:, 0], predictions[:, 0]),
        sk.root_mean_squared_error(targets[50:, 1], predictions[50:, 1]),
        sk.root_mean_squared_error(targets[:, 2], predictions[:, 2]),
    ]
    assert create_metric("regression", "rmse")(targets, predictions) == pytest.approx(np.mean(expected))


def test_a_constant_answer_correlates_with_nothing_and_constant_targets_leave_it_undefined():
    targets, _ = numbers()
    for name in ("pearson", "spearman"):
        assert create_metric("regression", name)(targets, np.full_like(targets, 2.0)) == 0.0
    for name in ("pearson", "spearman", "r2"):
        assert math.isnan(create_metric("regression", name)(np.ones(4), np.arange(4.0)))


@pytest.mark.parametrize(("name", "targets"), [("rmsle", [1.0, -0.5]), ("qwk", [1.0, 2.5])])
def test_targets_that_a_metric_cannot_take_are_refused_by_value(name, targets):
    with pytest.raises(UserError, match=f"task.metric: {name} needs .* here one is {targets[1]:g}"):
        create_metric("regression", name)(np.array(targets), np.array([1.0, 2.0]))


# --- segmentation -------------------------------------------------------------------------------------------


def masks(seed: int = 0, images: int = 6, classes: int = 2, side: int = 12, skill: float = 0.35):
    """Class maps (H, W), one of them empty, and (C, H, W) probabilities in steps of 1/255."""
    rng = np.random.default_rng(seed)
    targets, predictions = [], []
    for number in range(images):
        coarse = rng.integers(0, classes + 1, (side // 3, side // 3)) * (
            rng.random((side // 3, side // 3)) < 0.6
        )
        target = np.kron(coarse * (number > 0), np.ones((3, 3), int)).astype(np.uint8)
        truth = np.stack([target == c for c in range(1, classes + 1)])
        chance = np.clip(rng.random(truth.shape) * 0.6 + skill * truth, 0, 1) * (number > 1)
        targets.append(target)
        predictions.append(np.rint(chance * 255).astype(np.uint8))
    return targets, predictions


def of_masks(function, classes=2):
    """The mean over images and classes of a function of two sets of pixels."""

    def score(targets, predictions):
        values = []
        for target, prediction in zip(targets, predictions, strict=True):
            for c in range(classes):
                true = {tuple(at) for at in np.argwhere(target == c + 1)}
                values.append(function(true, {tuple(at) for at in np.argwhere(prediction[c] >= 127.5)}))
        return np.mean(values)

    return score


def dice_of(true, said):
    return 2 * len(true & said) / (len(true) + len(said)) if true | said else 1.0


def iou_of(true, said):
    return len(true & said) / len(true | said) if true | said else 1.0


def objects_of(pixels):
    """Flood fill: sets of pixels that touch, corners too."""
    left, found = set(pixels), []
    while left:
        todo, blob = [left.pop()], set()
        while todo:
            y, x = todo.pop()
            blob.add((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(blob)
    return found


def precision_over_iou(true, said):
    true, said = objects_of(true), objects_of(said)
    if not true or not said:
        return float(not true and not said)
    scores = []
    for percent in range(50, 100, 5):
        hits = sum(100 * len(a & b) > percent * len(a | b) for a in true for b in said)
        scores.append(hits / (len(true) + len(said) - hits))
    return np.mean(scores)


def of_all_pixels(function):
    """Each class over the pixels of all images, then the mean over classes."""

    def score(targets, predictions):
        return np.mean(
            [
                function(
                    {(i, *at) for i, t in enumerate(targets) for at in map(tuple, np.argwhere(t == c + 1))},
                    {
                        (i, *at)
                        for i, p in enumerate(predictions)
                        for at in map(tuple, np.argwhere(p[c] >= 127.5))
                    },
                )
                for c in range(2)
            ]
        )

    return score


SEGMENTATION = {
    "dice": of_masks(dice_of),
    "iou": of_masks(iou_of),
    "map_iou": of_masks(precision_over_iou),
    "dice_global": of_all_pixels(dice_of),
    "iou_global": of_all_pixels(iou_of),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SEGMENTATION)
def test_a_mask_metric_is_what_its_definition_gives_pixel_by_pixel(name, seed):
    targets, predictions = masks(seed)
    expected = pytest.approx(SEGMENTATION[name](targets, predictions), rel=1e-9)
    metric = create_metric("segmentation", name)
    assert 0 < expected.expected < 1
    assert metric(targets, predictions) == expected
    assert metric(targets, [p / 255 for p in predictions]) == expected
    assert metric(targets, [p >= 128 for p in predictions]) == expected
    assert metric([np.stack([t == 1, t == 2]) for t in targets], predictions) == expected


@pytest.mark.parametrize("name", ["dice", "iou", "map_iou"])
def test_an_empty_mask_found_empty_is_right_and_anything_said_of_it_is_wrong(name):
    metric, empty, one = create_metric("segmentation", name), np.zeros((4, 4)), np.eye(4)
    assert metric([empty.astype(int)], [empty]) == 1.0
    assert metric([empty.astype(int)], [one]) == 0.0
    assert metric([one.astype(int)], [empty]) == 0.0
    assert metric([one.astype(bool), empty.astype(bool)], [one, one]) == 0.5


def test_a_mask_of_zeros_and_255_is_one_class():
    target = np.uint8([[0, 255], [255, 0]])
    assert create_metric("segmentation", "dice")([target], [np.array([[0.1, 0.9], [0.9, 0.2]])]) == 1.0


def test_an_object_is_found_when_it_overlaps_by_more_than_the_threshold_and_not_by_as_much():
    """11 of 20 pixels: above 0.50 alone."""
    target, prediction = np.ones((1, 20), bool), np.zeros((1, 20), bool)
    prediction[:, :11] = True
    assert create_metric("segmentation", "map_iou")([target], [prediction]) == pytest.approx(0.1)


def test_a_mask_of_another_size_or_of_no_known_kind_is_refused_by_image():
    metric, good = create_metric("segmentation", "dice"), np.zeros((4, 4))
    with pytest.raises(ValueError, match=r"image 1: target \(1, 4, 4\) and prediction \(1, 4, 5\)"):
        metric([good, good], [good, np.zeros((4, 5))])
    with pytest.raises(ValueError, match="float, uint8 or bool, not int64"):
        metric([good], [good.astype(np.int64)])


# --- retrieval ----------------------------------------------------------------------------------------------


def rankings(seed: int = 0, queries: int = 60, gallery: int = 30, skill: float = 1.0):
    """Labels of queries, and the labels of a gallery in each query's order, with their scores."""
    rng = np.random.default_rng(seed)
    owners, targets = rng.integers(0, 9, gallery), rng.integers(0, 10, queries)  # of 9 there is none
    scores = rng.normal(size=(queries, gallery)) + skill * (owners[None] == targets[:, None])
    order = np.argsort(-scores, axis=1)
    return targets, Ranking(owners[order].tolist(), np.take_along_axis(scores, order, 1).tolist())


def place_of(target, ranked):
    return next((i + 1 for i in range(len(ranked)) if ranked[i] == target), math.inf)


def retrieved(k, value):
    return lambda t, p: np.mean(
        [value(place_of(y, row)) if place_of(y, row) <= k else 0 for y, row in zip(t, p, strict=True)]
    )


def mean_average_precision(t, p):
    return np.mean(
        [
            sk.average_precision_score(np.array(row) == y, -np.arange(len(row))) if y in row else 0.0
            for y, row in zip(t, p, strict=True)
        ]
    )


def gap_of(t, p):
    """The published sum: over queries by falling confidence, precision so far times whether it is right."""
    order = sorted(range(len(t)), key=lambda i: -p.scores[i][0])
    right = [p.labels[i][0] == t[i] for i in order]
    return sum(sum(right[: i + 1]) / (i + 1) * hit for i, hit in enumerate(right)) / len(t)


RETRIEVAL = {
    "map5": retrieved(5, lambda place: 1 / place),
    "map1": retrieved(1, lambda place: 1 / place),
    "map3": retrieved(3, lambda place: 1 / place),
    "map10": retrieved(10, lambda place: 1 / place),
    "map_full": mean_average_precision,
    "recall1": retrieved(1, lambda place: 1),
    "recall5": retrieved(5, lambda place: 1),
    "gap": gap_of,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RETRIEVAL)
def test_a_ranking_metric_is_what_its_definition_gives_query_by_query(name, seed):
    targets, ranking = rankings(seed)
    metric = create_metric("retrieval", name)
    assert metric(targets, ranking) == pytest.approx(RETRIEVAL[name](targets, ranking), rel=1e-9)
    if name != "gap":
        assert (
            metric(targets, np.array(ranking.labels))
            == metric(targets, ranking.labels)
            == metric(targets, ranking)
        )


def test_lists_of_names_may_be_short_empty_or_hold_a_label_twice():
    targets = ["ann", "new", "bob"]
    lists = [["bob", "bob", "ann"], ["new"], []]
    assert create_metric("retrieval", "map5")(targets, lists) == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert create_metric("retrieval", "recall1")(targets, lists) == pytest.approx(1 / 3)


def test_gap_counts_queries_without_a_label_as_wrong_but_not_among_those_to_find():
    ranking = Ranking([["a"], ["b"], ["c"]], [[0.9], [0.8], [0.7]])
    assert create_metric("retrieval", "gap")(["a", None, "c"], ranking) == pytest.approx((1 + 2 / 3) / 2)
    tied = Ranking(ranking.labels, [[0.5]] * 3)
    assert create_metric("retrieval", "gap")(["a", "", "x"], tied) == pytest.approx((1 / 3) / 2)
    with pytest.raises(ValueError, match="Ranking"):
        create_metric("retrieval", "gap")(["a"], [["a"]])


# --- all of them --------------------------------------------------------------------------------------------

REFERENCES = {
    "multiclass": (MULTICLASS, lambda skill: answers(skill=skill * 3)),
    "binary": (BINARY, lambda skill: labelled(labels=1, skill=skill * 4)),
    "multilabel": (MULTILABEL, lambda skill: labelled(skill=skill * 4)),
    "regression": (REGRESSION, lambda skill: numbers(skill=skill)),
    "segmentation": (SEGMENTATION, lambda skill: masks(skill=skill * 0.4)),
    "retrieval": (RETRIEVAL, lambda skill: rankings(skill=skill * 3)),
}
ALL = [(task, name) for task, (known, _) in REFERENCES.items() for name in known]


def test_every_metric_has_been_held_against_a_reference():
    mine = {metric.name for metric in own.METRICS}
    assert {task: set(known) for task, (known, _) in REFERENCES.items()} == {
        task: set(names(task)) - mine for task in METRICS
    }


@pytest.mark.parametrize(("task", "name"), ALL)
def test_every_metric_prefers_skill_to_luck(task, name):
    metric, made = create_metric(task, name), REFERENCES[task][1]
    assert isinstance(metric, Metric)
    assert type(metric(*made(1.0))) is float
    assert metric.better(metric(*made(1.0)), metric(*made(0.0)))


@pytest.mark.parametrize(("task", "name"), [a for a in ALL if a[0] in ("binary", "multilabel", "regression")])
def test_a_network_that_diverged_has_no_score(task, name):
    targets, predictions = REFERENCES[task][1](1.0)
    predictions[3] = np.nan
    assert math.isnan(create_metric(task, name)(targets, predictions))


@pytest.mark.parametrize("name", SEGMENTATION)
def test_a_network_that_diverged_has_no_score_for_its_masks_either(name):
    empty = np.zeros((4, 4))
    assert math.isnan(create_metric("segmentation", name)([empty, empty], [empty, np.full((4, 4), np.nan)]))


@pytest.mark.parametrize(("task", "name"), ALL)
def test_a_metric_that_decides_scores_decisions_as_it_scores_what_they_came_from(task, name):
    metric = create_metric(task, name)
    targets, predictions = REFERENCES[task][1](1.0)
    if metric.decides == "threshold" and task != "segmentation":
        assert metric(targets, (predictions >= 0.5).astype(np.int64)) == metric(targets, predictions)
    elif metric.decides == "cuts":
        assert metric(targets, np.rint(predictions).astype(np.int64)) == metric(targets, predictions)
    elif metric.decides is None:
        assert metric.counts is None


# --- the task and its metric --------------------------------------------------------------------------------


def multiclass():
    return create_task(Config())


def test_the_task_scores_with_the_competitions_metric():
    targets, probabilities = answers()
    task = create_task(Config.model_validate({"task": {"metric": "log_loss"}}))
    assert task.score(targets, probabilities) == create_metric("multiclass", "log_loss")(
        targets, probabilities
    )
