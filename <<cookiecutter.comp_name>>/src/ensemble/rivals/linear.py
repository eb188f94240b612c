"""Ridge and logistic regression over the members, with weights that are not below 0 and drawn to the mean.

The penalty pulls each weight to 1 / M, so that a strong one gives the mean (of log-odds, for probabilities)
and little data changes little. A weight below 0 would learn what is not there, see trap 5 in docs/tricks.md:
OOF columns lean away from their own fold's labels. Breiman 1996, Stacked Regressions, wants the same for
another reason.

- `classes`: softmax of the members' weighted log-probabilities and a bias a class.
- `labels`: a logistic regression a label, of the members' log-odds of it.
- `values`: a ridge regression a target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.ensemble.rivals.base import EPSILON, Kind, Level, log_odds, loss

PENALTIES = (1.0, 10.0, 100.0, 1000.0)  # of a sum of losses; scikit-learn's C is 1 / penalty
USUAL = 100.0  # where there is no fold to choose by
FLOOR = 0.25  # of an even share: no member is weighed less
CHOICE_ROWS = 20_000  # from here on the penalty hardly counts


@dataclass(frozen=True)
class Linear:
    """Weights (M, C), or (M, 1) shared by classes, and biases (C,)."""

    kind: Kind
    weights: np.ndarray
    bias: np.ndarray

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """(M, N, C) to (N, C)."""
        total = np.einsum("mnc,mc->nc", terms(said, self.kind), self._full(said.shape[2])) + self.bias
        return _activated(total, self.kind)

    def _full(self, outputs: int) -> np.ndarray:
        return np.broadcast_to(self.weights, (len(self.weights), outputs))

    def as_json(self) -> dict[str, Any]:
        """Kind, weights and biases."""
        return {"kind": self.kind, "weights": self.weights.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Linear:
        """What `as_json` gave."""
        return cls(stored["kind"], np.array(stored["weights"]), np.array(stored["bias"]))


def terms(said: np.ndarray, kind: Kind) -> np.ndarray:
    """(M, N, C) what is weighted: log-probabilities of classes, log-odds of labels, numbers."""
    said = said.astype(np.float64)
    if kind == "values":
        return said
    return np.log(np.maximum(said, EPSILON)) if kind == "classes" else log_odds(said)


def fit(level: Level) -> Linear:
    """The penalty whose loss on the watched folds is lowest, then all rows."""
    chosen = level.sample(CHOICE_ROWS)
    pairs = list(chosen.inner())
    losses = [
        [
            loss(level.kind, watched.targets, fit_one(learned, p).apply(watched.oof))
            for learned, watched in pairs
        ]
        for p in PENALTIES
    ]
    best = PENALTIES[int(np.argmin(np.sum(losses, axis=1)))] if pairs else USUAL
    return fit_one(level, best)


def fit_one(level: Level, penalty: float) -> Linear:
    """With a given penalty: the lowest sum of losses and penalty / 2 * (squared distance of the weights from
    1 / M, and of classes also their squared biases)."""
    x = terms(level.oof, level.kind)  # (M, N, C)
    if level.kind == "classes":
        return Linear("classes", *_softmax(x, level.targets, penalty))
    columns = []
    for c in range(x.shape[2]):
        known = ~np.isnan(level.targets[:, c])
        solve = _least_squares if level.kind == "values" else _logistic
        columns.append(solve(x[:, known, c], level.targets[known, c].astype(np.float64), penalty))
    weights, bias = (np.stack(part, axis=-1) for part in zip(*columns, strict=True))
    return Linear(level.kind, weights, bias)


def _least_squares(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """(M,) weights and the bias, by Lawson and Hanson's non-negative least squares; the penalty is in units
    of the target's variance."""
    from scipy.optimize import nnls

    members, mean = len(x), x.mean(1)
    centred, target = x - mean[:, None], y - y.mean()
    gram = centred @ centred.T + penalty * (target.var() + 1e-12) * np.eye(members)
    right = centred @ target + penalty * (target.var() + 1e-12) / members
    root = np.linalg.cholesky(gram)  # |root.T w - b|^2 differs from what is minimised by a constant
    floor = np.full(members, FLOOR / members)  # what lies above it is not negative
    weights = floor + nnls(root.T, np.linalg.solve(root, right) - root.T @ floor)[0]
    return weights, np.array(y.mean() - weights @ mean)


def _logistic(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """(M,) weights and the bias of a label; a label that all rows share keeps the mean and no bias."""
    if len(y) == 0 or y.min() == y.max():
        return np.full(len(x), 1 / len(x)), np.array(0.0)

    def value(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        score = parameters[:-1] @ x + parameters[-1]
        miss = _activated(score, "labels") - y
        return float((np.logaddexp(0, score) - y * score).sum()), np.append(x @ miss, miss.sum())

    found = _minimum(value, len(x), 1, penalty, free=1)
    return found[:-1], np.array(found[-1])


def _softmax(x: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """(M, 1) weights and (C,) biases."""
    members, _, outputs = x.shape

    def value(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        score = np.tensordot(parameters[:members], x, axes=1) + parameters[members:]
        p = _activated(score, "classes")
        miss = p - targets  # (N, C)
        lost = -(targets * np.log(np.maximum(p, 1e-300))).sum()
        return float(lost), np.append(np.tensordot(x, miss, axes=2), miss.sum(0))

    found = _minimum(value, members, outputs, penalty)
    return found[:members, None], found[members:]


def _minimum(
    value: Callable[[np.ndarray], tuple[float, np.ndarray]],
    members: int,
    biases: int,
    penalty: float,
    free: int = 0,
) -> np.ndarray:
    """The minimum of a convex loss and the penalty, weights first, by L-BFGS-B; the last `free` are not
    penalised."""
    from scipy.optimize import minimize

    start = np.append(np.full(members, 1 / members), np.zeros(biases))
    pulled = np.append(np.ones(members + biases - free), np.zeros(free))

    def whole(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        lost, slope = value(parameters)
        away = pulled * (parameters - start)
        return lost + penalty / 2 * away @ away, slope + penalty * away

    bounds = [(FLOOR / members, None)] * members + [(None, None)] * biases
    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-6}
    return minimize(whole, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


def _activated(score: np.ndarray, kind: Kind) -> np.ndarray:
    if kind == "values":
        return score
    if kind == "labels":
        return 1 / (1 + np.exp(-np.clip(score, -700, 700)))
    score = np.exp(score - score.max(1, keepdims=True))
    return score / score.sum(1, keepdims=True)
