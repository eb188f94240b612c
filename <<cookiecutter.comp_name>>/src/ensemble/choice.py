"""Which candidate is kept, and what that way of choosing would score when no fold has a say in its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from src.decisions import Nested, assemble, mixed, nested, take
from src.scoring import finite, standard_error
from src.tasks.base import Task


def scores(task: Task, truth: Any, predictions: Any, fold: np.ndarray) -> Nested:
    """Score over all rows and fold by fold, positive being better whatever the metric's direction."""
    found = nested(task.metric, truth, predictions, fold)
    sign = task.metric.sign
    return found._replace(score=sign * found.score, folds=[sign * score for score in found.folds])


def best_member(task: Task, oof: list[Any], truth: Any, fold: np.ndarray) -> int:
    """The member with the best score; the first of equals."""
    found = [scores(task, truth, predictions, fold).score for predictions in oof]
    return int(np.nanargmax(found)) if np.isfinite(found).any() else 0


def best_single_oof(task: Task, oof: list[Any], truth: Any, fold: np.ndarray) -> Any:
    """Each fold predicted by the member that is best on the other folds, so that the choice is honest too."""
    parts = []
    for k in np.unique(fold):
        others, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if len(oof) == 1:  # nothing to choose
            best = 0
        else:
            seen = [take(one, others) for one in oof]
            best = best_member(task, seen, take(truth, others), fold[others])
        parts.append((own, take(oof[best], own)))
    return assemble(parts)


def choose(task: Task, candidates: dict[str, Any], truth: Any, fold: np.ndarray) -> tuple[str, float]:
    """The candidate to keep, and the score of that way of choosing: each fold is predicted by the candidate,
    and decided by its rule, that are best on the other folds.

    The plain mean is kept unless another beats it by more than the standard error of their difference.
    """
    parts, rules = [], {n: nested(task.metric, truth, oof, fold).rules for n, oof in candidates.items()}
    for k in np.unique(fold):
        others, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        seen = {name: take(oof, others) for name, oof in candidates.items()}
        name = _winner(task, seen, take(truth, others), fold[others])
        parts.append((own, take(candidates[name], own), rules[name][int(k)]))
    return _winner(task, candidates, truth, fold), mixed(task.metric, truth, parts)


def _winner(task: Task, candidates: dict[str, Any], truth: Any, fold: np.ndarray) -> str:
    best, lead = "mean", 0.0
    for name in candidates:
        gain, error = against_mean(task, candidates, name, truth, fold)
        if gain is not None and gain > max(lead, error or 0.0):
            best, lead = name, gain
    return best


def against_mean(
    task: Task, candidates: dict[str, Any], name: str, truth: Any, fold: np.ndarray
) -> tuple[float | None, float | None]:
    """How much better than the mean, fold by fold, positive when better; and the standard error of that
    difference. None for the mean itself."""
    if name == "mean":
        return None, None
    own, mean = (scores(task, truth, candidates[n], fold).folds for n in (name, "mean"))
    difference = np.subtract(own, mean)
    known = difference[np.isfinite(difference)]
    return finite(known.mean()) if len(known) else None, finite(standard_error(list(known)))
