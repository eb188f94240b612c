"""Regression: one or several numeric targets per row; ordinal grades are treated as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Pseudo, UserError
from src.rawfiles import line_of
from src.tasks.base import Selection, Task, check_filled, check_target_names, is_ours

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_BINS = 10  # stratified folds balance the deciles of the target
_ALONE = "prediction"  # the output's name if the only target has a reserved column name, such as `target`


class Regression(Task):
    """Regression. Targets are standardised for training with the statistics of each fold's own training
    rows."""

    name = "regression"
    distillation = "mse"
    stacking = "values"
    scaled = True

    def describe(self, targets: pd.DataFrame) -> dict[str, Any]:
        """The names of the targets, and the quartiles of the first one."""
        values = targets.iloc[:, 0].astype(float)
        edges = values.quantile([0, 0.25, 0.5, 0.75, 1]).tolist()
        names = ("least", "quarter", "median", "three quarters", "most")
        return {
            "outputs": [_ALONE] if list(map(is_ours, targets.columns)) == [True] else list(targets.columns),
            "quantiles": dict(zip(names, edges, strict=True)),
        }

    def check_targets(self, targets: pd.DataFrame, path: Path) -> None:
        """Raise `UserError` unless the targets are finite numbers that are not all equal."""
        import numpy as np
        import pandas as pd

        if targets.shape[1] > 1:
            check_target_names(targets, path)
        check_filled(targets, path, "12.5")
        for column in targets.columns:
            values = pd.to_numeric(targets[column], errors="coerce").to_numpy(np.float64)
            wrong = ~np.isfinite(values)
            if wrong.any():
                row = int(wrong.argmax())
                raise UserError(
                    f"{path}, row {line_of(path, row)}: `{column}` is {targets[column].iloc[row]!r}, no "
                    f"number ({int(wrong.sum())} such row(s)); a regression target is one, such as 12.5"
                )
            if np.ptp(values) == 0:
                raise UserError(f"{path}: `{column}` is {values[0]:g} in every row; is data.target right?")

    def strata(self, targets: pd.DataFrame) -> np.ndarray:
        """(N,) strata: the decile of the mean rank over the targets. Equal values share a stratum; a single
        target with at most ten distinct values, such as a grade, is balanced value by value."""
        import numpy as np

        numbers = targets.astype(float)
        if numbers.shape[1] == 1 and numbers.iloc[:, 0].nunique() <= _BINS:
            return numbers.iloc[:, 0].rank(method="dense").to_numpy().astype("int64") - 1
        rank = numbers.rank(method="average", pct=True).mean(axis=1).to_numpy()
        edges = np.quantile(rank, np.linspace(0, 1, _BINS + 1)[1:-1])
        return np.searchsorted(edges, rank, side="left")

    def encode(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N, T) float32 targets."""
        return targets.astype(float).to_numpy().astype("float32")

    def truth(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N, T) float64 targets."""
        return targets.astype(float).to_numpy()

    def activate(self, raw: Any) -> Any:
        """Identity: raw outputs are already in the targets' units."""
        return raw.float()

    def select(self, predictions: np.ndarray, spread: np.ndarray | None, settings: Pseudo) -> Selection:
        """Pseudo-labels: the share `pseudo.quantile` of the rows with the smallest spread over the TTA views.

        A regression has no probability to compare with a threshold. The confidence is the share of rows with
        a larger spread. Raises `UserError` if there is no spread.
        """
        import numpy as np

        if spread is None or not np.isfinite(spread).all():
            raise UserError(
                "04: a regression's pseudo-labels go by how far the views of a row are apart; "
                "give inference.tta two views at least, such as [identity, hflip]"
            )
        rank = np.argsort(np.argsort(spread, kind="stable"), kind="stable") / max(1, len(spread) - 1)
        chosen = rank <= settings.quantile
        return Selection(chosen, predictions[chosen], 1 - rank[chosen])

    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """Raise `UserError` unless the sample has one column per target; a single one may have another
        name."""
        columns = [c for c in sample.columns if c != id_column]
        if len(columns) != len(outputs) or (len(outputs) > 1 and sorted(columns) != sorted(outputs)):
            raise UserError(
                f"{path}: its columns ({', '.join(columns) or 'none'}) are not the targets "
                f"({', '.join(outputs)}); is data.target right?"
            )

    def submission(
        self, predictions: np.ndarray, sample: pd.DataFrame, id_column: str, dataset: dict[str, Any]
    ) -> pd.DataFrame:
        """The numbers, or the grades if cut points were fitted, in the column order of the sample."""
        outputs = dataset["outputs"]
        table = sample[[id_column]].copy()
        columns = [c for c in sample.columns if c != id_column]
        for column in columns:
            place = outputs.index(column) if len(outputs) > 1 else 0
            table[column] = predictions[:, place]
        return table[list(sample.columns)]

    def check_values(self, table: pd.DataFrame, columns: list[str], dataset: dict[str, Any]) -> None:
        """Raise `UserError` unless the values are finite numbers."""
        import numpy as np
        import pandas as pd

        values = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        if not np.isfinite(values).all():
            row, column = (int(i[0]) for i in (~np.isfinite(values)).nonzero())
            raise UserError(f"row {row + 2} of the submission, `{columns[column]}`: no number")
