"""Predictions into the cells of a submission, whatever form the sample has; see `src/data/sample.py` for the
forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.config import UserError
from src.data.sample import SampleForm
from src.decisions import Rule
from src.tasks.base import Task, check_probabilities


def fill(
    form: SampleForm,
    sample: pd.DataFrame,
    task: Task,
    predictions: np.ndarray,
    rule: Rule,
    dataset: dict[str, Any],
) -> pd.DataFrame:
    """The submission, rows and columns as the sample has them. `predictions` (N, C) has the sample's rows; in
    the `long` form each row's image. `rule` decides where the metric asks for decisions."""
    decided = rule.apply(predictions)
    if form.kind == "separated":
        cells = _answers(form, task, predictions, decided, dataset["outputs"])
        return sample.assign(**{form.value_columns[0]: cells})
    if form.kind == "long":
        place = {name: i for i, name in enumerate(dataset["outputs"])}
        columns = [place[name] for name in form.classes]
        return sample.assign(**{form.value_columns[0]: decided[np.arange(len(sample)), columns]})
    return task.submission(decided, sample, form.id_column, dataset)


def _answers(
    form: SampleForm, task: Task, predictions: np.ndarray, decided: np.ndarray, outputs: list[str]
) -> list[str]:
    """A cell a row: the likeliest classes, as many as the sample's fullest cell; or the labels decided on,
    the likeliest first."""
    order = np.argsort(-predictions, axis=1, kind="stable")
    if task.stacking == "classes":
        return [form.separator.join(outputs[i] for i in row[: form.most]) for row in order]
    yes = decided >= 0.5
    return [form.separator.join(outputs[i] for i in row if yes[n, i]) for n, row in enumerate(order)]


def check_cells(form: SampleForm, task: Task, table: pd.DataFrame, dataset: dict[str, Any]) -> None:
    """Raise `UserError` where a value of a submission cannot be right."""
    columns = list(form.value_columns)
    if form.kind == "separated":
        said = {name for cell in table[columns[0]] for name in str(cell).split(form.separator) if name}
        unknown = sorted(said - set(dataset["outputs"]))
        if unknown:
            raise UserError(f"the submission's `{columns[0]}` holds {unknown[0]!r}, no class of train.csv")
    elif form.kind == "long" and task.stacking != "values":
        check_probabilities(table, columns)
    else:
        task.check_values(table, columns, dataset)
