"""Interface of all blenders: their training data and what a fitted one provides. Shapes: M members, N rows, C
outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from src.config import Stack
from src.metrics import Metric

EPSILON = 1e-5  # probabilities are clipped to it before the logarithm
_LEARNED = 30_000_000  # largest number of training values; more would only fill the memory
_CHUNK = 5_000_000  # values per prediction chunk
Kind = Literal["classes", "labels", "values"]  # sum to 1; independent; real numbers


@dataclass(frozen=True)
class LevelData:
    """Training data of a second level. Every choice made on it (rounds, epochs, penalties) uses CV over its
    own folds."""

    oof: np.ndarray  # (M, N, C) the members' out-of-fold predictions; may be memory-mapped
    targets: np.ndarray  # (N, C) output of `Task.encode`, NaN if unknown
    fold: np.ndarray  # (N,)
    kind: Kind
    settings: Stack
    seed: int
    extra: np.ndarray | None = None  # (N, F) features that are not predictions of a member
    categories: tuple[int, ...] = ()  # which of the F features are category codes
    metric: Metric | None = None  # the kind's own loss is used if None or if it needs decisions
    truth: Any = None  # targets in the metric's format

    def take(self, rows: np.ndarray) -> LevelData:
        """The given rows, by index."""
        more = {} if self.extra is None else {"extra": self.extra[rows]}
        more |= {} if self.truth is None else {"truth": self.truth[rows]}
        return self.but(
            oof=rows_of_members(self.oof, rows), targets=self.targets[rows], fold=self.fold[rows], **more
        )

    def but(self, **changes: Any) -> LevelData:
        """A copy with some fields replaced."""
        return LevelData(**{**vars(self), **changes})

    def sample(self, most: int) -> LevelData:
        """A random sample of at most `most` rows by the seed, in their original order."""
        if len(self.fold) <= most:
            return self
        rows = np.random.default_rng(self.seed).choice(len(self.fold), most, replace=False)
        return self.take(np.sort(rows))

    def inner(self) -> Iterator[tuple[LevelData, LevelData]]:
        """Inner CV splits (training data, held-out fold), each fold held out in turn; no splits if there is
        only one fold."""
        names = np.unique(self.fold)
        for name in names if len(names) > 1 else ():
            watched = self.fold == name
            yield self.take(np.flatnonzero(~watched)), self.take(np.flatnonzero(watched))


class Fitted(Protocol):
    """Interface of a fitted second level. `apply` maps the members' predictions (M, N, C), and features (N,
    F) if it was fitted with some, to (N, C); `as_json` returns everything needed to restore it."""

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray: ...

    def as_json(self) -> dict[str, Any]: ...


Fit = Callable[[LevelData], Fitted]


def nested_oof(fit: Fit, level: LevelData) -> np.ndarray:
    """Nested OOF predictions (N, C): each fold by a blender fitted on the other folds."""
    result = np.empty(level.oof.shape[1:], np.float32)
    for k in np.unique(level.fold):
        own = np.flatnonzero(level.fold == k)
        result[own] = apply_blender(fit_blender(fit, level, np.flatnonzero(level.fold != k)), level, own)
    return result


def fit_blender(fit: Fit, level: LevelData, rows: np.ndarray) -> Fitted:
    """Fit a blender on the given rows, or on a random sample of them if they hold more than `_LEARNED`
    values."""
    most = max(1, _LEARNED // _numbers_a_row(level))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(level.seed).choice(rows, most, replace=False))
    return fit(level.take(rows))


def apply_blender(fitted: Fitted, level: LevelData, rows: np.ndarray) -> np.ndarray:
    """Predictions (n, C) for the given rows, in chunks; a blender that ranks rows among each other gets all
    rows at once."""
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
    """The given rows of each member, as (M, n, C). Indexing member by member reads only these rows of a
    memory-mapped array."""
    return np.stack([one[rows] for one in oof])


def log_odds(p: np.ndarray) -> np.ndarray:
    """Logit log(p / (1 - p)) of clipped probabilities, so that it is finite."""
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return np.log(p / (1 - p))


def as_logits(said: np.ndarray, kind: Kind) -> np.ndarray:
    """Members' predictions (M, N, C) on the scale on which second levels add them: log-odds, or numbers
    unchanged."""
    return said.astype(np.float64) if kind == "values" else log_odds(said.astype(np.float64))


def loss(kind: Kind, targets: np.ndarray, predictions: np.ndarray) -> float:
    """The kind's own loss over known targets: log loss for classes and labels, squared error for values."""
    known = ~np.isnan(targets)
    if kind == "values":
        return float(np.mean((predictions - targets)[known] ** 2))
    p = np.clip(predictions, EPSILON, 1 - EPSILON if kind == "labels" else None)
    if kind == "classes":
        return float(-(targets * np.log(p)).sum(1).mean())
    return float(-np.log(np.where(targets > 0.5, p, 1 - p)[known]).mean())
