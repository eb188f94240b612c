"""LightGBM over the outputs (Ke et al. 2017); what it learns from is in trees.py, its settings in
ensemble/boosting.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np

from src.ensemble.boosting import boost
from src.ensemble.rivals.base import Level
from src.ensemble.rivals.trees import Examples, Trees, grow_all


@dataclass(frozen=True)
class LightGBM(Trees):
    """Fitted LightGBM boosters."""

    def as_json(self) -> dict[str, Any]:
        """Kind, rounds and LightGBM's own texts."""
        texts = [booster.model_to_string() for booster in self.boosters]
        return {"kind": self.kind, "rounds": list(self.rounds), "boosters": texts}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> LightGBM:
        """What `as_json` gave."""
        boosters = [lgb.Booster(model_str=text) for text in stored["boosters"]]
        return cls(stored["kind"], boosters, lgb.Booster.predict, tuple(stored["rounds"]))

    def gain(self) -> np.ndarray:
        """(F,) how much each feature was used, summed over boosters."""
        return np.sum([booster.feature_importance("gain") for booster in self.boosters], axis=0)


def fit(level: Level) -> LightGBM:
    """A booster an output, or one for all classes."""
    boosters, rounds = grow_all(level, grow)
    return LightGBM(level.kind, boosters, lgb.Booster.predict, rounds)


def grow(
    train: Examples,
    watch: Examples | None,
    rounds: int,
    level: Level,
    free: int,
    categories: tuple[int, ...],
) -> tuple[lgb.Booster, int]:
    """A booster, and the rounds it has or was stopped at."""
    booster = boost(train, watch, rounds, level.kind, level.settings, level.seed, free, categories)
    return booster, (booster.best_iteration or rounds) if watch is not None else rounds
