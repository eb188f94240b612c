"""LightGBM as a second level, monotone in every member's own opinion.

It may only rise with each member's word on the output at hand. That is there for honesty as much as for small
data: OOF columns of the other folds know the scored fold's labels, and a free level-2 model is above
chance on pure noise under cross-validation on the same folds (docs/decisions.md of the template).
`stack.monotone=false` lets it go.

Here is what outputs (blenders/lightgbm.py), pixels (pixels.py) and pairs (pairs.py) have in common.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm as lgb
import numpy as np

from src.config import Stack

PixelExamples = tuple[np.ndarray, ...]  # features (n, F), answers (n,), and perhaps weights (n,)


@dataclass(frozen=True)
class Stacker:
    """Fitted boosters of pixels or of pairs."""

    kind: str
    boosters: list[lgb.Booster]

    def as_json(self) -> dict:
        """Kind and LightGBM texts, for a JSON file that a kernel can read."""
        return {"kind": self.kind, "boosters": [booster.model_to_string() for booster in self.boosters]}

    @classmethod
    def from_json(cls, value: dict) -> Stacker:
        """What `as_json` gave."""
        return cls(value["kind"], [lgb.Booster(model_str=text) for text in value["boosters"]])

    def gain(self) -> np.ndarray:
        """(F,) how much each feature was used, summed over boosters."""
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
    """One booster of exactly `rounds`, or of fewer where it no longer gains on `watch`. The last `free`
    features are no member's word, and may speak either way; `categories` are columns of codes among them."""
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
        "num_threads": 1 if train[0].size < 100_000 else 0,  # two threads on tiny data spun for minutes
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
    """The rounds at which a booster of yes and no stops to gain on `watch`."""
    found = fit_booster(train, watch, settings.max_rounds, "labels", settings, seed)
    return found.best_iteration or settings.max_rounds
