"""Which candidate is kept, and what that way of choosing would score when no fold has a say in its own."""

from __future__ import annotations

import numpy as np

from src.decisions import Nested, nested
from src.scoring import finite, standard_error
from src.tasks.base import Task


def scores(task: Task, truth: np.ndarray, predictions: np.ndarray, fold: np.ndarray) -> Nested:
    """Score over all rows and fold by fold, positive being better whatever the metric's direction."""
    found = nested(task.metric, truth, predictions, fold)
    sign = task.metric.sign
    return found._replace(score=sign * found.score, folds=[sign * score for score in found.folds])


def best_member(task: Task, oof: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> int:
    """The member with the best score; the first of equals."""
    found = [scores(task, truth, predictions, fold).score for predictions in oof]
    return int(np.nanargmax(found)) if np.isfinite(found).any() else 0


def best_single_oof(task: Task, oof: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(N, C): each fold predicted by the member that is best on the other folds, so that the choice is honest
    too."""
    result = np.empty_like(oof[0])
    for k in np.unique(fold):
        others = fold != k
        result[~others] = oof[best_member(task, oof[:, others], truth[others], fold[others])][~others]
    return result


def choose(
    task: Task, candidates: dict[str, np.ndarray], truth: np.ndarray, fold: np.ndarray
) -> tuple[str, np.ndarray]:
    """The candidate to keep, and (N, C) what that way of choosing predicts when each fold's rows had no say
    in it.

    The plain mean is kept unless another beats it by more than the standard error of their difference.
    """
    honest = np.empty_like(candidates["mean"])
    for k in np.unique(fold):
        others = fold != k
        name = _winner(task, {n: oof[others] for n, oof in candidates.items()}, truth[others], fold[others])
        honest[~others] = candidates[name][~others]
    return _winner(task, candidates, truth, fold), honest


def _winner(task: Task, candidates: dict[str, np.ndarray], truth: np.ndarray, fold: np.ndarray) -> str:
    best, lead = "mean", 0.0
    for name in candidates:
        gain, error = against_mean(task, candidates, name, truth, fold)
        if gain is not None and gain > max(lead, error or 0.0):
            best, lead = name, gain
    return best


def against_mean(
    task: Task, candidates: dict[str, np.ndarray], name: str, truth: np.ndarray, fold: np.ndarray
) -> tuple[float | None, float | None]:
    """How much better than the mean, fold by fold, positive when better; and the standard error of that
    difference. None for the mean itself."""
    if name == "mean":
        return None, None
    own, mean = (scores(task, truth, candidates[n], fold).folds for n in (name, "mean"))
    difference = np.subtract(own, mean)
    known = difference[np.isfinite(difference)]
    return finite(known.mean()) if len(known) else None, finite(standard_error(list(known)))
