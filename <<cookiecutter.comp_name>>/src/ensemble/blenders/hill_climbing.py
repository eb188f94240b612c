"""Hill climbing (greedy ensemble selection): a weighted mean to which members are added one by one, with
replacement, while the score improves.

Caruana, Niculescu-Mizil, Crew, Ksikes 2004, Ensemble Selection from Libraries of Models. The bags of members
are from Caruana, Munson, Niculescu-Mizil 2006, Getting the Most Out of Ensemble Selection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.ensemble.blenders.base import EPSILON, LevelData

CLIMB_ROUNDS = 25  # members added in one climb; the best of all rounds is kept
CLIMB_PATIENCE = 6  # rounds without a gain after which a climb ends
BAGS = 10  # climbs, each over a random half of the members ...
FEWEST_MEMBERS = 4  # ... but at least this many
_ROWS = 50_000  # rows for a climb by the kind's own loss
METRIC_CELLS, METRIC_ROWS, METRIC_BAGS = 20_000, 2_000, 4  # a metric is slower per step
Loss = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Weighted:
    """A weighted mean: one weight per member, at least 0, with sum 1."""

    weights: np.ndarray  # (M,)

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """Weighted mean over members: (M, N, C) to (N, C)."""
        return np.tensordot(self.weights, said, axes=1)

    def as_json(self) -> dict[str, Any]:
        """The weights."""
        return {"weights": self.weights.tolist()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Weighted:
        """Rebuild from the output of `as_json`."""
        return cls(np.array(stored["weights"]))


def fit(level: LevelData) -> Weighted:
    """Weights that score best on these rows by the competition's metric, or by the kind's own loss if the
    metric needs decisions. On these rows they are never worse than the best single member."""
    metric, outputs = level.metric, level.oof.shape[2]
    own = metric is None or metric.decides is not None or metric.name == "log_loss"
    level = level.sample(_ROWS if own else max(METRIC_ROWS, METRIC_CELLS // outputs))
    x, plain = _parts(level) if own else _scored(level)

    def loss(said: np.ndarray) -> float:  # an undefined loss counts as the worst
        found = plain(said)
        return found if np.isfinite(found) else np.inf

    alone = [loss(one) for one in x]
    if not np.isfinite(alone).any():
        return Weighted(np.full(len(x), 1 / len(x)))
    best = np.eye(len(x))[int(np.argmin(alone))]
    known: dict[bytes, float] = {}
    several = bags(len(x), level.seed)[: BAGS if own else METRIC_BAGS]
    bagged = np.mean([hill_climb_bag(x, loss, bag, alone, known) for bag in several], axis=0)
    return Weighted(bagged if loss(np.tensordot(bagged, x, axes=1)) <= min(alone) else best)


def bags(members: int, seed: int) -> list[np.ndarray]:
    """Indices of the members each climb may use; a single climb over all members if half of them would be too
    few."""
    size = max(min(members, FEWEST_MEMBERS), (members + 1) // 2)
    if size == members:
        return [np.arange(members)]
    random = np.random.default_rng(seed)
    return [np.sort(random.choice(members, size, replace=False)) for _ in range(BAGS)]


def hill_climb_bag(
    x: np.ndarray, loss: Loss, bag: np.ndarray, alone: list[float], known: dict[bytes, float] | None = None
) -> np.ndarray:
    """Weights (M,) of one climb, from the best single member of the bag on. `x` (M, L) holds the values that
    are averaged, `alone` each member's own loss, and `known` caches the losses that other climbs found for
    the same counts."""
    known = {} if known is None else known
    counts = np.zeros(len(x), np.int64)
    counts[bag[int(np.argmin([alone[m] for m in bag]))]] = 1
    total, best, lowest = counts @ x, counts.copy(), min(alone[m] for m in bag)
    for size in range(2, CLIMB_ROUNDS + 1):
        found = []
        for m in bag:
            counts[m] += 1
            key = counts.tobytes()
            if key not in known:
                known[key] = loss((total + x[m]) / size)
            found.append(known[key])
            counts[m] -= 1
        member = bag[int(np.argmin(found))]
        counts[member] += 1
        total = total + x[member]
        if min(found) < lowest:
            best, lowest = counts.copy(), min(found)
        elif counts.sum() - best.sum() >= CLIMB_PATIENCE:
            break
    return best / best.sum()


def _parts(level: LevelData) -> tuple[np.ndarray, Loss]:
    """Values (M, L) to average, one per known cell: the probability of the true answer, or the error. Both
    are linear in the weights, so a step evaluates one number per cell."""
    known = ~np.isnan(level.targets)
    if level.kind == "values":
        scale = np.nanstd(level.targets, axis=0) + 1e-12
        return ((level.oof - level.targets) / scale)[:, known], lambda error: float(np.mean(error**2))
    if level.kind == "classes":
        x = np.take_along_axis(level.oof, level.targets.argmax(1)[None, :, None], axis=2)[:, :, 0]
    else:
        x = np.where(level.targets > 0.5, level.oof, 1 - level.oof)[:, known]
    return x, lambda right: float(-np.log(np.maximum(right, EPSILON)).mean())


def _scored(level: LevelData) -> tuple[np.ndarray, Loss]:
    """The predictions themselves as (M, N * C), with the metric as their loss."""
    metric, shape = level.metric, level.oof.shape[1:]
    return level.oof.reshape(
        len(level.oof), -1
    ), lambda flat: -metric.sign * metric(level.truth, flat.reshape(shape))
