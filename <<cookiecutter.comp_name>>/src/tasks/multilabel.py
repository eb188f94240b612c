"""Multilabel classification: any number of labels per row; one output per label, an independent
probability."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Pseudo, UserError
from src.rawfiles import line_of
from src.tasks.base import Selection, Task, check_filled, check_probabilities, check_target_names, say_unknown

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Multilabel(Task):
    """Multilabel classification with one sigmoid per output. The training table has a 0/1 column per
    label."""

    name = "multilabel"
    distillation = "bce"
    stacking = "labels"

    def describe(self, targets: pd.DataFrame) -> dict[str, Any]:
        """The labels in the order of the table, the number of rows with each label, and the size of the rarer
        side (rows with or without the label)."""
        counts = {label: int(targets[label].astype(float).sum()) for label in targets.columns}
        rare = {label: min(count, len(targets) - count) for label, count in counts.items()}
        return {"outputs": list(targets.columns), "counts": counts, "rare": rare}

    def check_targets(self, targets: pd.DataFrame, path: Path) -> None:
        """Raise `UserError` unless there are at least two columns of zeros and ones, with both values in
        every column."""
        if targets.shape[1] < 2:
            raise UserError(
                f"{path}: multilabel needs a column a label, data.target names {targets.shape[1]}; "
                f"list them all, such as data.target=[cat,dog]"
            )
        check_target_names(targets, path)
        check_filled(targets, path, "1")
        for column in targets.columns:
            wrong = ~targets[column].isin(["0", "1", "0.0", "1.0"]).to_numpy()
            if wrong.any():
                row = int(wrong.argmax())
                raise UserError(
                    f"{path}, row {line_of(path, row)}: `{column}` is {targets[column].iloc[row]!r}; a label "
                    f"column holds 0 or 1"
                )
            if targets[column].astype(float).nunique() < 2:
                raise UserError(
                    f"{path}: `{column}` is {targets[column].iloc[0]} in every row; leave it out of "
                    f"data.target; a column of the sample for it is then filled with 0"
                )

    def strata(self, targets: pd.DataFrame) -> np.ndarray:
        """(N, L) zeros and ones: folds are balanced by every label."""
        return targets.astype(float).to_numpy().astype("int64")

    def encode(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N, L) float32 zeros and ones."""
        return targets[outputs].astype(float).to_numpy().astype("float32")

    def truth(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N, L) int64 zeros and ones."""
        return targets[outputs].astype(float).to_numpy().astype("int64")

    def activate(self, raw: Any) -> Any:
        """Sigmoid, in float32."""
        return raw.float().sigmoid()

    def select(self, predictions: np.ndarray, spread: np.ndarray | None, settings: Pseudo) -> Selection:
        """Pseudo-labels per label: probabilities of at least the threshold or at most 1 - threshold; the
        others are NaN.

        A row is selected if at least one of its labels is confident. Its confidence is the mean over the
        confident labels.
        """
        import numpy as np

        confidence = np.maximum(predictions, 1 - predictions)
        sure = confidence >= settings.threshold
        chosen = sure.any(1)
        values = (predictions >= 0.5).astype(np.float32) if settings.labels == "hard" else predictions
        targets = np.where(sure, values, np.nan)[chosen].astype(np.float32)
        weight = np.where(sure, confidence, 0.0)[chosen].sum(1) / sure[chosen].sum(1)
        return Selection(chosen, targets, weight)

    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """Raise `UserError` unless the sample has a column for each label; a column without training label is
        filled with 0."""
        columns = [c for c in sample.columns if c != id_column]
        lost = sorted(set(outputs) - set(columns))
        if lost:
            raise UserError(
                f"{path}: its columns are not the labels of train.csv: there is none for "
                f"{', '.join(map(repr, lost[:6]))}; it has {', '.join(columns[:12]) or 'none'}; data.target "
                f"should name columns of the sample"
            )
        say_unknown(columns, outputs, path)

    def submission(
        self, predictions: np.ndarray, sample: pd.DataFrame, id_column: str, dataset: dict[str, Any]
    ) -> pd.DataFrame:
        """One probability per label, or 0 and 1 if the metric needs decisions, in the column order of the
        sample."""
        outputs = dataset["outputs"]
        table = sample[[id_column]].copy()
        for column in [c for c in sample.columns if c != id_column]:
            table[column] = predictions[:, outputs.index(column)] if column in outputs else 0.0
        return table[list(sample.columns)]

    def check_values(self, table: pd.DataFrame, columns: list[str], dataset: dict[str, Any]) -> None:
        """Raise `UserError` unless the values are probabilities."""
        check_probabilities(table, columns)
