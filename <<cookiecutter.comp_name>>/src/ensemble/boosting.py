"""LightGBM as a second level, monotone in every member's own opinion.

It may only rise with each member's word on the output at hand. That is there for honesty as much as for small
data: a free level-2 model learns that OOF predictions lean away from their own fold's labels, and scores .53
AUC on pure noise under cross-validation on the same folds; this one stays at .50 within its error.

- `classes` (they add to 1): one booster over (row, class) examples, the members' log-odds of that class.
- `labels` (each on its own): a booster a label, the members' log-odds of it.
- `values` (numbers): a booster a target, the members' numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm as lgb
import numpy as np

from src.config import Stack

EPSILON = 1e-5  # probabilities are clipped here before their log-odds
Examples = tuple[np.ndarray, ...]  # features (n, M), answers (n,), and perhaps weights (n,)


@dataclass(frozen=True)
class Stacker:
    """Fitted boosters; `apply` takes (M, N, C) member predictions to (N, C) stacked ones."""

    kind: str
    boosters: list[lgb.Booster]

    def apply(self, oof: np.ndarray) -> np.ndarray:
        """Stacked predictions; rows of `classes` add to 1."""
        _, n, c = oof.shape
        if self.kind == "classes":
            values = self.boosters[0].predict(features(oof)).reshape(n, c)
            return values / values.sum(1, keepdims=True)
        columns = [b.predict(column(oof, i, self.kind)) for i, b in enumerate(self.boosters)]
        return np.stack(columns, axis=1)

    def as_json(self) -> dict:
        """Kind and LightGBM texts, for a JSON file that a kernel can read."""
        return {"kind": self.kind, "boosters": [booster.model_to_string() for booster in self.boosters]}

    @classmethod
    def from_json(cls, value: dict) -> Stacker:
        """What `as_json` gave."""
        return cls(value["kind"], [lgb.Booster(model_str=text) for text in value["boosters"]])

    def gain(self) -> np.ndarray:
        """(M,) how much each member was used, summed over boosters."""
        return np.sum([booster.feature_importance("gain") for booster in self.boosters], axis=0)


def stack_oof(
    oof: np.ndarray, targets: np.ndarray, fold: np.ndarray, kind: str, settings: Stack, seed: int
) -> tuple[np.ndarray, list[int]]:
    """(N, C) stacked predictions, each row by boosters that saw no row of its fold; and the rounds for a last
    fit.

    `oof` is (M, N, C), `targets` (N, C), NaN where unknown. Rounds are stopped on another of the training
    folds, never on the scored one.
    """
    result, rounds = np.empty_like(oof[0]), []
    names = np.unique(fold)
    for place, held_out in enumerate(names):
        scored, watched = fold == held_out, fold == names[(place + 1) % len(names)]
        if len(names) > 2:
            learned = ~scored & ~watched
            stopper = oof[:, watched], targets[watched]
            first = fit(oof[:, learned], targets[learned], kind, settings, seed, None, stopper)
            rounds.append([b.best_iteration or settings.max_rounds for b in first.boosters])
        else:
            rounds.append([settings.max_rounds] * (1 if kind == "classes" else oof.shape[2]))
        last = fit(
            oof[:, ~scored], targets[~scored], kind, settings, seed, rounds[-1]
        )  # the watched teach too
        result[scored] = last.apply(oof[:, scored])
    return result, np.median(rounds, axis=0).astype(int).tolist()


def fit(
    oof: np.ndarray,
    targets: np.ndarray,
    kind: str,
    settings: Stack,
    seed: int,
    rounds: list[int] | None,
    stopper: tuple[np.ndarray, np.ndarray] | None = None,
) -> Stacker:
    """Fit the boosters for given `rounds`; or, with `stopper` (oof, targets), until they no longer gain on
    it."""
    train = examples(oof, targets, kind)
    watch = examples(*stopper, kind) if stopper is not None else [None] * len(train)
    wanted = rounds or [settings.max_rounds] * len(train)
    each = zip(train, watch, wanted, strict=True)
    return Stacker(kind, [boost(t, w, n, kind, settings, seed) for t, w, n in each])


def boost(
    train: Examples, watch: Examples | None, rounds: int, kind: str, settings: Stack, seed: int
) -> lgb.Booster:
    """One booster of exactly `rounds`, or of fewer where it no longer gains on `watch`."""
    parameters = {
        "objective": "regression" if kind == "values" else "binary",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.num_leaves,
        "min_data_in_leaf": settings.min_data_in_leaf,
        "lambda_l2": 1.0,
        "monotone_constraints": [1] * train[0].shape[1],
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1 if train[0].size < 100_000 else 0,  # two threads on tiny data spun for minutes
        "verbose": -1,
    }
    data = _dataset(train)
    if watch is None:
        return lgb.train(parameters, data, rounds)
    stop = lgb.early_stopping(settings.patience, verbose=False)
    return lgb.train(parameters, data, rounds, valid_sets=[_dataset(watch, data)], callbacks=[stop])


def _dataset(examples: Examples, reference: lgb.Dataset | None = None) -> lgb.Dataset:
    features, answers, *weights = examples
    return lgb.Dataset(features, answers, reference, *weights)


def early_stopped(train: Examples, watch: Examples, settings: Stack, seed: int) -> int:
    """The rounds at which a booster of yes and no stops to gain on `watch`."""
    found = boost(train, watch, settings.max_rounds, "labels", settings, seed)
    return found.best_iteration or settings.max_rounds


def examples(oof: np.ndarray, targets: np.ndarray, kind: str) -> list[Examples]:
    """The training set of each booster: (n, M) features and (n,) answers, rows with an unknown answer left
    out."""
    if kind == "classes":
        return [(features(oof), targets.ravel())]
    known = ~np.isnan(targets)
    columns = range(oof.shape[2])
    return [(column(oof, i, kind)[known[:, i]], targets[known[:, i], i]) for i in columns]


def features(oof: np.ndarray) -> np.ndarray:
    """(M, N, C) probabilities to (N * C, M) log-odds."""
    return log_odds(oof).reshape(len(oof), -1).T


def column(oof: np.ndarray, output: int, kind: str) -> np.ndarray:
    """(N, M) the members' word on one output: log-odds, or numbers."""
    return (oof[:, :, output] if kind == "values" else log_odds(oof[:, :, output])).T


def log_odds(p: np.ndarray) -> np.ndarray:
    """The logarithm of p / (1 - p), finite."""
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return np.log(p / (1 - p))
