"""LightGBM as a second level (stacking), with monotone constraints on the members' predictions.

The prediction of an output may only rise with each member's prediction of that output. This protects against
leakage as well as against overfitting on little data: OOF columns of the other folds contain information
about the scored fold's labels, and an unconstrained second level is above chance on pure noise under CV on
the same folds (docs/decisions.md of the template). `stack.monotone=false` removes the constraint.

This module holds what outputs (blenders/lightgbm.py), pixels (pixels.py) and pairs (pairs.py) have in common.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm as lgb
import numpy as np

from src.config import Stack

PixelExamples = tuple[np.ndarray, ...]  # features (n, F), targets (n,), and optionally weights (n,)


@dataclass(frozen=True)
class Stacker:
    """Fitted LightGBM boosters over pixels or over pairs."""

    kind: str
    boosters: list[lgb.Booster]

    def as_json(self) -> dict:
        """Kind and LightGBM model texts, for a JSON file that a kernel can read."""
        return {"kind": self.kind, "boosters": [booster.model_to_string() for booster in self.boosters]}

    @classmethod
    def from_json(cls, value: dict) -> Stacker:
        """Rebuild from the output of `as_json`."""
        return cls(value["kind"], [lgb.Booster(model_str=text) for text in value["boosters"]])

    def gain(self) -> np.ndarray:
        """Feature importance by gain (F,), summed over boosters."""
        return np.sum([booster.feature_importance("gain") for booster in self.boosters], axis=0)


def fit_booster(
    train: PixelExamples,
    watch: PixelExamples | None,
    rounds: int,
    kind: str,
    settings: Stack,
    seed: int,
    free: int = 0,
    categories: tuple[int, ...] = (),
) -> lgb.Booster:
    """Fit one booster for exactly `rounds` rounds, or with early stopping on `watch`. The last `free`
    features are not members' predictions and have no monotone constraint; `categories` are the indices of
    categorical columns among them."""
    members = train[0].shape[1] - free
    parameters = {
        "objective": "regression" if kind == "values" else "binary",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.num_leaves,
        "min_data_in_leaf": settings.min_data_in_leaf,
        "lambda_l2": 1.0,
        "monotone_constraints": [int(settings.monotone)] * members + [0] * free,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1 if train[0].size < 100_000 else 0,  # two threads on tiny data spin for minutes
        "verbose": -1,
    }
    if not settings.monotone:
        del parameters["monotone_constraints"]
    data = _dataset(train, categories=categories)
    if watch is None:
        return lgb.train(parameters, data, rounds)
    stop = lgb.early_stopping(settings.patience, verbose=False)
    return lgb.train(
        parameters, data, rounds, valid_sets=[_dataset(watch, data, categories)], callbacks=[stop]
    )


def _dataset(
    examples: PixelExamples, reference: lgb.Dataset | None = None, categories: tuple[int, ...] = ()
) -> lgb.Dataset:
    features, answers, *weights = examples
    return lgb.Dataset(features, answers, reference, *weights, categorical_feature=list(categories))


def early_stopping_rounds(train: PixelExamples, watch: PixelExamples, settings: Stack, seed: int) -> int:
    """Number of rounds at which a binary booster stops improving on `watch` (early stopping)."""
    found = fit_booster(train, watch, settings.max_rounds, "labels", settings, seed)
    return found.best_iteration or settings.max_rounds
