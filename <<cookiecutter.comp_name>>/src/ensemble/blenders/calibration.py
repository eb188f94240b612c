"""Calibration: slope and bias for the mean of the members' predictions, or for a single prediction.

For classes it is temperature scaling with a bias per class (Guo, Pleiss, Sun, Weinberger 2017, On Calibration
of Modern Neural Networks; Alexandari, Kundaje, Shrikumar 2020), for labels Platt scaling (Platt 1999), for
values a linear fit. It is the starting point of every other blender, and it calibrates the kept candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.ensemble.blenders.base import EPSILON, Kind, LevelData, log_odds

SMALLEST_SLOPE = 0.05  # smallest slope: a prediction is never inverted nor discarded
PENALTY = 1.0  # on the squared distance from slope 1 and bias 0, relative to a sum of losses: worth one row


@dataclass(frozen=True)
class Calibration:
    """Fitted slope and bias: (C,) each for labels and values; one slope for all classes."""

    kind: Kind
    slope: np.ndarray
    bias: np.ndarray

    def score(self, said: np.ndarray) -> np.ndarray:
        """Calibrated logits or numbers: (M, N, C) to (N, C)."""
        return terms(said, self.kind).mean(0) * self.slope + self.bias

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """Calibrated predictions: (M, N, C) to (N, C)."""
        return activated(self.score(said), self.kind)

    def as_json(self) -> dict[str, Any]:
        """Kind, slopes and biases."""
        return {"kind": self.kind, "slope": self.slope.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Calibration:
        """Rebuild from the output of `as_json`."""
        return cls(stored["kind"], np.array(stored["slope"]), np.array(stored["bias"]))


def terms(said: np.ndarray, kind: Kind) -> np.ndarray:
    """Additive terms (M, N, C) of the predictions: log-probabilities for classes, log-odds for labels,
    numbers for values."""
    said = said.astype(np.float64, order="C")  # one layout: identical bits
    if kind == "values":
        return said
    return np.log(np.maximum(said, EPSILON)) if kind == "classes" else log_odds(said)


def activated(score: np.ndarray, kind: Kind) -> np.ndarray:
    """Logits (N, C) to probabilities by softmax or sigmoid; numbers are unchanged."""
    if kind == "values":
        return score
    if kind == "labels":
        return 1 / (1 + np.exp(-np.clip(score, -700, 700)))
    score = np.exp(score - score.max(1, keepdims=True))
    return score / score.sum(1, keepdims=True)


def fit(level: LevelData) -> Calibration:
    """Fit slope and bias by minimising the penalised loss on these rows."""
    x = terms(level.oof, level.kind).mean(0)  # (N, C)
    if level.kind == "classes":
        found = _minimum(lambda p: _of_classes(p, x, level.targets), x.shape[1])
        return Calibration("classes", found[:1], found[1:])
    pairs = []
    for c in range(x.shape[1]):
        known = ~np.isnan(level.targets[:, c])
        own, y = x[known, c], level.targets[known, c].astype(np.float64)
        pairs.append(_line(own, y) if level.kind == "values" else _sigmoid(own, y))
    return Calibration(level.kind, *np.array(pairs).reshape(-1, 2).T)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares with a penalty on the slope, in units of the variance of x and y."""
    if len(y) < 2 or x.var() == 0:
        return 1.0, 0.0
    one = PENALTY * max(x.var(), y.var())
    slope = max(SMALLEST_SLOPE, ((x - x.mean()) @ (y - y.mean()) + one) / (len(x) * x.var() + one))
    return slope, y.mean() - slope * x.mean()


def _sigmoid(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Platt scaling; the identity if all rows have the same label."""
    if len(y) == 0 or y.min() == y.max():
        return 1.0, 0.0

    def value(p: np.ndarray) -> tuple[float, np.ndarray]:
        score = p[0] * x + p[1]
        miss = activated(score, "labels") - y
        return float((np.logaddexp(0, score) - y * score).sum()), np.array([miss @ x, miss.sum()])

    return tuple(_minimum(value, 1))


def _of_classes(p: np.ndarray, x: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    right = activated(p[0] * x + p[1:], "classes")
    miss = right - targets
    lost = -(targets * np.log(np.maximum(right, 1e-300))).sum()
    return float(lost), np.append((miss * x).sum(), miss.sum(0))


def _minimum(value: Callable[[np.ndarray], tuple[float, np.ndarray]], biases: int) -> np.ndarray:
    """Slope and biases (1 + biases,) that minimise the penalised loss, by L-BFGS-B."""
    from scipy.optimize import minimize

    start = np.append(1.0, np.zeros(biases))

    def whole(p: np.ndarray) -> tuple[float, np.ndarray]:
        lost, slope = value(p)
        return lost + PENALTY / 2 * (p - start) @ (p - start), slope + PENALTY * (p - start)

    bounds = [(SMALLEST_SLOPE, None)] + [(None, None)] * biases
    return minimize(whole, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12}).x
