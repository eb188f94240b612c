"""Blenders without parameters: the mean of the members' predictions, and the mean of their ranks (rank
averaging)."""

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
        """Mean over members: (M, N, C) to (N, C)."""
        return said.mean(0, dtype=np.float64)

    def as_json(self) -> dict[str, Any]:
        """An empty dictionary: there are no parameters."""
        return {}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Mean:
        """Rebuild from the output of `as_json`."""
        return cls()


@dataclass(frozen=True)
class RankMean(Mean):
    """Rank averaging: the mean of the members' ranks in (0, 1), column by column, among the rows predicted
    together (one fold, or the test set). For ranking metrics only, since a rank is not a probability."""

    of_the_set: ClassVar[bool] = True

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """Mean of ranks: (M, N, C) to (N, C)."""
        return rank_mean(said)


def fit_mean(level: LevelData) -> Mean:
    """The mean; it has no parameters to fit."""
    return Mean()


def fit_rank_mean(level: LevelData) -> RankMean:
    """The mean of ranks; it has no parameters to fit."""
    return RankMean()
