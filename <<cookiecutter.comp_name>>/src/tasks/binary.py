"""Binary classification: two classes; one output, the probability of the positive class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Pseudo, UserError
from src.tasks.base import Selection, Task, check_classes, check_filled, check_probabilities, in_order
from src.tasks.multiclass import only_column

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Binary(Task):
    """Binary classification with a sigmoid output. The positive class is the second in sorted order: 1 after
    0, yes after no."""

    name = "binary"
    distillation = "bce"
    stacking = "labels"

    def describe(self, targets: pd.DataFrame) -> dict[str, Any]:
        """The positive class as the only output, and the row counts of both classes."""
        counts = targets.iloc[:, 0].value_counts()
        classes = in_order(list(counts.index))
        rows = {label: int(counts[label]) for label in classes}
        return {"outputs": [classes[1]], "counts": rows, "classes": classes}

    def check_targets(self, targets: pd.DataFrame, path: Path) -> None:
        """Raise `UserError` unless there is one target column with a label in every row and exactly two
        classes."""
        only_column(targets, path)
        check_filled(targets, path, "1")
        labels = targets.iloc[:, 0]
        if labels.nunique() != 2:
            shown = ", ".join(in_order(list(labels.unique()))[:5])
            raise UserError(
                f"{path}: `{targets.columns[0]}` holds {labels.nunique()} different labels ({shown}), a "
                f"binary target two; is data.target right, or is task.name multiclass?"
            )
        check_classes(labels, path)

    def strata(self, targets: pd.DataFrame) -> np.ndarray:
        """(N,) the class of each row as an integer."""
        return targets.iloc[:, 0].astype("category").cat.codes.to_numpy()

    def encode(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N, 1) float32: 1 for the positive class, else 0."""
        return self.truth(targets, outputs)[:, None].astype("float32")

    def truth(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N,) int64: 1 for the positive class, else 0."""
        return (targets.iloc[:, 0] == outputs[0]).to_numpy().astype("int64")

    def activate(self, raw: Any) -> Any:
        """Sigmoid, in float32."""
        return raw.float().sigmoid()

    def select(self, predictions: np.ndarray, spread: np.ndarray | None, settings: Pseudo) -> Selection:
        """Pseudo-labels: rows with a probability of at least the threshold or at most 1 - threshold (such as
        0.9 and 0.1)."""
        import numpy as np

        confidence = np.maximum(predictions, 1 - predictions)[:, 0]
        chosen = confidence >= settings.threshold
        sure = predictions[chosen]
        return Selection(
            chosen,
            (sure >= 0.5).astype(np.float32) if settings.labels == "hard" else sure,
            confidence[chosen],
        )

    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """Raise `UserError` unless the sample has one column beside the id."""
        columns = [c for c in sample.columns if c != id_column]
        if len(columns) != 1:
            raise UserError(
                f"{path}: a binary submission has one column beside `{id_column}`, this one has "
                f"{', '.join(columns) or 'none'}; is task.name right?"
            )

    def submission(
        self, predictions: np.ndarray, sample: pd.DataFrame, id_column: str, dataset: dict[str, Any]
    ) -> pd.DataFrame:
        """The probability of the positive class, or the class if the metric needs decisions. A column named
        after a class holds the probability of that class."""
        import numpy as np

        table, classes, said = sample[[id_column]].copy(), dataset["classes"], predictions[:, 0]
        column = next(c for c in sample.columns if c != id_column)
        if column in classes:
            table[column] = said if column == classes[1] else 1 - said
        else:
            decided = np.issubdtype(predictions.dtype, np.integer)
            table[column] = np.asarray(classes, dtype=object)[said] if decided else said
        return table[list(sample.columns)]

    def check_values(self, table: pd.DataFrame, columns: list[str], dataset: dict[str, Any]) -> None:
        """Raise `UserError` unless the values are the two classes, or probabilities."""
        import pandas as pd

        values, classes = table[columns[0]], dataset["classes"]
        if columns[0] not in classes:
            if values.astype(str).isin(classes).all():
                return
            if pd.to_numeric(values, errors="coerce").isna().all():
                unknown = sorted(set(values.astype(str)) - set(classes))
                raise UserError(
                    f"the submission's `{columns[0]}` holds {unknown[0]!r}, no class of train.csv"
                )
        check_probabilities(table, columns)
