"""Cross-validation (CV) score of an OOF table, with nested decision rules."""

from __future__ import annotations

from math import isfinite, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from src.decisions import fit_rule, nested_score
from src.tasks.base import Task, targets_in

if TYPE_CHECKING:
    import pandas as pd


def evaluate(task: Task, oof: pd.DataFrame, outputs: list[str]) -> dict[str, Any]:
    """CV score of an OOF table: over all rows, per fold, and the standard error of the folds' mean.

    For a metric of decisions each fold is decided by a rule fitted on the other folds; `rule`, fitted on all
    rows, is only for the test rows.
    """
    truth, predictions = task.truth(targets_in(oof), outputs), task.read(oof, outputs)
    found = nested_score(task.metric, truth, predictions, oof["fold"].to_numpy())
    return {
        "metric": task.metric.name,
        "cv": finite(found.score),
        "standard_error": finite(standard_error(found.folds)),
        "folds": [finite(score) for score in found.folds],
        "rows": len(oof),
        "rule": fit_rule(task.metric, truth, predictions).as_json(),
    }


def against_constant(
    task: Task, oof: pd.DataFrame, outputs: list[str], metrics: dict[str, Any]
) -> dict[str, Any]:
    """The gain of the CV in `metrics` over the best constant prediction (positive if better): the constant's
    score, the mean gain of the folds and its standard error."""
    from src.decisions.constant import best_constant

    truth, predictions = task.truth(targets_in(oof), outputs), task.read(oof, outputs)
    found = best_constant(task.metric, truth, predictions, oof["fold"].to_numpy())
    pairs = zip(metrics["folds"], found.folds, strict=True)
    gains = [task.metric.sign * (own - base) for own, base in pairs if own is not None and isfinite(base)]
    gain = fmean(gains) if gains else float("nan")
    return {
        "constant": {
            "score": finite(found.score),
            "gain": finite(gain),
            "gain_error": finite(standard_error(gains)),
        }
    }


def no_better_than_constant(metrics: dict[str, Any]) -> str:
    """A warning if the CV beats the best constant prediction by at most the standard error of the difference;
    otherwise ""."""
    constant = metrics.get("constant", {})
    if constant.get("gain") is None or constant["gain"] > (constant["gain_error"] or 0.0):
        return ""
    return f"; no better than the best constant prediction, which scores {constant['score']:.4f}"


def standard_error(scores: list[float]) -> float:
    """Standard error of the mean of the folds' scores, without undefined ones; NaN for fewer than two."""
    known = [score for score in scores if isfinite(score)]
    return stdev(known) / sqrt(len(known)) if len(known) > 1 else float("nan")


def why_undefined(metric: str, rows: str) -> str:
    """A sentence that explains why a metric is undefined on `rows`."""
    return (
        f"{metric} is undefined on {rows}: they may hold one class or one value alone, or the predictions "
        f"are all the same; lower cv.n_folds or cv.stop_parts for larger parts, or choose another task.metric"
    )


def score_text(score: float | None) -> str:
    """A score with four decimals, or "undefined"."""
    return f"{score:.4f}" if score is not None and isfinite(score) else "undefined"


def finite(value: float) -> float | None:
    """A number for JSON: NaN (an undefined metric) becomes None."""
    return float(value) if isfinite(value) else None
