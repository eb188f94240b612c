"""What needs no learning: the mean of the members' predictions, and the mean of their ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from src.ensemble.blenders.base import LevelData
from src.inference.average import rank_mean


@dataclass(frozen=True)
class Mean:
    """The plain mean of M members' predictions."""

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """(M, N, C) to (N, C)."""
        return said.mean(0, dtype=np.float64)

    def as_json(self) -> dict[str, Any]:
        """Nothing is needed."""
        return {}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Mean:
        """What `as_json` gave."""
        return cls()


@dataclass(frozen=True)
class RankMean(Mean):
    """The mean of the members' ranks in (0, 1), column by column, among the rows that are asked together: a
    fold's, or the test set's. For metrics of order: a rank is no probability."""

    of_the_set: ClassVar[bool] = True

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """(M, N, C) to (N, C)."""
        return rank_mean(said)


def fit_mean(level: LevelData) -> Mean:
    """There is nothing to fit."""
    return Mean()


def fit_rank_mean(level: LevelData) -> RankMean:
    """There is nothing to fit."""
    return RankMean()
