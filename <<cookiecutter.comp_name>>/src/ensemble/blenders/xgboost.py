"""XGBoost blender over the outputs (Chen, Guestrin 2016), if xgboost is installed. Its training examples are
built in trees.py.

XGBoost is not a requirement of the project: Kaggle's image has it, and `pip install xgboost` adds it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from src.config import UserError
from src.ensemble.blenders.base import LevelData
from src.ensemble.blenders.trees import Examples, Trees


def library() -> Any:
    """The xgboost module. Raises `UserError` if it is not installed."""
    try:
        import xgboost
    except ImportError:
        raise UserError(
            "stack.blenders names xgboost, which is not installed here; run `pip install xgboost`, or take "
            "it out of stack.blenders"
        ) from None
    return xgboost


class XGBoostEngine:
    """XGBoost as a `BoostingEngine`."""

    def grow(
        self,
        train: Examples,
        watch: Examples | None,
        rounds: int,
        level: LevelData,
        free: int,
        categories: tuple[int, ...],
    ) -> tuple[Any, int]:
        """A booster, and its number of rounds or the round at which it stopped early. Category codes are used
        as numbers, which small trees split into ranges."""
        xgboost, settings = library(), level.settings
        own = train[0].shape[1] - free
        parameters = {
            "objective": "reg:squarederror" if level.kind == "values" else "binary:logistic",
            "eval_metric": "rmse" if level.kind == "values" else "logloss",
            "eta": settings.learning_rate,
            "tree_method": "hist",
            "grow_policy": "lossguide",
            "max_depth": 0,
            "max_leaves": settings.num_leaves,
            # the hessian of a value is 1, of a binary target p (1 - p): an eighth at p = .85
            "min_child_weight": settings.min_data_in_leaf / (1 if level.kind == "values" else 8),
            "lambda": 1.0,
            "monotone_constraints": str((int(settings.monotone),) * own + (0,) * free),
            "seed": level.seed,
            "nthread": 1 if train[0].size < 100_000 else 0,
            "verbosity": 0,
        }
        data = _dataset(train)
        if watch is None:
            return xgboost.train(parameters, data, rounds), rounds
        found = xgboost.train(
            parameters,
            data,
            rounds,
            evals=[(_dataset(watch), "watched")],
            early_stopping_rounds=settings.patience,
            verbose_eval=False,
        )
        return found[: found.best_iteration + 1], found.best_iteration + 1

    def raw(self, booster: Any, features: np.ndarray) -> np.ndarray:
        """What the trees add to the start (n,)."""
        nothing = np.zeros(len(features))
        return booster.predict(library().DMatrix(features, base_margin=nothing), output_margin=True)

    def written(self, booster: Any) -> dict[str, Any]:
        """The booster as XGBoost's JSON."""
        return json.loads(booster.save_raw("json").decode())

    def read(self, stored: dict[str, Any]) -> Any:
        """Rebuild from the output of `written`."""
        booster = library().Booster()
        booster.load_model(bytearray(json.dumps(stored).encode()))
        return booster


def _dataset(examples: Examples) -> Any:
    features, answers, start = examples
    return library().DMatrix(features, answers, base_margin=start)


@dataclass(frozen=True)
class XGBoost(Trees):
    """Fitted XGBoost boosters."""

    engine: ClassVar[XGBoostEngine] = XGBoostEngine()


def fit(level: LevelData) -> XGBoost:
    """Fit one booster per output, or one for all classes. Raises `UserError` if xgboost is not installed."""
    library()
    return XGBoost.fitted(level)
