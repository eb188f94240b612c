"""Stage 05: stacking of the members' OOF tables by blenders, compared with their plain mean and the best
single run.

All candidates are scored by nested CV on the same folds. The default is the mean, or the best run if that
scores higher. It is kept unless another candidate beats it by more than the standard error of the difference
and is not worse by more than that once the fold models are averaged (see attenuation.py). The kept candidate
is calibrated if that helps by more than its standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import Step, write_json, write_parquet
from src.config import Config
from src.decisions import countable, nested_score
from src.ensemble.apply import CALIBRATED
from src.ensemble.attenuation import UNKNOWN, AveragedScore, variance_between_folds
from src.ensemble.blenders import fitter
from src.ensemble.blenders.base import LevelData, fit_blender, nested_oof
from src.ensemble.choice import (
    SINGLE,
    against_default,
    beats_by_an_error,
    best_member,
    best_single_oof,
    choose_candidate,
    holds_when_averaged,
    same_folds,
)
from src.ensemble.features import read_features
from src.ensemble.members import stack_optimism
from src.ensemble.second_level import CANDIDATES_BY_KIND, Candidates, Members, level_data
from src.ensemble.tables import check_tables, read_fold_predictions, read_predictions
from src.scoring import evaluate, finite
from src.tasks.base import Task, as_target_columns, targets_in


def build_stack(
    step: Step, config: Config, task: Task, folders: list[Path], outputs: list[str]
) -> dict[str, Any]:
    """Score the candidates by nested CV, keep the best, write its OOF and test tables; return the content of
    metrics.json."""
    rows, test_ids = check_tables(folders, list(task.columns(outputs)))
    members = read_members(step, config, task, folders, outputs, rows, test_ids)
    truth, fold, names = members.truth, members.fold, members.names
    found = CANDIDATES_BY_KIND[task.kind](task, members, config.stack, config.seed)

    def scored(predictions: Any) -> Any:
        return countable(task.metric, truth, predictions)  # for masks the counts a score needs, computed once

    seen = [scored(one) for one in members.oof]
    single = best_member(task, seen, truth, fold)
    oof = found.oof | {SINGLE: best_single_oof(task, members.oof, truth, fold)}
    test = found.test | {SINGLE: members.test[single]}
    calibration = None
    if config.stack.calibrate and task.kind == "numbers":
        calibration = Calibrations(level_data(task, members, config.stack, config.seed), oof)
    blenders = {name: scored(one) for name, one in oof.items()}
    averaged = UNKNOWN
    if members.of_folds:
        noise = found.noise | {SINGLE: variance_between_folds([part[single] for part in members.of_folds])}
        averaged = AveragedScore(oof, members.targets, fold, noise)
    chosen, honest = choose_candidate(task, blenders, truth, fold, calibration, averaged)
    if calibration is not None:
        plain = chosen.removesuffix(CALIBRATED)
        title, said = calibration(plain)
        oof[title] = blenders[title] = said
        test[title], stored = calibration.fitted(plain, test[plain])
        found.stored["calibrations"] = {plain: stored}
    table = (
        rows[["id", "fold"]].join(as_target_columns(targets_in(rows))).join(task.write(oof[chosen], outputs))
    )

    def cv(predictions: Any) -> float | None:
        return finite(nested_score(task.metric, truth, predictions, fold).score)

    metrics = {
        **evaluate(task, table, outputs),
        **stack_optimism(folders),
        "kept": chosen,
        "cv_of_the_choice": finite(honest),
        "candidates": verdicts(task, blenders, chosen, truth, fold, cv, averaged),
        "left_out": found.left_out,
        "members": {name: cv(one) for name, one in zip(names, seen, strict=True)},
        "best_single": names[single],
        **found.shown,
    }
    _write(step, table, test_ids, task.write(test[chosen], outputs), metrics, found)
    return metrics


def _write(
    step: Step,
    oof: pd.DataFrame,
    test_ids: list[str],
    test: pd.DataFrame,
    metrics: dict[str, Any],
    found: Candidates,
) -> None:
    """Write the four files of the step."""
    head = {name: metrics[name] for name in ("kept", "best_single")}
    stored = {"members": list(metrics["members"]), **head, **found.stored}
    write_parquet(step.folder / "test.parquet", pd.DataFrame({"id": test_ids}).join(test))
    write_json(step.folder / "stacker.json", stored)
    write_parquet(step.folder / "oof.parquet", oof)
    write_json(step.folder / "metrics.json", metrics)
    step.done()


def read_members(
    step: Step,
    config: Config,
    task: Task,
    folders: list[Path],
    outputs: list[str],
    rows: pd.DataFrame,
    test_ids: list[str],
) -> Members:
    """Read the members' predictions, the targets and the extra features."""
    features, extra, labels = None, None, targets_in(rows)
    if config.stack.features is not None:
        features, *extra = read_features(config, rows["id"].tolist(), test_ids)
    return Members(
        names=[folder.name for folder in folders],
        oof=read_predictions(folders, "oof", task, outputs, step.folder),
        test=read_predictions(folders, "test", task, outputs, step.folder),
        truth=task.truth(labels, outputs),
        targets=task.encode(labels, outputs) if task.kind == "numbers" else None,
        fold=rows["fold"].to_numpy(),
        of_folds=read_fold_predictions(folders, np.unique(rows["fold"]), task, outputs),
        features=features,
        extra=None if extra is None else tuple(extra),
    )


class Calibrations:
    """Second-level calibration of candidates, see blenders/calibration.py: nested like every blender, and
    computed only for the candidates that are requested."""

    def __init__(self, level: LevelData, oof: dict[str, Any]):
        self.level, self.oof, self.known = level.but(extra=None), oof, {}

    def __call__(self, name: str) -> tuple[str, np.ndarray]:
        """Name and nested OOF predictions of the calibrated candidate: each fold is calibrated on the other
        folds."""
        if name not in self.known:
            self.known[name] = nested_oof(fitter("calibration"), self._alone(name))
        return name + CALIBRATED, self.known[name]

    def fitted(self, name: str, test: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Calibrate the test predictions on all OOF rows; return them and the JSON that restores the
        calibration."""
        level = self._alone(name)
        found = fit_blender(fitter("calibration"), level, np.arange(len(level.fold)))
        return found.apply(np.asarray(test)[None]), found.as_json()

    def _alone(self, name: str) -> LevelData:
        return self.level.but(oof=np.asarray(self.oof[name])[None])


def verdicts(
    task: Task,
    blenders: dict[str, Any],
    chosen: str,
    truth: Any,
    fold: np.ndarray,
    cv: Any,
    averaged: AveragedScore,
) -> dict[str, dict[str, Any]]:
    """Report row per candidate: its CV, its gain over the default with the standard error, its expected
    correlation with the truth once the fold models are averaged, and why it is kept or not."""
    found = {}
    base, gains = against_default(task, blenders, truth, fold, averaged)
    worth = {name: averaged(name) for name in blenders}
    for name, oof in blenders.items():
        gained, error = gains[name]
        if name == chosen:
            why = "kept"
        elif name != base and same_folds(task, oof, blenders[base], truth, fold):
            gained, error = None, None  # its CV may still differ: ranks make folds comparable
            why = f"scores each fold exactly as the {base} does"
        elif name == base:
            why = f"beaten by {chosen}"
        elif name.endswith(CALIBRATED):
            why = "no better than uncalibrated, by more than an error"
        elif beats_by_an_error(gained, error) and not holds_when_averaged(worth, name, base):
            why = f"worse than the {base} once the folds are averaged"
        elif beats_by_an_error(gained, error):
            why = f"less than {chosen.removesuffix(CALIBRATED)} gains"
        else:
            why = f"no better than the {base}, by more than an error"
        mean = finite(float(np.mean(worth[name]))) if worth[name] else None
        found[name] = {"cv": cv(oof), "gain": gained, "gain_error": error, "averaged": mean, "verdict": why}
    return found
