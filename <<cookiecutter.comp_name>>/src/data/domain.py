"""Check, before training, that the targets lie in the domain of the metric, the loss and the target
transforms. Each of them declares its `Domain`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from src.config import Config, UserError
from src.metrics.base import NOT_NEGATIVE, Domain
from src.tasks.base import Task

LARGEST = float(np.finfo(np.float32).max) / 10  # networks compute in single precision
COARSEST = 1e-3  # rounding error allowed, as a share of the targets' standard deviation
_SHOWN = 5  # columns shown in a message
_FEW = 1000  # rows kept per column


def check_domain(config: Config, task: Task, targets: pd.DataFrame, path: Path) -> None:
    """Raise `UserError`, with file, row and column, for the first target (as text) that the metric or a
    transform cannot take, or that single precision cannot represent."""
    domains = dict(_domains(config, task))
    if task.kind != "numbers" or not (domains or task.scaled):
        return
    for column in targets.columns:
        values = pd.to_numeric(targets[column], errors="coerce").to_numpy(np.float64)
        for key, domain in domains.items():
            wrong = domain.wrong(values)
            if wrong.any():
                row = int(wrong.argmax())
                raise UserError(
                    f"{path}, row {row + 2}: `{column}` is {targets[column].iloc[row]!r}, and {key} needs "
                    f"{domain.needs} ({int(wrong.sum())} such row(s)); correct it, or change {key}"
                )
        if task.scaled:
            _check_precision(values, column, path)


def _domains(config: Config, task: Task) -> Iterator[tuple[str, Domain]]:
    """The domains that the config requires of the targets, by config key."""
    if task.metric.domain is not None:
        yield f"task.metric={task.metric.name}", task.metric.domain
    if config.train.target_log:
        yield "train.target_log=true", NOT_NEGATIVE


def _check_precision(values: np.ndarray, column: str, path: Path) -> None:
    """Raise `UserError` for numbers beyond single precision, and for numbers whose differences vanish in its
    rounding."""
    beyond = np.abs(values) > LARGEST
    if beyond.any():
        row = int(beyond.argmax())
        raise UserError(
            f"{path}, row {row + 2}: `{column}` is {values[row]:g}, beyond single precision, in which "
            f"networks compute ({int(beyond.sum())} such row(s)); correct it, or change the target's unit"
        )
    lost = np.abs(values.astype(np.float32).astype(np.float64) - values).max(initial=0.0)
    spread = values.std()
    if lost > COARSEST * spread:
        middle = float(np.median(values))
        raise UserError(
            f"{path}: `{column}` differs from row to row by {spread:.3g} (standard deviation) around "
            f"{middle:.10g}, and single precision, in which networks compute, is off by up to {lost:.3g} "
            f"there; take a constant such as {middle:.0f} off it in a copy of the file, name that in "
            f"data.train_csv, and add the constant to the submission"
        )


def undefined(task: Task, truth: np.ndarray) -> list[int] | None:
    """The columns in which the metric is undefined for any prediction, for example because all rows have the
    same target. [-1] if it is undefined for all columns together; None if it is defined."""
    if not len(truth):
        return None
    truth = truth[_first_of_each(truth)]
    if _is_undefined(task, truth):
        return [-1]
    if truth.ndim < 2 or truth.shape[1] == 1 or task.metric.average not in (None, "columns"):
        return None
    return [c for c in range(truth.shape[1]) if _is_undefined(task, truth[:, [c]])] or None


def _first_of_each(truth: np.ndarray) -> np.ndarray:
    """Row numbers of the first row of each value of each column, up to a limit. Whether a metric is defined
    depends only on the values present, and evaluating all rows, columns and folds is slow."""
    columns = truth.reshape(len(truth), -1).T
    return np.unique(np.concatenate([np.unique(c, return_index=True)[1][:_FEW] for c in columns]))


def _is_undefined(task: Task, truth: np.ndarray) -> bool:
    outputs = truth.shape[1] if truth.ndim == 2 else int(truth.max()) + 1 if task.stacking == "classes" else 1
    said = np.random.default_rng(0).random((len(truth), outputs)).astype(np.float32)  # random predictions
    said = said / said.sum(1, keepdims=True) if task.stacking == "classes" else said
    try:
        return bool(np.isnan(task.metric(truth, said)))
    except ValueError:  # a metric that needs several columns together
        return False


def undefined_notes(
    config: Config, task: Task, truth: np.ndarray, outputs: list[str], fold: np.ndarray, stop: np.ndarray
) -> list[str]:
    """Lines for the summary: in which folds and early-stopping splits the metric is undefined, and the
    consequence. Raises `UserError` if it is undefined over all rows."""
    name = task.metric.name
    if undefined(task, truth) == [-1]:
        raise UserError(f"task.metric={name} is undefined for these targets: they are all the same")
    lines = []
    for k in range(config.cv.n_folds):
        early = (stop == k % config.cv.stop_parts) & (fold != k) & config.train.early_stopping.enabled
        for what, rows, then in (
            ("rows of fold", fold == k, "its score is shown as -, and CV is over all rows"),
            ("early-stopping rows of fold", early, "its training goes by the loss"),
        ):
            columns = undefined(task, truth[rows]) or []
            shown = ", ".join(outputs[c] for c in columns[:_SHOWN]) + (
                ", ..." if len(columns) > _SHOWN else ""
            )
            of = then if columns == [-1] else f"for {shown}, which it leaves out there"
            lines += [f"- {name} is undefined over the {what} {k}: {of}"] if columns else []
    return lines
