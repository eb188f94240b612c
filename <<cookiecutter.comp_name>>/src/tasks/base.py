"""The task interface: methods that every task implements. Shapes: N rows, C outputs.

| kind | predictions | columns of a prediction table |
|---|---|---|
| `numbers` | (N, C) array: the activated outputs | one per output |
| `maps` | `Maps`: for each image, probabilities (C, H, W) as bytes | `height`, `width`, one PNG per output |
| `rankings` | `Ranking`: for each image, the most similar labels | `candidates`, `similarity`: lists |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from src.config import Config, Pseudo, UserError
from src.metrics import Metric
from src.rawfiles import line_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

OUR_COLUMNS = (
    "id",
    "fold",
    "stop",
    "group",
    "target",
    "confidence",
    "spread",
    "height",
    "width",
    "candidates",
    "similarity",
    "pseudo.weight",
)  # reserved: each output is a column beside these
TARGET_PREFIX = "target."  # prefix of each target's name if there are several targets
RENAME = (
    "as a column of the prediction tables is; rename it in a copy of the file, "
    "and name the copy in data.train_csv"
)


@dataclass(frozen=True)
class Selection:
    """Pseudo-label selection: which rows (N,) are confident enough, their targets, and the confidence of each
    (n,).

    Targets have the form of `encode`, (n, C); NaN marks a target that is not confident, which the loss
    ignores. For segmentation the targets are `Maps` with `UNSURE` pixels.
    """

    chosen: np.ndarray
    targets: Any
    confidence: np.ndarray


@dataclass(frozen=True)
class Task(ABC):
    """Base class of the tasks: one kind of competition. Methods work on numpy arrays and text columns;
    `activate` and `compact` take a tensor."""

    metric: Metric

    name: ClassVar[str]
    kind: ClassVar[Literal["numbers", "maps", "rankings"]] = "numbers"
    # distillation loss between student and teacher
    distillation: ClassVar[Literal["kl", "bce", "mse", "exclusive", "cosine"]]
    # kind of second-level model, see src/ensemble
    stacking: ClassVar[Literal["classes", "labels", "values", "pixels", "pairs"]]
    scaled: ClassVar[bool] = False  # whether targets are standardised for training

    @classmethod
    def create(cls, config: Config, metric: Metric) -> Task:
        """Create the task from the config."""
        return cls(metric)

    @abstractmethod
    def describe(self, targets: pd.DataFrame) -> dict[str, Any]:
        """What later stages must know of the labels, as JSON: at least `outputs`, the names of the C outputs,
        and `counts`, which the summary shows."""

    @abstractmethod
    def check_targets(self, targets: pd.DataFrame, path: Path) -> None:
        """Raise `UserError`, with file and row, for an invalid label."""

    @abstractmethod
    def strata(self, targets: pd.DataFrame) -> np.ndarray:
        """What stratified folds balance: (N,) integer classes, or (N, L) zeros and ones."""

    @abstractmethod
    def encode(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """Labels as training targets (N, C) float32."""

    @abstractmethod
    def truth(self, targets: pd.DataFrame, outputs: list[str]) -> Any:
        """Labels in the form that the metric takes."""

    @abstractmethod
    def activate(self, raw: Any) -> Any:
        """Activation: (N, C) raw outputs (logits, or regression values in the targets' units), a tensor, to
        predictions of the same shape."""

    @abstractmethod
    def select(self, predictions: Any, spread: np.ndarray | None, settings: Pseudo) -> Selection:
        """Pseudo-label selection: the rows whose predictions are confident enough. `spread` (N,) is the
        spread over the TTA views."""

    @abstractmethod
    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """Raise `UserError` if the columns of the sample submission cannot be filled from the outputs of this
        task."""

    @abstractmethod
    def submission(
        self, predictions: Any, sample: pd.DataFrame, id_column: str, dataset: dict[str, Any]
    ) -> pd.DataFrame:
        """Predictions as a table with the columns and the row order of the sample submission. If the metric
        needs decisions, `predictions` are decisions (integers). `dataset` is the result of `describe`."""

    @abstractmethod
    def check_values(self, table: pd.DataFrame, columns: list[str], dataset: dict[str, Any]) -> None:
        """Raise `UserError` for an invalid value of a submission: an unknown class, or not a number.
        `dataset` is the result of `describe`."""

    def score(self, targets: Any, predictions: Any) -> float:
        """The competition's metric."""
        return self.metric(targets, predictions)

    def compact(self, said: Any) -> np.ndarray:
        """A batch of activated outputs in the compact form in which it is kept until all batches are
        predicted."""
        return said.cpu().numpy()

    def gathered(self, batches: list[np.ndarray], outputs: list[str]) -> Any:
        """The predictions of all batches, joined."""
        import numpy as np

        return np.concatenate(batches)

    def write(self, predictions: Any, outputs: list[str]) -> pd.DataFrame:
        """Predictions, or targets of a `Selection`, as columns of a prediction table."""
        import pandas as pd

        return pd.DataFrame(predictions, columns=outputs)

    def columns(self, outputs: list[str]) -> tuple[str, ...]:
        """The names of the columns that `write` makes."""
        return tuple(outputs)

    def read(self, table: pd.DataFrame, outputs: list[str]) -> Any:
        """The inverse of `write`: the predictions, or targets, from the columns of a table."""
        return table[outputs].to_numpy()

    def mean(self, several: list[Any]) -> Any:
        """The mean of several models' predictions for the same rows."""
        import numpy as np

        return np.mean(several, axis=0, dtype=np.float64).astype(np.float32)

    def hard_targets(self, table: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(n, L) hard targets of pseudo-labelled rows as numbers, to compare and to count."""
        return self.read(table, outputs).astype("float64")


def targets_in(table: pd.DataFrame) -> pd.DataFrame:
    """The target columns of folds.csv or of an OOF table, under their original names."""
    names = [c for c in table.columns if c == "target" or c.startswith(TARGET_PREFIX)]
    return table[names].rename(columns=lambda name: name.removeprefix(TARGET_PREFIX))


def as_target_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The inverse of `targets_in`: a single target is called `target`, several keep their names behind a
    prefix."""
    if table.shape[1] == 1:
        return table.set_axis(["target"], axis=1)
    return table.rename(columns=lambda name: TARGET_PREFIX + name)


def check_filled(targets: pd.DataFrame, path: Path, example: str) -> None:
    """Raise `UserError` for the first row with an empty target, or with `nan` in a numeric column."""
    import pandas as pd

    for column in targets.columns:
        text = targets[column].str.strip()
        missing = text == ""
        nan = text.str.lower() == "nan"  # in a text column `nan` may be a class
        if nan.any() and pd.to_numeric(text[~nan & ~missing], errors="coerce").notna().all():
            missing |= nan
        if missing.any():
            row = int(missing.to_numpy().argmax())
            good = example if missing.all() else targets[column][~missing].iloc[0]
            what = f"is {text.iloc[row]!r}" if text.iloc[row] else "is empty"
            raise UserError(
                f"{path}, row {line_of(path, row)}: `{column}` {what} in {int(missing.sum())} row(s); every "
                f"training row needs a label, such as {good!r}; fill it in or take such rows out of a copy "
                f"of the file, and name the copy in data.train_csv"
            )


def _number(label: str) -> float | None:
    """The label as a number, or None if it is not numeric."""
    try:
        return float(label)
    except ValueError:
        return None


def is_ours(name: str) -> bool:
    """Whether a name is reserved for a column of the prediction tables, so that no output can have it."""
    return name in OUR_COLUMNS or name.startswith(TARGET_PREFIX)


def check_classes(labels: pd.Series, path: Path) -> None:
    """Raise `UserError` for the first row whose class has a reserved column name, or is a number that other
    rows write differently (1 and 1.0)."""
    numbers: dict[float, str] = {}
    for label in labels.unique():
        number = _number(label)
        other = label if number is None else numbers.setdefault(number, label)
        if ("." in label) != ("." in other):
            first, second = (
                line_of(path, int((labels == one).to_numpy().argmax())) for one in (other, label)
            )
            raise UserError(
                f"{path}, row {second}: the class is {label!r}, in row {first} it is {other!r}, the same "
                f"number; write it in one way in a copy of the file, and name the copy in data.train_csv"
            )
    taken = labels.map(is_ours).to_numpy(dtype=bool)
    if taken.any():
        row = int(taken.argmax())
        line = line_of(path, row)
        raise UserError(f"{path}, row {line}: a class is called {labels.iloc[row]!r}, {RENAME}")


def check_target_names(targets: pd.DataFrame, path: Path) -> None:
    """Raise `UserError` for a target that has a reserved column name."""
    taken = [name for name in targets.columns if is_ours(name)]
    if taken:
        raise UserError(f"{path}: a target is called {taken[0]!r}, {RENAME}")


def say_unknown(columns: list[str], outputs: list[str], path: Path) -> None:
    """Print which columns of the sample submission no training row has; they are filled with 0."""
    unknown = [column for column in columns if column not in outputs]
    if unknown:
        shown = ", ".join(unknown[:6]) + (f", … ({len(unknown)} in all)" if len(unknown) > 6 else "")
        print(f"{path}: no training row has {shown}; the submission holds 0 there", flush=True)


def in_order(labels: list[str]) -> list[str]:
    """Labels sorted as numbers if all are numeric (10.0 comes after 2.0), otherwise as text."""
    import re

    numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in labels)
    return sorted(labels, key=(lambda label: (float(label), label)) if numbers else None)


def check_probabilities(table: pd.DataFrame, columns: list[str]) -> None:
    """Raise `UserError` for the first value of a submission that is not a number from 0 to 1."""
    import pandas as pd

    values = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy("float64")
    wrong = ~((values >= 0) & (values <= 1))  # NaN fails both comparisons
    if wrong.any():
        row, column = (int(i[0]) for i in wrong.nonzero())
        shown = table[columns[column]].tolist()[row]
        raise UserError(f"row {row + 2} of the submission, `{columns[column]}`: {shown!r} is no probability")
