"""What boosted trees of any library learn from, and how many rounds they get.

- `classes`: one booster over (row, class) examples, the members' log-odds of that class.
- `labels`: a booster a label, the members' log-odds of it.
- `values`: a booster a target, the members' numbers.

Extra features stand behind the members' columns, for classes with the class itself as a category: they say
which class they speak for only together with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from src.ensemble.rivals.base import Kind, Level, log_odds, words

WATCH_EVERY = 2_000_000  # numbers to learn from, beyond which one watched fold says how many rounds
Examples = tuple[np.ndarray, np.ndarray]  # features (n, F) and answers (n,)


class Grow(Protocol):
    """Grows one booster of `rounds`, or of fewer where it no longer gains on `watch`; how many is `rounds` of
    what it gives. The last `free` features may speak either way, `categories` are codes."""

    def __call__(
        self,
        train: Examples,
        watch: Examples | None,
        rounds: int,
        level: Level,
        free: int,
        categories: tuple[int, ...],
    ) -> Any: ...


@dataclass(frozen=True)
class Trees:
    """Fitted boosters: `predict` says what each makes of features (n, F)."""

    kind: Kind
    boosters: Sequence[Any]
    predict: Callable[[Any, np.ndarray], np.ndarray]
    rounds: tuple[int, ...] = ()

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """(M, N, C) and (N, F) features to (N, C); rows of `classes` add to 1."""
        _, n, c = said.shape
        if self.kind == "classes":
            values = self.predict(self.boosters[0], features(said, extra)).reshape(n, c)
            return values / values.sum(1, keepdims=True)
        columns = [self.predict(b, column(said, i, self.kind, extra)) for i, b in enumerate(self.boosters)]
        return np.stack(columns, axis=1)


def grow_all(level: Level, grow: Grow) -> tuple[list[Any], tuple[int, ...]]:
    """The boosters of a level's outputs, and their rounds.

    Each fold of the level in turn is watched while the others teach, until nothing is gained on it; of large
    levels one fold. With the median of these rounds all rows teach. A fold alone can stop nobody.
    """
    outputs = range(1 if level.kind == "classes" else level.oof.shape[2])
    most, stopped = level.settings.max_rounds, []
    for learned, watched in level.inner():
        each = zip(outputs, examples(learned), examples(watched), strict=True)
        stopped.append([grow(train, watch, most, level, *_shape(level))[1] for _, train, watch in each])
        if level.oof.size > WATCH_EVERY:
            break
    rounds = np.median(stopped, axis=0).astype(int).tolist() if stopped else [most] * len(outputs)
    each = zip(examples(level), rounds, strict=True)
    return [grow(train, None, n, level, *_shape(level))[0] for train, n in each], tuple(rounds)


def _shape(level: Level) -> tuple[int, tuple[int, ...]]:
    """How many features are no member's word, and which columns of all are codes."""
    if level.extra is None:
        return 0, ()
    first, extra = len(level.oof), level.extra.shape[1]
    codes = tuple(first + i for i in level.categories)
    return (extra + 1, (*codes, first + extra)) if level.kind == "classes" else (extra, codes)


def examples(level: Level) -> list[Examples]:
    """The training set of each booster, rows with an unknown answer left out."""
    if level.kind == "classes":
        return [(features(level.oof, level.extra), level.targets.ravel())]
    found = []
    for c in range(level.oof.shape[2]):
        known = ~np.isnan(level.targets[:, c])
        found.append((column(level.oof, c, level.kind, level.extra)[known], level.targets[known, c]))
    return found


def features(said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
    """(M, N, C) probabilities to (N * C, M) log-odds; with (N, F) features these and the class behind."""
    _, n, c = said.shape
    own = log_odds(said).reshape(len(said), -1).T
    if extra is None:
        return own
    return np.hstack([own, np.repeat(extra, c, axis=0), np.tile(np.arange(c), n)[:, None]])


def column(said: np.ndarray, output: int, kind: Kind, extra: np.ndarray | None = None) -> np.ndarray:
    """(N, M) the members' word on one output, log-odds or numbers; and (N, F) features behind."""
    own = words(said[:, :, output], kind).T
    return own if extra is None else np.hstack([own, extra])
