"""Which test rows one fold's model is sure enough of to learn from, and what they are told to be."""

from __future__ import annotations

import numpy as np
import pandas as pd

from src.config import Pseudo
from src.pseudo.confidence import first_is_right
from src.tasks.base import Task, targets_in


def select(
    predictions: pd.DataFrame,
    task: Task,
    outputs: list[str],
    settings: Pseudo,
    known: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The confident rows of a fold's test predictions: id, `confidence`, then the columns of `Task.write`.

    What is sure is the task's to say; the cosines of a ranking are calibrated on `known`, rows that this very
    model did not learn from. Lee 2013, Pseudo-Label. Made anew every round, so that a label can be withdrawn.
    """
    said = task.read(predictions, outputs)
    spread = predictions["spread"].to_numpy() if "spread" in predictions else None
    if task.kind == "rankings":
        truth = task.truth(targets_in(known), outputs)
        spread = first_is_right(task.read(known, outputs), truth, said)
    found = task.select(said, spread, settings)
    table = task.write(found.targets, outputs)
    table.insert(0, "id", predictions["id"].to_numpy()[found.chosen])
    table.insert(1, "confidence", found.confidence)
    return table


def decided(table: pd.DataFrame, task: Task, outputs: list[str]) -> np.ndarray:
    """(n, L) what each row was told, without shades: its class or identity, its labels as 0, 1 or NaN, or
    numbers."""
    values = task.told(table, outputs)
    if task.stacking == "classes":
        return values.argmax(1)[:, None].astype(np.float64)
    if task.stacking == "labels":
        return np.where(np.isnan(values), np.nan, values >= 0.5)
    return values


def agreement(now: pd.DataFrame, before: pd.DataFrame | None, task: Task, outputs: list[str]) -> float | None:
    """Of the rows selected in both rounds, the share that kept what they were told; None where there are
    none, and for numbers and masks, which never stay exactly."""
    if before is None or task.stacking in ("values", "pixels"):
        return None
    told = [table.set_index("id") for table in (now, before)]
    both = told[0].index.intersection(told[1].index)
    if not len(both):
        return None
    first, second = (decided(table.loc[both], task, outputs) for table in told)
    return float(((first == second) | np.isnan(first) | np.isnan(second)).all(1).mean())


def same(now: pd.DataFrame, before: pd.DataFrame | None, task: Task, outputs: list[str]) -> bool:
    """Whether two selections hold the same rows, told the same."""
    if before is None or now["id"].tolist() != before["id"].tolist():
        return False
    return np.array_equal(decided(now, task, outputs), decided(before, task, outputs), equal_nan=True)


def shares(tables: list[pd.DataFrame], task: Task, outputs: list[str]) -> dict[str, float]:
    """What was told, output by output: the share of rows of a class, of known cells that are positive, or the
    mean.

    A bare threshold tends to collapse the class prior: this is where it shows.
    """
    told = np.concatenate([decided(table, task, outputs) for table in tables])
    if not len(told):
        return dict.fromkeys(outputs, 0.0)
    if task.stacking in ("classes", "pairs"):
        told = np.eye(len(outputs))[told[:, 0].astype(int)]
    known = np.maximum((~np.isnan(told)).sum(0), 1)
    return dict(zip(outputs, (np.nansum(told, 0) / known).round(4).tolist(), strict=True))
