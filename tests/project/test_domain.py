"""Targets that a metric, a transform or single precision cannot take are refused before anything is trained,
by file, row and column; where a fold leaves the metric undefined, stage 01 says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from competitions import prepare_competition

from src.config import Config, UserError
from src.configfile import load_config
from src.data.domain import check_domain, undefined_notes
from src.data.loaders import load_fold
from src.data.prepare import prepare_dataset
from src.metrics import METRICS, create_metric
from src.tasks import create_task

PATH = Path("train.csv")
SECONDS = 1.7e9 + np.arange(60)  # single precision tells apart what is 128 apart there


def check(task: str, metric: str | None, values: list, **train) -> None:
    config = Config(task={"name": task, "metric": metric}, train=train)
    check_domain(config, create_task(config), pd.DataFrame({"y": [str(v) for v in values]}), PATH)


@pytest.mark.parametrize(
    ("task", "metric", "bad", "good"),
    [
        ("regression", "rmsle", -0.5, 0.0),
        ("regression", "mape", 0.0, -0.5),
        ("regression", "qwk", 2.5, 3.0),
        ("multiclass", "qwk", "mild", "2"),
    ],
)
def test_what_a_metric_cannot_take_is_refused_by_row_and_column(task, metric, bad, good):
    with pytest.raises(UserError, match=rf"train.csv, row 4: `y` is '{bad}', and task.metric={metric} needs"):
        check(task, metric, [1.0, 4.0, bad, 2.0])
    check(task, metric, [1.0, 4.0, good, 2.0])
    others = set(METRICS[task]) - {m.name for m in METRICS[task].values() if m.domain is not None}
    for name in others:
        check(task, name, [1.0, 4.0, bad, 2.0])


def test_a_domain_is_where_a_metric_gives_a_number():
    """Of each regression metric some targets, whatever is predicted: defined within, and refused, absurd or
    undefined outside."""
    said = np.array([1.0, 2.0, 5.0])
    for metric in METRICS["regression"].values():
        for value in (-2.0, 0.0, 0.5, 3.0):
            targets = np.array([1.0, 4.0, value])
            try:
                score = create_metric("regression", metric.name)(targets, said)
            except UserError:
                score = np.nan
            outside = metric.domain is not None and metric.domain.wrong(targets).any()
            assert outside == (not abs(score) < 1e9), (metric.name, value)


def test_a_logarithm_is_of_targets_from_0_up():
    with pytest.raises(UserError, match=r"row 3: `y` is '-3', and train.target_log=true needs targets of 0"):
        check("regression", None, [1, -3, 2], target_log=True)
    check("regression", None, [1, 0, 2], target_log=True)


def test_numbers_beyond_single_precision_are_refused():
    with pytest.raises(UserError, match=r"row 4: `y` is 1e\+40, beyond single precision"):
        check("regression", None, [1, 2, "1e40", 3])
    check("regression", None, [1, 2, "1e30", 3])


def test_numbers_whose_differences_single_precision_rounds_away_are_refused():
    assert len(np.unique(SECONDS.astype(np.float32))) < 3
    with pytest.raises(UserError, match=r"`y` differs .* take a constant such as 17000000\d\d off it"):
        check("regression", None, SECONDS)
    check("regression", None, SECONDS - 1.7e9)
    check("regression", None, 1.7e9 + 1e5 * np.arange(60))  # of which 128 are a thousandth


def lines(task: str, metric: str | None, truth: np.ndarray, **train) -> list[str]:
    config = Config(task={"name": task, "metric": metric}, cv={"n_folds": 2, "stop_parts": 2}, train=train)
    rows = np.arange(len(truth))
    outputs = [f"label {c}" for c in range(1 if truth.ndim == 1 else truth.shape[1])]
    return undefined_notes(config, create_task(config), truth, outputs, rows % 2, rows // 2 % 2)


def test_folds_and_early_stopping_rows_that_leave_a_metric_undefined_are_named():
    truth = np.array(
        [0, 1, 0, 0, 0, 1, 0, 0]
    )  # fold 0 is all 0; of the rows 1, 3, 5, 7 those of part 0 are 1
    found = lines("binary", "roc_auc", truth)
    assert len(found) == 3
    assert "roc_auc is undefined over the rows of fold 0" in found[0]
    assert "roc_auc is undefined over the early-stopping rows of fold 0" in found[1]
    assert "roc_auc is undefined over the early-stopping rows of fold 1" in found[2]
    assert len(lines("binary", "roc_auc", truth, early_stopping={"enabled": False})) == 1
    assert lines("binary", "log_loss", truth) == []
    assert "r2 is undefined over the rows of fold 0" in lines("regression", "r2", truth[:, None] * 1.0)[0]
    with pytest.raises(UserError, match=r"task.metric=roc_auc is undefined for these targets"):
        lines("binary", "roc_auc", truth * 0)


def test_of_many_labels_those_are_named_that_a_fold_leaves_out():
    truth = np.stack([np.arange(8) // 4, [0, 1, 0, 0, 0, 1, 0, 0]], axis=1)
    found = lines("multilabel", "roc_auc", truth, early_stopping={"enabled": False})
    assert found == ["- roc_auc is undefined over the rows of fold 0: for label 1, which it leaves out there"]


def test_a_metric_is_refused_before_images_are_packed_and_before_a_fold_is_trained(tmp_path):
    path = prepare_competition(tmp_path, "regression")  # of halves
    plain = load_config(path)
    load_fold(plain, create_task(plain), 0)
    grades = load_config(path, ["task.metric=qwk"])  # folds.csv is up to date, whatever the metric
    with pytest.raises(UserError, match=r"folds.csv, row \d+: `target` is '.*', and task.metric=qwk needs"):
        load_fold(grades, create_task(grades), 0)
    before = sorted(p.name for p in (tmp_path / "data" / "cache").rglob("*"))
    with pytest.raises(UserError, match=r"train.csv, row \d+: `target` is .* and task.metric=qwk needs"):
        prepare_dataset(load_config(path, ["task.metric=qwk", "data.image_size=24"]))
    assert sorted(p.name for p in (tmp_path / "data" / "cache").rglob("*")) == before
