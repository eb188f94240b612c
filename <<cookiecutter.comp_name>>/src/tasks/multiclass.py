"""Multiclass: one label a row out of C classes; outputs are the classes, predictions their probabilities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import UserError
from src.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

OUR_COLUMNS = ("id", "fold", "target", "confidence")  # of prediction tables, where a class is a column too


class Multiclass(Task):
    """Softmax over classes; the submission holds the label, or a probability a class, as the sample shows."""

    name = "multiclass"
    default_loss = "cross_entropy"

    def describe(self, targets: pd.Series) -> dict[str, Any]:
        """The classes in their order: by number where all are numbers, else by text; and rows of each."""
        counts = targets.value_counts()
        numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in counts.index)  # 10.0 comes after 2.0
        classes = sorted(counts.index, key=(lambda label: (float(label), label)) if numbers else None)
        return {"outputs": classes, "counts": {label: int(counts[label]) for label in classes}}

    def check_targets(self, table: pd.DataFrame, column: str, path: Path) -> None:
        """A label must be there in every row, and there must be two classes at least."""
        missing = table[column].str.strip().str.lower().isin(["", "nan"])
        if missing.any():
            row = int(missing.to_numpy().argmax())
            example = "cat" if missing.all() else table[column][~missing].iloc[0]
            raise UserError(
                f"{path}, row {row + 2}: `{column}` is empty in {int(missing.sum())} row(s); "
                f"every training row needs a label, such as {example!r}"
            )
        if table[column].nunique() < 2:
            raise UserError(
                f"{path}: `{column}` holds one class only, {table[column].iloc[0]!r}; is data.target right?"
            )
        taken = table[column].isin(OUR_COLUMNS).to_numpy()
        if taken.any():
            row = int(taken.argmax())
            raise UserError(
                f"{path}, row {row + 2}: a class is called {table[column].iloc[row]!r}, as a column of the "
                f"prediction tables is; rename it in a copy of the file, and name the copy in data.train_csv"
            )

    def strata(self, targets: pd.Series) -> np.ndarray:
        """The class of each row as a number."""
        return targets.astype("category").cat.codes.to_numpy()

    def encode(self, targets: pd.Series, outputs: list[str]) -> np.ndarray:
        """One-hot rows."""
        import numpy as np

        return np.eye(len(outputs), dtype=np.float32)[self.truth(targets, outputs)]

    def truth(self, targets: pd.Series, outputs: list[str]) -> np.ndarray:
        """Class indices (N,)."""
        index = {label: i for i, label in enumerate(outputs)}
        return targets.map(index).to_numpy(dtype="int64")

    def activate(self, logits: Any) -> Any:
        """Softmax, in float32 whatever the network ran in."""
        return logits.float().softmax(1)

    def confidence(self, predictions: np.ndarray) -> np.ndarray:
        """The top probability."""
        return predictions.max(1)

    def harden(self, predictions: np.ndarray) -> np.ndarray:
        """One-hot of the top class."""
        import numpy as np

        return np.eye(predictions.shape[1], dtype=np.float32)[predictions.argmax(1)]

    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """Either one column beside the id (the label), or exactly one a class (its probability)."""
        columns = [c for c in sample.columns if c != id_column]
        if len(columns) != 1 and sorted(columns) != sorted(outputs):
            lost = sorted(set(outputs) - set(columns)) or sorted(set(columns) - set(outputs))
            raise UserError(
                f"{path}: its columns are neither one label nor one a class of train.csv "
                f"({lost[0]!r} has no partner); is data.target right?"
            )

    def submission(
        self, predictions: np.ndarray, sample: pd.DataFrame, id_column: str, outputs: list[str]
    ) -> pd.DataFrame:
        """The top class, or each class's probability, in the sample's column order."""
        import numpy as np

        table = sample[[id_column]].copy()
        columns = [c for c in sample.columns if c != id_column]
        if len(columns) == 1 and columns[0] not in outputs:
            table[columns[0]] = np.asarray(outputs, dtype=object)[predictions.argmax(1)]
        else:
            for column in columns:
                table[column] = predictions[:, outputs.index(column)]
        return table[list(sample.columns)]
