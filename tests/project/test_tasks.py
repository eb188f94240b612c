"""What differs between tasks: labels read and refused, predictions and what is sure of them, submissions.

What segmentation and retrieval have of their own is in test_tasks_of_maps_and_rankings.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, softmax

from src.artifacts import write_parquet
from src.config import LOSSES, Config, Pseudo, Train, UserError
from src.decisions import take_rows
from src.losses.build import create_loss
from src.maps import Maps
from src.metrics import names
from src.metrics.retrieval import Ranking
from src.models.output import Output
from src.tasks import TASKS, create_task
from src.tasks.base import OUR_COLUMNS, as_target_columns, targets_in

PATH = Path("raw/train.csv")
SAMPLE = Path("raw/sample_submission.csv")
EVERY = [create_task(Config(task={"name": name})) for name in TASKS]
MULTICLASS, BINARY, MULTILABEL, REGRESSION, SEGMENTATION, RETRIEVAL = EVERY


def column(values: list[str], name: str = "label") -> pd.DataFrame:
    """One target column, all text, as tables are read."""
    return pd.DataFrame({name: values})


def refusal(task, targets: pd.DataFrame) -> str:
    with pytest.raises(UserError) as caught:
        task.check_targets(targets, PATH)
    return str(caught.value)


# --- every task ---------------------------------------------------------------------------------------------

LABELS = {
    "multiclass": column(["dog", "cat", "eel", "dog", "cat", "eel"]),
    "binary": column(["no", "yes", "yes", "no", "no", "yes"]),
    "multilabel": pd.DataFrame({"cat": list("010011"), "big dog": list("110010")}),
    "regression": column(["1.5", "-2", "1e3", "0", "7.25", "7.25"], "age"),
    # shares of the image, as stage 01 counts them: its masks themselves are too large for a table of text
    "segmentation": pd.DataFrame({"cell": [0.0, 0.25, 1 / 3, 0.0, 0.5, 1.0], "wall": [0.5, 0, 0, 0, 0.5, 0]}),
    "retrieval": column(["w_1", "w_2", "w_1", "w_10", "w_2", "w_1"], "Id"),
}
BY_TASK = pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)


@BY_TASK
def test_every_task_takes_its_own_labels_and_describes_them_as_json(task):
    targets = LABELS[task.name]
    task.check_targets(targets, PATH)
    described = task.describe(targets)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert len(described["outputs"]) > 0
    assert task.metric.name == names(task.name)[0]


@BY_TASK
def test_every_tasks_usual_loss_is_one_that_suits_it_and_each_costs_less_where_it_is_right(task):
    assert Train().name(task.name) == LOSSES[task.name][0]
    targets = LABELS[task.name]
    outputs = task.describe(targets)["outputs"]
    wanted = torch.from_numpy(task.encode(targets, outputs))
    if task.kind == "maps":  # a model learns from the masks: here all of an image is in or out
        wanted = (wanted > 0.4).float()[:, :, None, None].expand(-1, -1, 4, 4)
    for loss in LOSSES[task.name]:
        settings = Config(task={"name": task.name}, train={"loss": loss}).train
        asked = create_loss(task.name, settings, outputs)
        right, wrong = (asked(saying(task, rows, outputs), wanted) for rows in (wanted, wanted.roll(1, 0)))
        assert right.shape == (6,)
        assert right.isfinite().all()
        assert right.mean() < 0.8 * wrong.mean()


def saying(task, wanted: torch.Tensor, outputs: list[str]) -> Output:
    """The output of a network that is rather sure of these targets."""
    if task.kind == "rankings":
        cosines = torch.eye(len(outputs))[wanted[:, 0].long()]
        return Output(logits=cosines, embedding=cosines)
    return Output(logits=wanted if task.scaled else 8 * wanted - 4, embedding=torch.zeros(6, 2))


@BY_TASK
def test_training_targets_and_the_metrics_truth_survive_the_way_through_folds_csv(task, tmp_path):
    targets = LABELS[task.name]
    outputs = task.describe(targets)["outputs"]
    encoded = task.encode(targets, outputs)
    assert encoded.dtype == np.float32
    assert encoded.shape == (6, 1 if task.kind == "rankings" else len(outputs))
    pd.DataFrame({"id": list("abcdef")}).join(as_target_columns(targets)).to_csv(
        tmp_path / "folds.csv", index=False
    )
    table = pd.read_csv(tmp_path / "folds.csv", dtype=str, keep_default_na=False, na_filter=False)
    again = targets_in(table)
    np.testing.assert_array_equal(task.encode(again, outputs), encoded)
    if task.kind != "maps":  # theirs is in the cache
        np.testing.assert_array_equal(task.truth(again, outputs), task.truth(targets, outputs))


def perfect(task) -> tuple[Any, Any]:
    """The truth of six rows, and predictions that are all right."""
    if task.kind == "maps":
        masks = np.random.default_rng(0).integers(0, 2, (6, 2, 5, 7)).astype(np.uint8) * 255
        return Maps.of(masks), Maps.of(masks)
    targets = LABELS[task.name]
    outputs = task.describe(targets)["outputs"]
    truth = task.truth(targets, outputs)
    if task.kind == "rankings":
        return truth, Ranking([[label, "another"] for label in truth], [[0.9, 0.1]] * 6)
    return truth, task.encode(targets, outputs)


@BY_TASK
def test_a_perfect_prediction_scores_what_perfection_does(task):
    truth, predictions = perfect(task)
    best, mixed_up = task.score(truth, predictions), take_rows(predictions, np.array([1, 2, 3, 4, 5, 0]))
    assert best == (0.0 if task.name == "regression" else 1.0)
    assert task.metric.better(best, task.score(truth, mixed_up))


@BY_TASK
def test_predictions_read_from_a_table_are_those_written_to_it(task, tmp_path):
    outputs = ["a", "b"]
    _, predictions = perfect(task)
    if task.kind == "maps":
        predictions = predictions.resized([(5 + row, 9) for row in range(6)])
    elif task.kind == "numbers":
        predictions = np.random.default_rng(0).random((6, 2)).astype(np.float32)
    table = task.write(predictions, outputs)
    assert tuple(table.columns) == task.columns(outputs)
    write_parquet(tmp_path / "table.parquet", table)
    again = task.read(pd.read_parquet(tmp_path / "table.parquet"), outputs)
    if task.kind == "numbers":
        np.testing.assert_array_equal(again, predictions)
    elif task.kind == "maps":
        assert (again.cells, again.sizes) == (predictions.cells, predictions.sizes)
    else:
        assert (again.labels, again.scores) == (predictions.labels, predictions.scores)


@pytest.mark.parametrize("task", EVERY[:4], ids=lambda task: task.name)
def test_the_mean_of_several_models_numbers_is_numpys(task):
    several = list(np.random.default_rng(0).random((3, 20, 2)).astype(np.float32))
    found = task.mean(several)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.mean(several, axis=0), rtol=1e-6)


@pytest.mark.parametrize("task", [*EVERY[:4], RETRIEVAL], ids=lambda task: task.name)
def test_an_empty_label_is_named_with_its_row_and_a_good_one(task):
    targets = LABELS[task.name].copy()
    targets.iloc[2, 0] = targets.iloc[4, 0] = " "
    name = targets.columns[0]
    said = refusal(task, targets)
    assert said.startswith(f"raw/train.csv, row 4: `{name}` is empty in 2 row(s)")
    assert repr(targets.iloc[0, 0]) in said
    targets.iloc[2, 0] = "NaN"
    numbers = task.name in ("multilabel", "regression")  # among words it is a class
    assert ("row 4: `" in said and f"`{name}` is 'NaN'" in refusal(task, targets)) == numbers


@pytest.mark.parametrize("task", [MULTICLASS, BINARY, RETRIEVAL], ids=lambda task: task.name)
def test_one_target_is_wanted_where_a_row_has_one_label(task):
    assert refusal(task, LABELS["multilabel"]) == (
        "raw/train.csv: this task has one target, data.target names 2 (cat, big dog); "
        "several are multilabel or regression"
    )


@pytest.mark.parametrize("task", [MULTICLASS, BINARY], ids=lambda task: task.name)
@pytest.mark.parametrize("name", [*OUR_COLUMNS, "target.cat"])
def test_a_class_called_as_a_column_of_the_prediction_tables_is_refused_before_training(task, name):
    assert refusal(task, column(["cat", "cat", name, name])) == (
        f"raw/train.csv, row 4: a class is called '{name}', as a column of the prediction tables is; "
        f"rename it in a copy of the file, and name the copy in data.train_csv"
    )


@pytest.mark.parametrize("task", [MULTICLASS, BINARY], ids=lambda task: task.name)
def test_a_class_that_is_one_number_in_two_spellings_is_refused(task):
    said = refusal(task, column(["1", "0", "1", "1.0"]))
    assert "1.0" in said
    assert task is BINARY or "row 5: the class is '1.0', in row 2 it is '1'" in said
    for good in (["1", "01", "1"], ["1.0", "2.0"], ["1.5", "1"]):  # an id such as 01 is not 1
        task.check_targets(column(good), Path("train.csv"))


@pytest.mark.parametrize("task", [MULTILABEL, REGRESSION], ids=lambda task: task.name)
@pytest.mark.parametrize("name", [*OUR_COLUMNS, "target.cat"])
def test_one_of_several_targets_called_so_is_refused_too(task, name):
    targets = pd.DataFrame({"cat": list("0110"), name: list("0011")})
    assert refusal(task, targets).startswith(f"raw/train.csv: a target is called '{name}', as a column of")


# --- multiclass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [
        (["b", "a", "C", "b"], ["C", "a", "b"]),
        (["10", "9", "-1", "9"], ["-1", "9", "10"]),
        (["10.0", "2.0", "2.5"], ["2.0", "2.5", "10.0"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["1", "0"], ["0", "1"]),
        (["007", "7"], ["007", "7"]),
    ],
)
def test_classes_stand_in_the_order_of_their_numbers_or_else_of_their_text(labels, outputs):
    found = MULTICLASS.describe(column(labels))
    assert found["outputs"] == outputs
    assert found["counts"] == {name: labels.count(name) for name in outputs}
    assert list(found["counts"]) == outputs


def test_labels_become_indices_and_one_hot_rows():
    labels = column(["dog", "cat", "eel", "dog"])
    outputs = ["cat", "dog", "eel"]
    assert MULTICLASS.truth(labels, outputs).tolist() == [1, 0, 2, 1]
    assert MULTICLASS.encode(labels, outputs).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert np.array_equal(np.unique(MULTICLASS.strata(labels), return_inverse=True)[1], [1, 0, 2, 1])


def test_one_class_alone_is_refused():
    assert refusal(MULTICLASS, column(["cat", "cat"])) == (
        "raw/train.csv: `label` holds one class only, 'cat'; is data.target right?"
    )


# --- binary -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        (["1", "0", "0"], "1"),
        (["yes", "no", "no"], "yes"),
        (["2.0", "10.0", "2.0"], "10.0"),  # by text 10.0 would come first
        (["-1", "1", "1"], "1"),
        (["True", "False", "False"], "True"),
        (["malignant", "benign", "benign"], "malignant"),
    ],
)
def test_the_positive_class_is_the_second_in_order(labels, positive):
    BINARY.check_targets(column(labels), PATH)
    found = BINARY.describe(column(labels))
    negative = next(label for label in labels if label != positive)
    assert found == {
        "outputs": [positive],
        "classes": [negative, positive],
        "counts": {label: labels.count(label) for label in (negative, positive)},
    }
    wanted = [float(label == positive) for label in labels]
    assert BINARY.encode(column(labels), [positive]).tolist() == [[value] for value in wanted]
    assert BINARY.truth(column(labels), [positive]).tolist() == wanted
    assert len(set(zip(BINARY.strata(column(labels)), wanted, strict=True))) == 2


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["1", "1"], "`label` holds 1 different labels (1), a binary target two"),
        (["0", "1", "2"], "`label` holds 3 different labels (0, 1, 2), a binary target two"),
        (["0", "1", "1.0"], "`label` holds 3 different labels (0, 1, 1.0), a binary target two"),
        ([str(n) for n in range(20)], "`label` holds 20 different labels (0, 1, 2, 3, 4), a binary target"),
    ],
)
def test_a_binary_target_of_other_than_two_labels_is_refused(labels, says):
    message = refusal(BINARY, column(labels))
    assert message.startswith(f"raw/train.csv: {says}")
    assert message.endswith("is data.target right, or is task.name multiclass?")


# --- multilabel ---------------------------------------------------------------------------------------------


def test_labels_are_the_columns_in_the_tables_order():
    targets = pd.DataFrame({"zebra": list("0110"), "a b": ["1.0", "0.0", "0.0", "1.0"], "10": list("0001")})
    MULTILABEL.check_targets(targets, PATH)
    found = MULTILABEL.describe(targets)
    assert found["outputs"] == ["zebra", "a b", "10"]
    assert found["counts"] == {"zebra": 2, "a b": 2, "10": 1}
    assert found["rare"] == {"zebra": 2, "a b": 2, "10": 1}


def test_a_label_that_nearly_every_row_has_counts_as_rare_too():
    targets = pd.DataFrame({"a": list("1110"), "b": list("0101")})
    assert MULTILABEL.describe(targets)["rare"] == {"a": 1, "b": 2}


def test_label_columns_become_zeros_and_ones():
    targets = pd.DataFrame({"zebra": list("0110"), "a b": ["1.0", "0.0", "0.0", "1.0"], "10": list("0001")})
    found = MULTILABEL.describe(targets)
    wanted = [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 1, 1]]
    assert MULTILABEL.strata(targets).tolist() == wanted
    assert MULTILABEL.truth(targets, found["outputs"]).tolist() == wanted
    assert MULTILABEL.encode(targets, ["10", "zebra"]).tolist() == [[row[2], row[0]] for row in wanted]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"cat": list("01")},
            "raw/train.csv: multilabel needs a column a label, data.target names 1; "
            "list them all, such as data.target=[cat,dog]",
        ),
        (
            {"cat": ["0", "1", "1"], "dog": ["0", "1", "2"]},
            "raw/train.csv, row 4: `dog` is '2'; a label column holds 0 or 1",
        ),
        (
            {"cat": ["0", "0.5", "1"], "dog": ["0", "1", "0"]},
            "raw/train.csv, row 3: `cat` is '0.5'; a label column holds 0 or 1",
        ),
        (
            {"cat": ["no", "yes"], "dog": ["0", "1"]},
            "raw/train.csv, row 2: `cat` is 'no'; a label column holds 0 or 1",
        ),
        (
            {"cat": ["0", "1"], "dog": ["1", "1.0"]},
            "raw/train.csv: `dog` is 1 in every row; leave it out of data.target; a column "
            "of the sample for it is then filled with 0",
        ),
    ],
)
def test_a_label_column_that_cannot_be_right_is_refused_with_its_row(columns, says):
    assert refusal(MULTILABEL, pd.DataFrame(columns)) == says


# --- regression ---------------------------------------------------------------------------------------------


def test_numbers_are_taken_as_they_are():
    targets = pd.DataFrame({"x": ["1.5", "-2", "1e3"], "y": ["0", "7", "0.1"]})
    REGRESSION.check_targets(targets, PATH)
    assert REGRESSION.describe(targets)["outputs"] == ["x", "y"]
    wanted = [[1.5, 0], [-2, 7], [1000, 0.1]]
    assert REGRESSION.truth(targets, ["x", "y"]).tolist() == wanted
    np.testing.assert_array_equal(REGRESSION.encode(targets, ["x", "y"]), np.array(wanted, np.float32))


def test_quartiles_are_those_of_the_first_target():
    values = np.random.default_rng(0).lognormal(size=101)
    found = REGRESSION.describe(pd.DataFrame({"x": values.astype(str), "y": "1"}))["quantiles"]
    expected = [np.quantile(values, q) for q in (0, 0.25, 0.5, 0.75, 1)]
    assert list(found.values()) == pytest.approx(expected)


@pytest.mark.parametrize("name", OUR_COLUMNS)
def test_a_single_number_may_be_called_as_a_column_of_ours(name):
    """Half of all competitions call it `target`; its output needs another name beside it."""
    targets = column(["1", "2"], name)
    REGRESSION.check_targets(targets, PATH)
    assert REGRESSION.describe(targets)["outputs"] == ["prediction"]
    assert REGRESSION.describe(column(["1", "2"], "age"))["outputs"] == ["age"]
    assert REGRESSION.encode(as_target_columns(targets), ["prediction"]).tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            ["1", "two", "3", "four"],
            "raw/train.csv, row 3: `age` is 'two', no number (2 such row(s)); "
            "a regression target is one, such as 12.5",
        ),
        (["1", "inf"], "raw/train.csv, row 3: `age` is 'inf', no number (1 such row(s))"),
        (["1,5", "2"], "raw/train.csv, row 2: `age` is '1,5', no number (1 such row(s))"),
        (["4", "4.0"], "raw/train.csv: `age` is 4 in every row; is data.target right?"),
    ],
)
def test_a_target_that_is_no_number_is_refused_with_its_row(values, says):
    assert refusal(REGRESSION, column(values, "age")).startswith(says)


def test_strata_of_numbers_are_pandas_deciles():
    values = pd.Series(np.random.default_rng(0).lognormal(0, 2, 400))
    found = REGRESSION.strata(values.astype(str).to_frame("x"))
    np.testing.assert_array_equal(found, pd.qcut(values, 10, labels=False))


def test_equal_numbers_share_a_stratum_and_larger_ones_never_lie_below():
    values = pd.Series(np.random.default_rng(0).poisson(6, 500))
    strata = pd.Series(REGRESSION.strata(values.astype(str).to_frame("x")))
    assert (strata.groupby(values).nunique() == 1).all()
    assert strata[values.argsort().to_numpy()].is_monotonic_increasing
    assert strata.nunique() >= 6


def test_grades_are_strata_of_their_own_in_the_order_of_numbers_and_not_of_text():
    assert REGRESSION.strata(column(["10", "9", "2", "10", "2.0"])).tolist() == [2, 1, 0, 2, 0]


# --- from raw outputs to predictions ------------------------------------------------------------------------

ACTIVATIONS = {
    "multiclass": lambda x: softmax(x, axis=1),
    "binary": expit,
    "multilabel": expit,
    "regression": lambda x: x,
    "segmentation": expit,
    "retrieval": lambda x: x,
}


@BY_TASK
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_activations_are_scipys_in_float32_whatever_comes_in(task, dtype):
    raw = (4 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = task.activate(raw)
    assert found.dtype == torch.float32
    expected = ACTIVATIONS[task.name](raw.double().numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)


# --- what is sure enough to learn from ----------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize("threshold", [0.6, 0.9, 0.99])
def test_a_probability_is_sure_at_the_threshold_or_at_its_mirror(threshold, labels):
    random = np.random.default_rng(0)
    values = np.r_[random.beta(0.3, 0.3, 300), 0.9, 0.1, 0.899, 0.101].astype(np.float32)[:, None]
    found = BINARY.select(values, None, Pseudo(threshold=threshold, labels=labels))
    rows, targets, confidence = [], [], []
    for row, (p,) in enumerate(values):
        if p >= np.float32(threshold) or p <= np.float32(1 - threshold):
            rows.append(row)
            targets.append([float(p >= 0.5) if labels == "hard" else p])
            confidence.append(max(p, 1 - p))
    assert 10 < len(rows) < 304
    assert np.flatnonzero(found.chosen).tolist() == rows
    np.testing.assert_array_equal(found.targets, np.array(targets, np.float32))
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-6)
    if threshold == 0.9:
        assert found.chosen[300:].tolist() == [True, True, False, False]


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_each_label_is_sure_or_unknown_on_its_own(labels):
    values = np.random.default_rng(0).beta(0.4, 0.4, (200, 4)).astype(np.float32)
    values[0] = 0.5
    found = MULTILABEL.select(values, None, Pseudo(threshold=0.95, labels=labels))
    rows, targets, confidence = [], [], []
    for row, cells in enumerate(values):
        told, sure = [], []
        for p in cells:
            known = p >= np.float32(0.95) or p <= np.float32(0.05)
            told.append((float(p >= 0.5) if labels == "hard" else p) if known else np.nan)
            sure += [max(p, 1 - p)] if known else []
        if sure:
            rows.append(row)
            targets.append(told)
            confidence.append(np.mean(sure))
    assert 20 < len(rows) < 200
    assert np.flatnonzero(found.chosen).tolist() == rows
    np.testing.assert_array_equal(found.targets, np.array(targets, np.float32))
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-6)
    assert np.isnan(found.targets).any()
    assert not np.isnan(found.targets).all(1).any()


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.5, 1.0])
def test_numbers_are_sure_whose_views_lie_closest(quantile):
    random = np.random.default_rng(0)
    values, spread = random.normal(size=(77, 2)).astype(np.float32), random.random(77).astype(np.float32)
    found = REGRESSION.select(values, spread, Pseudo(quantile=quantile))
    limit = np.quantile(spread, quantile)
    expected = [row for row in range(77) if spread[row] <= limit + 1e-9]
    assert np.flatnonzero(found.chosen).tolist() == expected
    np.testing.assert_array_equal(found.targets, values[expected])
    larger = [np.mean(spread[np.arange(77) != row] > spread[row]) for row in expected]
    np.testing.assert_allclose(found.confidence, larger, atol=1e-9)


def test_of_numbers_whose_views_agree_alike_no_more_than_the_quantile_are_taken():
    found = REGRESSION.select(np.zeros((101, 1), np.float32), np.zeros(101, np.float32), Pseudo(quantile=0.3))
    assert found.chosen.sum() == 31
    assert np.isfinite(found.confidence).all()


def test_a_single_number_to_predict_is_taken():
    found = REGRESSION.select(np.ones((1, 1), np.float32), np.ones(1, np.float32), Pseudo())
    assert found.chosen.tolist() == [True]


@pytest.mark.parametrize("spread", [None, np.array([0.1, np.nan], np.float32)])
def test_one_view_alone_says_nothing_of_how_sure_a_number_is(spread):
    with pytest.raises(UserError, match=r"^04: .* give inference.tta two views at least, such as \[identity"):
        REGRESSION.select(np.ones((2, 1), np.float32), spread, Pseudo())


# --- submissions --------------------------------------------------------------------------------------------

IDS = ["00123", "7", "x/1.png"]


def sample_of(*columns: str) -> pd.DataFrame:
    return pd.DataFrame({name: IDS if name == "id" else "0" for name in columns})


def submission(task, predictions, columns: tuple[str, ...], dataset: dict) -> dict[str, list]:
    """The columns of the submission, checked."""
    sample = sample_of(*columns)
    task.check_sample(sample, "id", dataset["outputs"], SAMPLE)
    table = task.submission(np.asarray(predictions), sample, "id", dataset)
    assert list(table.columns) == list(columns)
    assert table["id"].tolist() == IDS
    task.check_values(table, [name for name in columns if name != "id"], dataset)
    return {name: table[name].tolist() for name in columns if name != "id"}


CLASSES = {"outputs": ["cat", "dog", "eel"]}
PROBABILITIES = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])


def test_a_multiclass_submission_holds_the_label_or_a_probability_a_class():
    assert submission(MULTICLASS, PROBABILITIES, ("id", "label"), CLASSES) == {"label": ["dog", "cat", "eel"]}
    found = submission(MULTICLASS, PROBABILITIES, ("eel", "id", "cat", "dog"), CLASSES)
    assert found == {"eel": [0.2, 0.25, 1.0], "cat": [0.1, 0.5, 0.0], "dog": [0.7, 0.25, 0.0]}
    assert submission(MULTICLASS, PROBABILITIES, ("id", "dog"), CLASSES) == {"dog": [0.7, 0.25, 0.0]}


SICK = {"outputs": ["sick"], "classes": ["healthy", "sick"]}
CHANCES = np.array([[0.75], [0.5], [0.125]])


def test_a_binary_submission_holds_the_probability_of_the_positive_class():
    assert submission(BINARY, CHANCES, ("id", "label"), SICK) == {"label": [0.75, 0.5, 0.125]}
    assert submission(BINARY, CHANCES, ("sick", "id"), SICK) == {"sick": [0.75, 0.5, 0.125]}


def test_a_binary_column_called_as_the_other_class_is_about_that_one():
    """Trap: the score of 1 - AUC, with everything else in order."""
    assert submission(BINARY, CHANCES, ("id", "healthy"), SICK) == {"healthy": [0.25, 0.5, 0.875]}
    decided = np.array([[1], [0], [1]])
    assert submission(BINARY, decided, ("id", "healthy"), SICK) == {"healthy": [0, 1, 0]}


@pytest.mark.parametrize("classes", [["0", "1"], ["no", "yes"], ["1", "2"], ["-1", "1"], ["2.0", "10.0"]])
def test_a_binary_decision_is_written_as_the_class_that_train_csv_has(classes):
    dataset = {"outputs": [classes[1]], "classes": classes}
    found = submission(BINARY, np.array([[1], [0], [1]]), ("id", "label"), dataset)
    assert found == {"label": [classes[1], classes[0], classes[1]]}


TAGS = {"outputs": ["cat", "big dog"]}


def test_a_multilabel_submission_holds_a_probability_or_a_decision_a_label_in_the_samples_columns():
    values = np.array([[0.1, 0.7], [0.5, 0.25], [0.0, 1.0]])
    found = submission(MULTILABEL, values, ("big dog", "id", "cat"), TAGS)
    assert found == {"big dog": [0.7, 0.25, 1.0], "cat": [0.1, 0.5, 0.0]}
    found = submission(MULTILABEL, np.array([[0, 1], [1, 0], [0, 0]]), ("id", "big dog", "cat"), TAGS)
    assert found == {"big dog": [1, 0, 0], "cat": [0, 1, 0]}


def test_a_regression_submission_holds_the_numbers_under_the_samples_names():
    one = np.array([[1.5], [-2.0], [1e6]])
    assert submission(REGRESSION, one, ("id", "Pawpularity"), {"outputs": ["prediction"]}) == {
        "Pawpularity": [1.5, -2.0, 1e6]
    }
    two = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    found = submission(REGRESSION, two, ("y", "id", "x"), {"outputs": ["x", "y"]})
    assert found == {"y": [2.0, 4.0, 6.0], "x": [1.0, 3.0, 5.0]}


@pytest.mark.parametrize(
    ("task", "columns", "outputs", "says"),
    [
        (MULTICLASS, ("id", "cat", "fox", "eel"), CLASSES["outputs"], "neither one label .*none for 'dog'"),
        (MULTICLASS, ("id",), CLASSES["outputs"], "neither one label .*none for 'cat', 'dog'"),
        (BINARY, ("id", "healthy", "sick"), ["sick"], "one column beside `id`, this one has healthy, sick"),
        (BINARY, ("id",), ["sick"], "one column beside `id`, this one has none"),
        (MULTILABEL, ("id", "cat"), TAGS["outputs"], "are not the labels .*none for 'big dog'"),
        (REGRESSION, ("id", "x", "y"), ["x"], r"its columns \(x, y\) are not the targets \(x\)"),
        (REGRESSION, ("id", "x", "z"), ["x", "y"], r"its columns \(x, z\) are not the targets \(x, y\)"),
        (REGRESSION, ("id",), ["x"], r"its columns \(none\) are not the targets \(x\)"),
    ],
)
def test_a_sample_that_the_outputs_cannot_fill_is_refused(task, columns, outputs, says):
    with pytest.raises(UserError, match=f"^raw/sample_submission.csv: .*{says}"):
        task.check_sample(sample_of(*columns), "id", outputs, SAMPLE)


@pytest.mark.parametrize(
    ("task", "dataset"), [(MULTICLASS, CLASSES), (MULTILABEL, TAGS)], ids=["one", "many"]
)
def test_what_only_the_sample_has_is_said_and_gets_0(task, dataset, capsys):
    columns = ("id", "lynx", *reversed(dataset["outputs"]))
    task.check_sample(sample_of(*columns), "id", dataset["outputs"], SAMPLE)
    assert f"{SAMPLE}: no training row has lynx" in capsys.readouterr().out
    predictions = np.random.default_rng(0).random((3, len(dataset["outputs"])))
    found = submission(task, predictions, columns, dataset)
    assert found["lynx"] == [0.0] * 3
    assert found[dataset["outputs"][0]] == predictions[:, 0].tolist()
    task.check_values(pd.DataFrame(found), list(columns[1:]), dataset)


@pytest.mark.parametrize(
    ("task", "dataset", "values", "says"),
    [
        (MULTICLASS, CLASSES, ["cat", "fox", "dog"], "the submission's `label` holds 'fox', no class"),
        (BINARY, SICK, [0.1, 1.5, 0.2], "row 3 of the submission, `label`: 1.5 is no probability"),
        (BINARY, SICK, ["0.1", "", "0.2"], "row 3 of the submission, `label`: '' is no probability"),
        (BINARY, SICK, [np.nan, 0.1, 0.2], "row 2 of the submission, `label`: nan is no probability"),
        (BINARY, SICK, ["sick", "fox", "healthy"], "the submission's `label` holds 'fox', no class of train"),
        (BINARY, SICK, ["sick", "", "healthy"], "the submission's `label` holds '', no class of train.csv"),
        (BINARY, SICK, ["sick", "0.5", "healthy"], "row 2 of the submission, `label`: 'sick' is no prob"),
        (MULTILABEL, TAGS, [0.1, -0.25, 0.2], "row 3 of the submission, `label`: -0.25 is no probability"),
        (REGRESSION, {"outputs": ["x"]}, [1.0, 2.0, np.inf], "row 4 of the submission, `label`: no number"),
        (REGRESSION, {"outputs": ["x"]}, ["1", "two", "3"], "row 3 of the submission, `label`: no number"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_with_its_row(task, dataset, values, says):
    table = pd.DataFrame({"id": IDS, "label": values})
    with pytest.raises(UserError) as caught:
        task.check_values(table, ["label"], dataset)
    assert str(caught.value).startswith(says)


def test_a_column_called_as_a_class_holds_probabilities_and_no_words():
    table = pd.DataFrame({"id": IDS, "sick": ["sick", "healthy", "sick"]})
    with pytest.raises(UserError, match="'sick' is no probability"):
        BINARY.check_values(table, ["sick"], SICK)
