"""What every second level is given, and what it gives back. Shapes: M members, N rows, C outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from src.config import Stack
from src.metrics import Metric

EPSILON = 1e-5  # probabilities are clipped here before their logarithm
_LEARNED = 30_000_000  # numbers to learn from; more teach a few weights nothing, and fill the memory
_CHUNK = 5_000_000  # numbers predicted from at once
Kind = Literal["classes", "labels", "values"]  # add to 1; each on its own; numbers


@dataclass(frozen=True)
class LevelData:
    """Rows to learn from. Every choice inside them (rounds, epochs, penalties) goes by their own folds."""

    oof: np.ndarray  # (M, N, C) the members' out-of-fold predictions; may lie on disk
    targets: np.ndarray  # (N, C) as `Task.encode` gives them, NaN where unknown
    fold: np.ndarray  # (N,)
    kind: Kind
    settings: Stack
    seed: int
    extra: np.ndarray | None = None  # (N, F) features that are no member's word
    categories: tuple[int, ...] = ()  # which of the F are codes of words
    metric: Metric | None = None  # the competition's; None, or one that needs decisions: the kind's own loss
    truth: Any = None  # as the metric wants it

    def take(self, rows: np.ndarray) -> LevelData:
        """Some rows, by number."""
        more = {} if self.extra is None else {"extra": self.extra[rows]}
        more |= {} if self.truth is None else {"truth": self.truth[rows]}
        return self.but(
            oof=rows_of_members(self.oof, rows), targets=self.targets[rows], fold=self.fold[rows], **more
        )

    def but(self, **changes: Any) -> LevelData:
        """The same with other fields."""
        return LevelData(**{**vars(self), **changes})

    def sample(self, most: int) -> LevelData:
        """At most so many rows, drawn by the seed, in their order."""
        if len(self.fold) <= most:
            return self
        rows = np.random.default_rng(self.seed).choice(len(self.fold), most, replace=False)
        return self.take(np.sort(rows))

    def inner(self) -> Iterator[tuple[LevelData, LevelData]]:
        """(learned, watched): each fold in turn is watched while the others are learned; none where there is
        one fold alone."""
        names = np.unique(self.fold)
        for name in names if len(names) > 1 else ():
            watched = self.fold == name
            yield self.take(np.flatnonzero(~watched)), self.take(np.flatnonzero(watched))


class Fitted(Protocol):
    """A second level that has learned. `apply` takes (M, N, C) members' predictions, and (N, F) features
    where it learned with some, to (N, C); `as_json` is all it needs to do so again."""

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray: ...

    def as_json(self) -> dict[str, Any]: ...


Fit = Callable[[LevelData], Fitted]


def nested_oof(fit: Fit, level: LevelData) -> np.ndarray:
    """(N, C) each fold's rows by a second level that saw no row of it."""
    result = np.empty(level.oof.shape[1:], np.float32)
    for k in np.unique(level.fold):
        own = np.flatnonzero(level.fold == k)
        result[own] = apply_blender(fit_blender(fit, level, np.flatnonzero(level.fold != k)), level, own)
    return result


def fit_blender(fit: Fit, level: LevelData, rows: np.ndarray) -> Fitted:
    """Fitted on these rows, or on a sample of them where they hold more than `_LEARNED` numbers."""
    most = max(1, _LEARNED // _numbers_a_row(level))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(level.seed).choice(rows, most, replace=False))
    return fit(level.take(rows))


def apply_blender(fitted: Fitted, level: LevelData, rows: np.ndarray) -> np.ndarray:
    """(n, C) of these rows, some at a time; what ranks rows among each other sees all of them."""
    step = max(1, _CHUNK // _numbers_a_row(level))
    if getattr(fitted, "of_the_set", False):
        step = max(1, len(rows))
    parts = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        extra = None if level.extra is None else level.extra[part]
        parts.append(fitted.apply(rows_of_members(level.oof, part), extra).astype(np.float32))
    return np.concatenate(parts) if parts else np.empty((0, level.oof.shape[2]), np.float32)


def _numbers_a_row(level: LevelData) -> int:
    return level.oof.shape[0] * level.oof.shape[2]


def rows_of_members(oof: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(M, n, C) of some rows, member by member, so that of an array on disk only these are read."""
    return np.stack([one[rows] for one in oof])


def log_odds(p: np.ndarray) -> np.ndarray:
    """The logarithm of p / (1 - p), finite."""
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return np.log(p / (1 - p))


def as_logits(said: np.ndarray, kind: Kind) -> np.ndarray:
    """(M, N, C) what members say, as second levels add it up: log-odds, or numbers as they are."""
    return said.astype(np.float64) if kind == "values" else log_odds(said.astype(np.float64))


def loss(kind: Kind, targets: np.ndarray, predictions: np.ndarray) -> float:
    """The kind's own loss, over what is known: log loss of classes or labels, squared error of numbers."""
    known = ~np.isnan(targets)
    if kind == "values":
        return float(np.mean((predictions - targets)[known] ** 2))
    p = np.clip(predictions, EPSILON, 1 - EPSILON if kind == "labels" else None)
    if kind == "classes":
        return float(-(targets * np.log(p)).sum(1).mean())
    return float(-np.log(np.where(targets > 0.5, p, 1 - p)[known]).mean())
