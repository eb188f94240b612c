"""What every task answers. Shapes: N rows, C outputs; a prediction is the activated output, (N, C)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from src.metrics import Metric

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Task(ABC):
    """One kind of competition. Everything works on numpy arrays, except `activate`, which is given a
    tensor."""

    metric: Metric

    name: ClassVar[str]
    default_loss: ClassVar[str]  # a name of `src/losses`

    @abstractmethod
    def describe(self, targets: pd.Series) -> dict[str, Any]:
        """What later stages must know of the labels, as JSON: at least `outputs`, the names of the C
        outputs."""

    @abstractmethod
    def check_targets(self, table: pd.DataFrame, column: str, path: Path) -> None:
        """Raise `UserError`, with file and row, where a label cannot be right."""

    @abstractmethod
    def strata(self, targets: pd.Series) -> np.ndarray:
        """(N,) integers that stratified folds should balance."""

    @abstractmethod
    def encode(self, targets: pd.Series, outputs: list[str]) -> np.ndarray:
        """Labels as (N, C) float32 training targets."""

    @abstractmethod
    def truth(self, targets: pd.Series, outputs: list[str]) -> np.ndarray:
        """Labels as the metric wants them."""

    @abstractmethod
    def activate(self, logits: Any) -> Any:
        """(N, C) logits, a tensor, to predictions of the same shape."""

    @abstractmethod
    def confidence(self, predictions: np.ndarray) -> np.ndarray:
        """(N,) numbers in [0, 1]: how sure each prediction is, for the pseudo-label threshold."""

    @abstractmethod
    def harden(self, predictions: np.ndarray) -> np.ndarray:
        """Predictions to the (N, C) targets they stand for."""

    @abstractmethod
    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """Raise `UserError` where the sample submission's columns cannot be filled from this task's
        outputs."""

    @abstractmethod
    def submission(
        self, predictions: np.ndarray, sample: pd.DataFrame, id_column: str, outputs: list[str]
    ) -> pd.DataFrame:
        """Predictions (N, C), in the sample's row order, as a table with the sample's columns."""

    def score(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """The competition's metric."""
        return self.metric(targets, predictions)
