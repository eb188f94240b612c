"""Selection of the kept candidate, and the nested CV score of that selection: no fold takes part in its own
choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from src.decisions import Nested, assemble, mixed_score, nested_score, take_rows
from src.ensemble.attenuation import UNKNOWN, AveragedScore
from src.scoring import finite, standard_error
from src.tasks.base import Task

MEAN, SINGLE = "mean", "best single"  # candidates that every stack has
# Maps a candidate's name to the name and the OOF predictions of its calibrated version.
Calibrate = Callable[[str], tuple[str, Any]]


def scores(task: Task, truth: Any, predictions: Any, fold: np.ndarray) -> Nested:
    """Score over all rows and per fold, with the metric's sign applied so that higher is always better."""
    found = nested_score(task.metric, truth, predictions, fold)
    sign = task.metric.sign
    return found._replace(score=sign * found.score, folds=[sign * score for score in found.folds])


def best_member(task: Task, oof: list[Any], truth: Any, fold: np.ndarray) -> int:
    """Index of the member with the best score; the first one in case of a tie."""
    found = [scores(task, truth, predictions, fold).score for predictions in oof]
    return int(np.nanargmax(found)) if np.isfinite(found).any() else 0


def best_single_oof(task: Task, oof: list[Any], truth: Any, fold: np.ndarray) -> Any:
    """Nested OOF predictions of the best single member: each fold uses the member that is best on the other
    folds, so that the choice does not see the fold."""
    parts = []
    for k in np.unique(fold):
        others, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if len(oof) == 1:  # there is no choice to make
            best = 0
        else:
            found = [
                scores(task, take_rows(truth, others), take_rows(one, others), fold[others]).score
                for one in oof
            ]
            best = int(np.nanargmax(found)) if np.isfinite(found).any() else 0
        parts.append((own, take_rows(oof[best], own)))
    return assemble(parts)


def choose_candidate(
    task: Task,
    candidates: dict[str, Any],
    truth: Any,
    fold: np.ndarray,
    calibrate: Calibrate | None = None,
    averaged: AveragedScore = UNKNOWN,
) -> tuple[str, float]:
    """The candidate to keep, and the nested CV score of this selection rule: for each fold, the candidate and
    the metric's decision rule are chosen on the other folds.

    The default is kept unless another candidate beats it by more than the standard error of their paired
    difference. If the averaged score is known, that candidate must also not be worse by more than one
    standard error once the fold models are averaged. The kept candidate is calibrated if calibration helps by
    more than its standard error.
    """
    parts = []
    for k in np.unique(fold):
        others, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        _, oof = _winner(task, candidates, truth, fold, calibrate, averaged, others)
        rules = nested_score(task.metric, truth, oof, fold).rules
        parts.append((own, take_rows(oof, own), rules[int(k)]))
    name, _ = _winner(task, candidates, truth, fold, calibrate, averaged)
    return name, mixed_score(task.metric, truth, parts)


def _winner(
    task: Task,
    candidates: dict[str, Any],
    truth: Any,
    fold: np.ndarray,
    calibrate: Calibrate | None,
    averaged: AveragedScore,
    rows: np.ndarray | None = None,
) -> tuple[str, Any]:
    """The candidate to keep according to some rows (all if None), and its predictions for all rows."""

    def folds(oof: Any) -> list[float]:
        if rows is None:
            return scores(task, truth, oof, fold).folds
        return scores(task, take_rows(truth, rows), take_rows(oof, rows), fold[rows]).folds

    found = {name: folds(oof) for name, oof in candidates.items()}
    worth = {name: averaged(name, rows) for name in candidates}
    best = base = default_candidate(found, worth)
    lead = 0.0
    for name, own in found.items():
        gained, error = gain(own, found[base])
        if (
            name != base
            and beats_by_an_error(gained, error)
            and gained > lead
            and holds_when_averaged(worth, name, base)
        ):
            best, lead = name, gained
    if calibrate is not None:
        name, oof = calibrate(best)
        if beats_by_an_error(*gain(folds(oof), found[best])):
            return name, oof
    return best, candidates[best]


def same_folds(task: Task, oof: Any, other: Any, truth: Any, fold: np.ndarray) -> bool:
    """Whether two candidates have the same score on every fold, as the ranks of a single member do beside it.
    Then neither gains over the other, even if their CV over all rows differs."""
    pair = (scores(task, truth, one, fold).folds for one in (oof, other))
    return np.allclose(*pair, rtol=0, atol=1e-12, equal_nan=True)


def default_candidate(folds: dict[str, list[float]], worth: dict[str, list[float]]) -> str:
    """The candidate kept unless another beats it, from each candidate's fold scores and its averaged scores
    `worth`.

    It is the plain mean, or the best single run if that has a higher CV or if the mean is worse by more than
    one standard error when averaged, as with one strong member among weak ones.
    """
    if SINGLE not in folds:
        return MEAN
    gained = gain(folds[SINGLE], folds[MEAN])[0]
    return (
        SINGLE
        if (gained is not None and gained > 0) or not holds_when_averaged(worth, MEAN, SINGLE)
        else MEAN
    )


def holds_when_averaged(worth: dict[str, list[float]], name: str, base: str) -> bool:
    """Whether a candidate is not worse than `base` by more than the standard error of their difference once
    the fold models are averaged; True if that is unknown."""
    if not worth[name] or not worth[base]:
        return True
    gained, error = gain(worth[name], worth[base])
    return gained is None or gained >= -(error or 0.0)


def beats_by_an_error(gained: float | None, error: float | None) -> bool:
    """Whether a gain exceeds its standard error, which is the threshold for not calling it chance."""
    return gained is not None and gained > max(0.0, error or 0.0)


def gain(own: list[float], base: list[float]) -> tuple[float | None, float | None]:
    """Mean paired difference of the fold scores (`own` minus `base`), and its standard error."""
    difference = np.subtract(own, base)
    known = difference[np.isfinite(difference)]
    return finite(known.mean()) if len(known) else None, finite(standard_error(list(known)))


def against_default(
    task: Task, candidates: dict[str, Any], truth: Any, fold: np.ndarray, averaged: AveragedScore = UNKNOWN
) -> tuple[str, dict[str, tuple[float | None, float | None]]]:
    """The default candidate's name, and each candidate's mean gain over it per fold with the standard error
    of that difference. Positive is better; (None, None) for the default itself."""
    folds = {name: scores(task, truth, oof, fold).folds for name, oof in candidates.items()}
    base = default_candidate(folds, {name: averaged(name) for name in (MEAN, SINGLE)})
    gains = {name: gain(own, folds[base]) for name, own in folds.items()}
    return base, gains | {base: (None, None)}
