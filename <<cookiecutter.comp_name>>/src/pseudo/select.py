"""Selection of pseudo-labels: which unlabelled rows are confident enough to train on, and their labels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from src.config import Pseudo
from src.data.classes import ClassTargets
from src.pseudo.calibrate import calibrated
from src.pseudo.class_balance import balanced_cells, class_shares_by_column, class_weights, classes_of_cells
from src.pseudo.confidence import first_is_right
from src.tasks.base import Task, targets_in

ANY = 1e-6  # a threshold that every row reaches


def select(
    predictions: pd.DataFrame,
    task: Task,
    outputs: list[str],
    settings: Pseudo,
    known: pd.DataFrame | None = None,
    labelled: np.ndarray | ClassTargets | None = None,
) -> pd.DataFrame:
    """The confident rows of a fold's predictions as pseudo-labels (Lee 2013, Pseudo-Label): id, `confidence`,
    the columns of `Task.write`, and `pseudo.weight` if rows have different weights.

    The task defines confidence. Probabilities are calibrated if `pseudo.calibrate` is set, and the cosines of
    rankings always, on `known`, rows on which this model was not trained. `labelled` (N, L), the targets of
    the fold's own labelled rows, defines the class prior. The selection is made anew in every round, so that
    a label can be withdrawn.
    """
    said = task.read(predictions, outputs)
    spread = predictions["spread"].to_numpy() if "spread" in predictions else None
    if task.kind == "rankings":
        truth = task.truth(targets_in(known), outputs)
        spread = first_is_right(task.read(known, outputs), truth, said)
    elif settings.calibrate:
        said = calibrated(said, known, task, outputs)
    candidates = settings.model_copy(update={"threshold": ANY}) if settings.prior == "quota" else settings
    found = task.select(said, spread, candidates)
    table = task.write(found.targets, outputs)
    table.insert(0, "id", predictions["id"].to_numpy()[found.chosen])
    table.insert(1, "confidence", found.confidence)
    if settings.cap is None and settings.prior is None:
        return table
    sure = table[["confidence"]].to_numpy()
    if task.name == "multilabel":
        sure = np.maximum(said, 1 - said)[found.chosen]
    return balanced(table, sure, task, outputs, settings, len(predictions), labelled)


def balanced(
    table: pd.DataFrame,
    sure: np.ndarray,
    task: Task,
    outputs: list[str],
    settings: Pseudo,
    asked: int,
    labelled: np.ndarray | ClassTargets | None,
) -> pd.DataFrame:
    """The rows of a selection that remain under `pseudo.cap` and `pseudo.prior`; for multi-label tasks the
    cells. `sure` (n, L) is the confidence of each cell."""
    classes, prior = classes_of_cells(hard_labels(table, task, outputs), task), None
    if settings.prior is not None:
        n = 2 if task.stacking == "labels" else len(outputs)
        prior = class_shares_by_column(classes_of_cells(_numbers(labelled, task), task), n)
    kept = balanced_cells(classes, sure, prior, settings, asked)
    rows = kept.any(1)
    if task.name == "multilabel":
        table[outputs] = table[outputs].where(kept)
        mean = np.where(kept, sure, 0).sum(1) / np.maximum(kept.sum(1), 1)
        table["confidence"] = mean.astype(table["confidence"].dtype)
    table = table[rows].reset_index(drop=True)
    if settings.prior == "weight":
        table["pseudo.weight"] = class_weights(classes[rows, 0], prior[0])
    return table


def _numbers(targets: np.ndarray | ClassTargets, task: Task) -> np.ndarray:
    """Encoded targets in the format of `hard_labels` (N, L)."""
    return targets.argmax(1)[:, None] if task.stacking == "classes" else targets


def hard_labels(table: pd.DataFrame, task: Task, outputs: list[str]) -> np.ndarray:
    """Hard labels (n, L) of each row: the index of its class or identity, its labels as 0, 1 or NaN, or
    numbers."""
    values = task.hard_targets(table, outputs)
    if task.stacking == "classes":
        return _numbers(values, task).astype(np.float64)
    if task.stacking == "labels":
        return np.where(np.isnan(values), np.nan, values >= 0.5)
    return values


def agreement(now: pd.DataFrame, before: pd.DataFrame | None, task: Task, outputs: list[str]) -> float | None:
    """Share of the rows selected in both rounds whose labels are the same. None if there are no such rows,
    and for numbers and masks, which are never exactly the same."""
    if before is None or task.stacking in ("values", "pixels"):
        return None
    told = [table.set_index("id") for table in (now, before)]
    both = told[0].index.intersection(told[1].index)
    if not len(both):
        return None
    first, second = (hard_labels(table.loc[both], task, outputs) for table in told)
    return float(((first == second) | np.isnan(first) | np.isnan(second)).all(1).mean())


def same_selection(now: pd.DataFrame, before: pd.DataFrame | None, task: Task, outputs: list[str]) -> bool:
    """Whether two selections have the same rows with the same labels."""
    if before is None or now["id"].tolist() != before["id"].tolist():
        return False
    return np.array_equal(hard_labels(now, task, outputs), hard_labels(before, task, outputs), equal_nan=True)


def label_shares(tables: list[pd.DataFrame], task: Task, outputs: list[str]) -> dict[str, float]:
    """Distribution of the selected labels per output: the share of rows of a class, the share of positives
    among known cells, or the mean.

    It shows whether the class prior collapses, as a bare threshold tends to cause.
    """
    told = np.concatenate([hard_labels(table, task, outputs) for table in tables])
    if not len(told):
        return dict.fromkeys(outputs, 0.0)
    if task.stacking in ("classes", "pairs"):
        found = np.bincount(told[:, 0].astype(int), minlength=len(outputs)) / len(told)
        return dict(zip(outputs, found.round(4).tolist(), strict=True))
    known = np.maximum((~np.isnan(told)).sum(0), 1)
    return dict(zip(outputs, (np.nansum(told, 0) / known).round(4).tolist(), strict=True))


def label_counts(tables: list[pd.DataFrame], task: Task, outputs: list[str]) -> dict[str, float]:
    """Selected rows per fold for each class or identity, or with a positive label; all rows for numbers and
    masks."""
    told = np.concatenate([hard_labels(table, task, outputs) for table in tables])
    if task.stacking in ("values", "pixels"):
        return dict.fromkeys(outputs, len(told) / len(tables))
    if task.stacking in ("classes", "pairs"):
        found = np.bincount(told[:, 0].astype(int), minlength=len(outputs))
    else:
        found = np.nansum(told, 0)
    return dict(zip(outputs, (found / len(tables)).tolist(), strict=True))
