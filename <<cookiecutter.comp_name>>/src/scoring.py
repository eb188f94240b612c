"""The CV of an OOF table: what is printed, stored and compared, honest about decisions too."""

from __future__ import annotations

from math import isfinite, sqrt
from statistics import stdev
from typing import TYPE_CHECKING, Any

from src.decisions import fit, nested
from src.tasks.base import Task, targets_in

if TYPE_CHECKING:
    import pandas as pd


def evaluate(task: Task, oof: pd.DataFrame, outputs: list[str]) -> dict[str, Any]:
    """CV of an OOF table: over all rows, a fold each, and the standard error of the folds' mean.

    A metric that needs decisions is scored with each fold decided by a rule of the other folds; `rule`,
    fitted on all rows, is for the test rows alone.
    """
    truth, predictions = task.truth(targets_in(oof), outputs), task.read(oof, outputs)
    found = nested(task.metric, truth, predictions, oof["fold"].to_numpy())
    return {
        "metric": task.metric.name,
        "cv": finite(found.score),
        "standard_error": finite(standard_error(found.folds)),
        "folds": [finite(score) for score in found.folds],
        "rows": len(oof),
        "rule": fit(task.metric, truth, predictions).as_json(),
    }


def standard_error(scores: list[float]) -> float:
    """Standard error of the mean of the folds' scores, undefined ones left out; NaN for fewer than two."""
    known = [score for score in scores if isfinite(score)]
    return stdev(known) / sqrt(len(known)) if len(known) > 1 else float("nan")


def finite(value: float) -> float | None:
    """A number for JSON; NaN (a metric that these rows leave undefined) is null."""
    return float(value) if isfinite(value) else None
