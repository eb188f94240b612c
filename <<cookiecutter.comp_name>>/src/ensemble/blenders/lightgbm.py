"""LightGBM blender over the outputs (Ke et al. 2017). Its training examples are built in trees.py, its
settings are in ensemble/boosting.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import lightgbm as lgb
import numpy as np

from src.ensemble.blenders.base import LevelData
from src.ensemble.blenders.trees import Examples, Trees
from src.ensemble.boosting import fit_booster


class LightGBMEngine:
    """LightGBM as a `BoostingEngine`."""

    def grow(
        self,
        train: Examples,
        watch: Examples | None,
        rounds: int,
        level: LevelData,
        free: int,
        categories: tuple[int, ...],
    ) -> tuple[lgb.Booster, int]:
        """A booster, and its number of rounds or the round at which it stopped early."""
        train, watch = _dataset(train), None if watch is None else _dataset(watch)
        booster = fit_booster(train, watch, rounds, level.kind, level.settings, level.seed, free, categories)
        return booster, (booster.best_iteration or rounds) if watch is not None else rounds

    def raw(self, booster: lgb.Booster, features: np.ndarray) -> np.ndarray:
        """What the trees add to the start (n,)."""
        return booster.predict(features, raw_score=True)

    def written(self, booster: lgb.Booster) -> str:
        """The booster as LightGBM's model text."""
        return booster.model_to_string()

    def read(self, stored: str) -> lgb.Booster:
        """Rebuild from the output of `written`."""
        return lgb.Booster(model_str=stored)


def _dataset(examples: Examples) -> tuple[np.ndarray | None, ...]:
    features, answers, start = examples
    return features, answers, None, None, start  # no weights and no groups


@dataclass(frozen=True)
class LightGBM(Trees):
    """Fitted LightGBM boosters."""

    engine: ClassVar[LightGBMEngine] = LightGBMEngine()

    def gain(self, features: int) -> np.ndarray:
        """Feature importance by gain (features,), summed over boosters."""
        used = [b.feature_importance("gain")[:features] for b in self.boosters if b is not None]
        return np.sum(used, axis=0) if used else np.zeros(features)


def fit(level: LevelData) -> LightGBM:
    """Fit one booster per output, or one for all classes."""
    return LightGBM.fitted(level)
