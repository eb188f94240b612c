"""Multiclass classification: one label per row out of C classes; predictions are the class probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Pseudo, UserError
from src.tasks.base import (
    Selection,
    Task,
    check_classes,
    check_filled,
    check_probabilities,
    in_order,
    say_unknown,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Multiclass(Task):
    """Multiclass classification with softmax. The submission holds the label or one probability per class,
    depending on the sample's columns."""

    name = "multiclass"
    distillation = "kl"
    stacking = "classes"

    def describe(self, targets: pd.DataFrame) -> dict[str, Any]:
        """The sorted classes and the row count of each."""
        counts = targets.iloc[:, 0].value_counts()
        classes = in_order(list(counts.index))
        return {"outputs": classes, "counts": {label: int(counts[label]) for label in classes}}

    def check_targets(self, targets: pd.DataFrame, path: Path) -> None:
        """Raise `UserError` unless there is one target column with a label in every row and at least two
        classes."""
        only_column(targets, path)
        check_filled(targets, path, "cat")
        if targets.iloc[:, 0].nunique() < 2:
            raise UserError(
                f"{path}: `{targets.columns[0]}` holds one class only, {targets.iloc[0, 0]!r}; "
                f"is data.target right?"
            )
        check_classes(targets.iloc[:, 0], path)

    def strata(self, targets: pd.DataFrame) -> np.ndarray:
        """(N,) the class of each row as an integer."""
        return targets.iloc[:, 0].astype("category").cat.codes.to_numpy()

    def encode(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N, C) one-hot rows, float32."""
        return one_hot(self.truth(targets, outputs), len(outputs))

    def truth(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N,) class indices."""
        index = {label: i for i, label in enumerate(outputs)}
        return targets.iloc[:, 0].map(index).to_numpy(dtype="int64")

    def activate(self, raw: Any) -> Any:
        """Softmax, always computed in float32."""
        return raw.float().softmax(1)

    def select(self, predictions: np.ndarray, spread: np.ndarray | None, settings: Pseudo) -> Selection:
        """Pseudo-labels: rows whose top probability reaches the threshold; soft targets are the predicted
        probabilities."""
        confidence = predictions.max(1)
        chosen = confidence >= settings.threshold
        sure = predictions[chosen]
        told = one_hot(sure.argmax(1), predictions.shape[1]) if settings.labels == "hard" else sure
        return Selection(chosen, told, confidence[chosen])

    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """Raise `UserError` unless the sample has one column beside the id (the label) or one per class (its
        probability). A class without training rows gets probability 0."""
        columns = [c for c in sample.columns if c != id_column]
        if len(columns) == 1:
            return
        lost = sorted(set(outputs) - set(columns))
        if lost:
            raise UserError(
                f"{path}: its columns are neither one label nor one a class of train.csv: there is none for "
                f"{', '.join(map(repr, lost[:6]))}; it has {', '.join(columns[:12]) or 'none'}; is "
                f"data.target right? Rows of a class that is not asked for can be taken out of a copy of "
                f"train.csv, named in data.train_csv"
            )
        say_unknown(columns, outputs, path)

    def submission(
        self, predictions: np.ndarray, sample: pd.DataFrame, id_column: str, dataset: dict[str, Any]
    ) -> pd.DataFrame:
        """The top class, or the probability of each class, in the column order of the sample."""
        import numpy as np

        outputs = dataset["outputs"]
        table = sample[[id_column]].copy()
        columns = [c for c in sample.columns if c != id_column]
        if is_label(columns, outputs):
            table[columns[0]] = np.asarray(outputs, dtype=object)[predictions.argmax(1)]
        else:
            for column in columns:
                table[column] = predictions[:, outputs.index(column)] if column in outputs else 0.0
        return table[list(sample.columns)]

    def check_values(self, table: pd.DataFrame, columns: list[str], dataset: dict[str, Any]) -> None:
        """Raise `UserError` unless the values are known classes, or probabilities."""
        outputs = dataset["outputs"]
        if not is_label(columns, outputs):
            check_probabilities(table, columns)
            return
        unknown = sorted({str(label) for label in table[columns[0]]} - set(outputs))
        if unknown:
            raise UserError(f"the submission's `{columns[0]}` holds {unknown[0]!r}, no class of train.csv")


def one_hot(codes: np.ndarray, n: int) -> np.ndarray:
    """One-hot encode class numbers (N,) as (N, n) float32. `numpy.eye` would first make an (n, n) table."""
    import numpy as np

    dense = np.zeros((len(codes), n), np.float32)
    dense[np.arange(len(codes)), codes] = 1
    return dense


def is_label(columns: list[str], outputs: list[str]) -> bool:
    """Whether a sample with these value columns takes the label instead of one probability per class."""
    return len(columns) == 1 and columns[0] not in outputs


def only_column(targets: pd.DataFrame, path: Path) -> None:
    """Raise `UserError` if there are several target columns; the task takes one."""
    if targets.shape[1] != 1:
        raise UserError(
            f"{path}: this task has one target, data.target names {targets.shape[1]} "
            f"({', '.join(targets.columns)}); several are multilabel or regression"
        )
