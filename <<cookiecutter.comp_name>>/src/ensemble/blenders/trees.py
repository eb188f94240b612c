"""Gradient-boosted trees as blenders: training examples and number of rounds, independent of the library.

- `classes`: one booster over (row, class) examples, on the members' log-odds of that class.
- `labels`: one booster per label, on the members' log-odds of it.
- `values`: one booster per target, on the members' numbers.

Extra features follow the members' columns. For classes the class itself is added as a category, because extra
features are informative about a class only together with it.

Trees start from a linear model, see `start` in linear.py, and predict a correction to it. If they do not
improve on the held-out rows there are no trees, and the linear model stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from src.ensemble.blenders import linear
from src.ensemble.blenders.base import Kind, LevelData, as_logits, log_odds, loss
from src.ensemble.blenders.calibration import activated
from src.ensemble.blenders.linear import Linear

WATCH_EVERY = 2_000_000  # number of training values beyond which one held-out fold decides the rounds
Examples = tuple[np.ndarray, np.ndarray, np.ndarray]  # features (n, F), targets (n,), starts (n,)


class BoostingEngine(Protocol):
    """Interface to a gradient-boosting library."""

    def grow(
        self,
        train: Examples,
        watch: Examples | None,
        rounds: int,
        level: LevelData,
        free: int,
        categories: tuple[int, ...],
    ) -> tuple[Any, int]:
        """A booster of `rounds` rounds, or one stopped early on `watch`, and its number of rounds. The last
        `free` features have no monotone constraint; `categories` are the indices of categorical columns."""

    def raw(self, booster: Any, features: np.ndarray) -> np.ndarray:
        """What the trees add to the start (n,)."""

    def written(self, booster: Any) -> Any:
        """The booster in the library's own format, for JSON."""

    def read(self, stored: Any) -> Any:
        """Rebuild from the output of `written`."""


@dataclass(frozen=True)
class Trees:
    """Fitted boosters, one per output or one for all classes; None if trees do not improve on the start."""

    kind: Kind
    start: Linear
    boosters: Sequence[Any]
    rounds: tuple[int, ...]
    engine: ClassVar[BoostingEngine]

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """Predictions from (M, N, C) and features (N, F) to (N, C); each row of `classes` sums to 1."""
        score, several = starts(self.start, said), range(said.shape[2])
        if self.kind == "classes":
            more = self._raw(0, lambda: _features(said, extra), score.size).reshape(score.shape)
            values = activated(score + more, "labels")
            return values / values.sum(1, keepdims=True)
        more = [self._raw(c, lambda c=c: column(said, c, self.kind, extra), len(score)) for c in several]
        return activated(score + np.stack(more, axis=1), self.kind)

    def as_json(self) -> dict[str, Any]:
        """Start, rounds, and boosters in their library's own format."""
        boosters = [None if booster is None else self.engine.written(booster) for booster in self.boosters]
        return {"start": self.start.as_json(), "rounds": list(self.rounds), "boosters": boosters}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """Rebuild from the output of `as_json`."""
        boosters = [None if one is None else cls.engine.read(one) for one in stored["boosters"]]
        start = Linear.from_json(stored["start"])
        return cls(start.kind, start, boosters, tuple(stored["rounds"]))

    @classmethod
    def fitted(cls, level: LevelData) -> Self:
        """Fit one booster per output, or one for all classes."""
        return cls(level.kind, *grow_all(level, cls.engine))

    def _raw(self, output: int, x: Callable[[], np.ndarray], n: int) -> np.ndarray:
        booster = self.boosters[output]
        return np.zeros(n) if booster is None else self.engine.raw(booster, x())


def starts(start: Linear, said: np.ndarray) -> np.ndarray:
    """Where the trees start (N, C): log-odds, or numbers, of the linear model."""
    return start.score(said) if start.kind != "classes" else log_odds(start.apply(said))


def grow_all(level: LevelData, engine: BoostingEngine) -> tuple[Linear, list[Any], tuple[int, ...]]:
    """The linear start, the boosters of all outputs, and their rounds.

    Each fold in turn is held out for early stopping while the trees are fitted on the others; large data uses
    only one fold. The final boosters are fitted on all rows with the median of these rounds. With a single
    fold there is no early stopping.
    """
    most, stopped, shape = level.settings.max_rounds, [], _shape(level)
    for learned, watched in level.inner():
        start = linear.start(learned)
        each = zip(examples(learned, start), examples(watched, start), strict=True)
        stopped.append([_rounds(engine, *pair, level, shape) for pair in each])
        if level.oof.size > WATCH_EVERY:
            break
    start = linear.start(level)
    train = examples(level, start)
    rounds = np.median(stopped, axis=0).astype(int).tolist() if stopped else [most] * len(train)
    each = zip(train, rounds, strict=True)
    return start, [engine.grow(x, None, n, level, *shape)[0] if n else None for x, n in each], tuple(rounds)


def _rounds(
    engine: BoostingEngine,
    train: Examples,
    watch: Examples,
    level: LevelData,
    shape: tuple[int, tuple[int, ...]],
) -> int:
    """The number of rounds that is best on the held-out rows; 0 if the start is better."""
    booster, rounds = engine.grow(train, watch, level.settings.max_rounds, level, *shape)
    x, y, start = watch
    kind = "values" if level.kind == "values" else "labels"
    before, after = (
        loss(kind, y[:, None], activated(score, kind)[:, None])
        for score in (start, start + engine.raw(booster, x))
    )
    return rounds if after < before else 0


def _shape(level: LevelData) -> tuple[int, tuple[int, ...]]:
    """Number of features that are not members' predictions, and the indices of all categorical columns."""
    if level.extra is None:
        return 0, ()
    first, extra = len(level.oof), level.extra.shape[1]
    codes = tuple(first + i for i in level.categories)
    return (extra + 1, (*codes, first + extra)) if level.kind == "classes" else (extra, codes)


def examples(level: LevelData, start: Linear) -> list[Examples]:
    """Training examples of each booster, without the rows whose target is unknown."""
    score = starts(start, level.oof)
    if level.kind == "classes":
        return [(_features(level.oof, level.extra), level.targets.ravel(), score.ravel())]
    found = []
    for c in range(level.oof.shape[2]):
        known = ~np.isnan(level.targets[:, c])
        x = column(level.oof, c, level.kind, level.extra)
        found.append((x[known], level.targets[known, c], score[known, c]))
    return found


def _features(said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
    """Probabilities (M, N, C) to log-odds (N * C, M), followed by the features (N, F) and the class if there
    are extra features."""
    _, n, c = said.shape
    own = np.ascontiguousarray(log_odds(said).reshape(len(said), -1).T)
    if extra is None:
        return own
    return np.hstack([own, np.repeat(extra, c, axis=0), np.tile(np.arange(c), n)[:, None]])


def column(said: np.ndarray, output: int, kind: Kind, extra: np.ndarray | None = None) -> np.ndarray:
    """The members' predictions of one output (N, M), as log-odds or numbers, followed by the features (N, F)
    if there are any."""
    own = np.ascontiguousarray(as_logits(said[:, :, output], kind).T)
    return own if extra is None else np.hstack([own, extra])
