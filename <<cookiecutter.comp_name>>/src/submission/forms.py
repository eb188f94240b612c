"""Conversion of predictions to the cells of a submission, for each form of sample submission in
`src/data/submission_form.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from src.config import UserError
from src.data.rle import decode_runs, encode_runs
from src.data.submission_form import SampleForm
from src.data.targets import labels_of
from src.decisions import Rule, take_rows
from src.tasks.base import Task, check_probabilities


def fill_form(
    form: SampleForm,
    sample: pd.DataFrame,
    task: Task,
    predictions: Any,
    rule: Rule,
    dataset: dict[str, Any],
) -> pd.DataFrame:
    """The submission, with the rows and columns of the sample. `predictions` have one row per sample row,
    or each row's image if a row is an (image, class) pair. `rule` makes the decisions if the metric needs
    them."""
    if form.kind in _CELLS:
        cells = _CELLS[form.kind](form, task, predictions, rule, dataset["outputs"])
        return sample.assign(**{form.value_columns[0]: cells})
    return task.submission(rule.apply(predictions), sample, form.id_column, dataset)


def separated(form: SampleForm, task: Task, predictions: Any, rule: Rule, outputs: list[str]) -> list[str]:
    """One cell per row with several labels: the most likely classes, as many as the fullest cell of the
    sample; the most likely identities, as many as the metric uses; or the predicted labels, most likely
    first."""
    _check_apart([*outputs, *filter(None, [getattr(predictions, "new", None)])], form.separator)
    decided = rule.apply(predictions)
    if task.kind == "rankings":
        most = max(form.most, task.metric.first) if task.metric.first else None  # None: the whole list
        return [form.separator.join(row[:most]) for row in decided.labels]
    order = np.argsort(-predictions, axis=1, kind="stable")
    if task.stacking == "classes":
        return [form.separator.join(outputs[i] for i in row[: form.most]) for row in order]
    yes = decided >= 0.5
    return [form.separator.join(outputs[i] for i in row if yes[n, i]) for n, row in enumerate(order)]


def _check_apart(labels: list[str], separator: str) -> None:
    """Raise `UserError` for a label that would be read as several labels."""
    several = next((label for label in labels if len(labels_of(label, separator)) > 1), None)
    if several is not None:
        raise UserError(
            f"the label {several!r} holds {separator!r}, which stands between the answers of a cell, so it "
            f"would be read as several; is data.label_separator what the sample submission has there?"
        )


def long(form: SampleForm, task: Task, predictions: Any, rule: Rule, outputs: list[str]) -> np.ndarray:
    """Predicted value of each row's class, for the long format (one row per image-class pair)."""
    place = {name: i for i, name in enumerate(outputs)}
    return rule.apply(predictions)[np.arange(len(form.images)), [place[name] for name in form.classes]]


def rle(form: SampleForm, task: Task, predictions: Any, rule: Rule, outputs: list[str]) -> list[str]:
    """Run-length encoding (RLE) of each row's mask at the image's own size. Rows without a class hold the
    only class, or the union of all classes."""
    place = {name: i for i, name in enumerate(outputs)}
    cells = []
    for row in range(len(form.images)):
        masks = rule.apply(take_rows(predictions, np.array([row])))[0]  # one image in memory at a time
        mask = masks[place[form.classes[row]]] if form.classes is not None else masks.any(0)
        cells.append(encode_runs(mask))
    return cells


_CELLS: dict[str, Callable] = {"separated": separated, "long": long, "rle": rle}


def check_cells(form: SampleForm, task: Task, table: pd.DataFrame, dataset: dict[str, Any]) -> None:
    """Raise `UserError` if a value of a submission cannot be valid."""
    columns = list(form.value_columns)
    if form.kind == "separated":
        said = {name for cell in table[columns[0]] for name in str(cell).split(form.separator) if name}
        unknown = sorted(said - {*dataset["outputs"], dataset.get("new_label")})
        if unknown:
            raise UserError(f"the submission's `{columns[0]}` holds {unknown[0]!r}, no class of train.csv")
    elif form.kind == "long" and task.stacking != "values":
        check_probabilities(table, columns)
    else:
        task.check_values(table, columns, dataset)


def check_runs(form: SampleForm, table: pd.DataFrame, sizes: dict[str, tuple[int, int]]) -> None:
    """Raise `UserError` for the first row whose run lengths do not lie inside its image or are not in
    canonical form."""
    for row, (image, text) in enumerate(zip(form.images, table[form.value_columns[0]], strict=True)):
        try:
            mask = decode_runs(text, *sizes[image])
        except UserError as error:
            raise UserError(f"row {row + 2} of the submission ({image}): {error}") from None
        if encode_runs(mask) != text:
            raise UserError(
                f"row {row + 2} of the submission ({image}): its runs overlap or are out of order"
            )
