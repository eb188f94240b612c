"""Ridge and logistic regression over the members with non-negative weights that sum to 1, shrunk to equal
weights and scaled by the slope of the calibrated mean (see calibration.py).

Unconstrained weights fit leaked information: OOF columns contain the labels of the scored fold, see "The
stack is monotone" in docs/decisions.md. Convex weights can only express which members to trust more. Breiman
1996, Stacked Regressions, uses them for another reason.

- `classes`: softmax of the weighted log-probabilities with a bias per class.
- `labels`: one logistic regression per label, on the members' log-odds of it.
- `values`: one regression per target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.ensemble.blenders import calibration
from src.ensemble.blenders.base import Kind, LevelData, loss
from src.ensemble.blenders.calibration import activated, terms

# Relative to a sum of losses. With a weaker penalty the weights would fit noise on a few hundred rows, see
# test_leaks.py. From a few thousand rows on, these penalties also let the better member take all the weight.
PENALTIES = (100.0, 1000.0)
USUAL = 100.0  # used if there is no fold to choose by
CHOICE_ROWS = 5_000  # with more rows the penalty hardly matters: the weakest is used
_ROWS = 20_000  # rows on which the weights are fitted


@dataclass(frozen=True)
class Linear:
    """Fitted weights (M, C), or (M, 1) shared by all classes, and biases (C,)."""

    kind: Kind
    weights: np.ndarray
    bias: np.ndarray

    def score(self, said: np.ndarray) -> np.ndarray:
        """Weighted logits or numbers: (M, N, C) to (N, C)."""
        return (terms(said, self.kind) * self.weights[:, None]).sum(0) + self.bias

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """Predictions: (M, N, C) to (N, C)."""
        return activated(self.score(said), self.kind)

    def as_json(self) -> dict[str, Any]:
        """Kind, weights and biases."""
        return {"kind": self.kind, "weights": self.weights.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Linear:
        """Rebuild from the output of `as_json`."""
        return cls(stored["kind"], np.array(stored["weights"]), np.array(stored["bias"]))


def fit(level: LevelData) -> Linear:
    """Choose the penalty with the lowest loss on held-out inner folds, then fit on all rows, or on `_ROWS` of
    them."""
    if len(level.oof) == 1 or len(level.fold) > CHOICE_ROWS:
        return fit_one(level.sample(_ROWS), PENALTIES[0])
    pairs, best = list(level.inner()), USUAL
    if pairs:
        losses = [[_loss(fit_one(one, p), watched) for one, watched in pairs] for p in PENALTIES]
        total = np.sum(losses, axis=1)
        best = PENALTIES[int(np.argmin(np.where(np.isnan(total), np.inf, total)))]
    return fit_one(level, best)


def start(level: LevelData) -> Linear:
    """The linear model that trees and networks start from, with the strongest shrinkage to the mean. On few
    rows it is the calibrated mean; on many rows it gives more weight to better members, which an additive
    correction cannot do."""
    return fit_one(level.sample(_ROWS), PENALTIES[-1])


def _loss(fitted: Linear, watched: LevelData) -> float:
    return loss(watched.kind, watched.targets, fitted.apply(watched.oof))


def fit_one(level: LevelData, penalty: float) -> Linear:
    """Fit with a given penalty: the convex weights that minimise the sum of losses plus penalty / 2 times the
    squared distance from equal weights. Values are in units of their variance."""
    x, start = terms(level.oof, level.kind), calibration.fit(level)  # (M, N, C)
    if level.kind == "classes":
        value = _softmax(x * start.slope, start.bias, level.targets)
        shares = _member_shares(value, len(x), penalty)[:, None]
    else:
        shares = np.empty((len(x), x.shape[2]))
        for c, (slope, bias) in enumerate(zip(start.slope, start.bias, strict=True)):
            known = ~np.isnan(level.targets[:, c])
            one = _square if level.kind == "values" else _logistic
            value = one(x[:, known, c] * slope, bias, level.targets[known, c].astype(np.float64))
            shares[:, c] = _member_shares(value, len(x), penalty)
    return Linear(level.kind, shares * start.slope, start.bias)


Value = Callable[[np.ndarray], tuple[float, np.ndarray]]  # maps weights to the sum of losses and its gradient


def _softmax(x: np.ndarray, bias: np.ndarray, targets: np.ndarray) -> Value:
    def value(shares: np.ndarray) -> tuple[float, np.ndarray]:
        p = activated(np.tensordot(shares, x, axes=1) + bias, "classes")
        lost = -(targets * np.log(np.maximum(p, 1e-300))).sum()
        return float(lost), np.tensordot(x, p - targets, axes=2)

    return value


def _logistic(x: np.ndarray, bias: float, y: np.ndarray) -> Value:
    def value(shares: np.ndarray) -> tuple[float, np.ndarray]:
        score = shares @ x + bias
        return float((np.logaddexp(0, score) - y * score).sum()), x @ (activated(score, "labels") - y)

    return value


def _square(x: np.ndarray, bias: float, y: np.ndarray) -> Value:
    """Squared error through the members' Gram matrix, so that the rows are read only once."""
    unit = y.var() + 1e-12
    products, right, rest = x @ x.T / unit, x @ (y - bias) / unit, (y - bias) @ (y - bias) / unit

    def value(shares: np.ndarray) -> tuple[float, np.ndarray]:
        slope = products @ shares - right
        return float(shares @ (slope - right) + rest) / 2, slope

    return value


def _member_shares(value: Value, members: int, penalty: float) -> np.ndarray:
    """The best convex weights (M,) by SLSQP (sequential least squares programming); equal weights if it
    fails."""
    from scipy.optimize import minimize

    even = np.full(members, 1 / members)
    if members == 1:
        return even

    def whole(shares: np.ndarray) -> tuple[float, np.ndarray]:
        lost, slope = value(shares)
        away = shares - even
        return (lost + penalty / 2 * away @ away) / unit, (slope + penalty * away) / unit

    unit = 1.0
    unit = max(abs(whole(even)[0]), 1e-12)
    found = minimize(
        whole,
        even,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda s: s.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 100, "ftol": 1e-10},
    ).x
    shares = np.clip(found, 0, None)
    good = np.isfinite(shares).all() and shares.sum() > 0
    return shares / shares.sum() if good else even
