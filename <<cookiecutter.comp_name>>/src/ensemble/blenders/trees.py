"""What boosted trees of any library learn from, and how many rounds they get.

- `classes`: one booster over (row, class) examples, the members' log-odds of that class.
- `labels`: a booster a label, the members' log-odds of it.
- `values`: a booster a target, the members' numbers.

Extra features stand behind the members' columns, for classes with the class itself as a category: they say
which class they speak for only together with it.

Trees start from what is linear, see `start` in linear.py, and say what is to be added to it; where they gain
nothing on the watched rows there are none, and it stays as it is.
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

WATCH_EVERY = 2_000_000  # numbers to learn from, beyond which one watched fold says how many rounds
Examples = tuple[np.ndarray, np.ndarray, np.ndarray]  # features (n, F), answers (n,), starts (n,)


class BoostingEngine(Protocol):
    """A library of boosted trees."""

    def grow(
        self,
        train: Examples,
        watch: Examples | None,
        rounds: int,
        level: LevelData,
        free: int,
        categories: tuple[int, ...],
    ) -> tuple[Any, int]:
        """A booster of `rounds`, or of as many as gain on `watch`, and their number. The last `free` features
        may speak either way, `categories` are columns of codes."""

    def raw(self, booster: Any, features: np.ndarray) -> np.ndarray:
        """(n,) what the trees add to the start."""

    def written(self, booster: Any) -> Any:
        """The booster in the library's own form, for JSON."""

    def read(self, stored: Any) -> Any:
        """What `written` gave."""


@dataclass(frozen=True)
class Trees:
    """Fitted boosters, an output or one for all classes; None where no tree is better than the start."""

    kind: Kind
    start: Linear
    boosters: Sequence[Any]
    rounds: tuple[int, ...]
    engine: ClassVar[BoostingEngine]

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """(M, N, C) and (N, F) features to (N, C); rows of `classes` add to 1."""
        score, several = starts(self.start, said), range(said.shape[2])
        if self.kind == "classes":
            more = self._raw(0, lambda: _features(said, extra), score.size).reshape(score.shape)
            values = activated(score + more, "labels")
            return values / values.sum(1, keepdims=True)
        more = [self._raw(c, lambda c=c: column(said, c, self.kind, extra), len(score)) for c in several]
        return activated(score + np.stack(more, axis=1), self.kind)

    def as_json(self) -> dict[str, Any]:
        """Start, rounds, and boosters in their library's own form."""
        boosters = [None if booster is None else self.engine.written(booster) for booster in self.boosters]
        return {"start": self.start.as_json(), "rounds": list(self.rounds), "boosters": boosters}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """What `as_json` gave."""
        boosters = [None if one is None else cls.engine.read(one) for one in stored["boosters"]]
        start = Linear.from_json(stored["start"])
        return cls(start.kind, start, boosters, tuple(stored["rounds"]))

    @classmethod
    def fitted(cls, level: LevelData) -> Self:
        """A booster an output, or one for all classes."""
        return cls(level.kind, *grow_all(level, cls.engine))

    def _raw(self, output: int, x: Callable[[], np.ndarray], n: int) -> np.ndarray:
        booster = self.boosters[output]
        return np.zeros(n) if booster is None else self.engine.raw(booster, x())


def starts(start: Linear, said: np.ndarray) -> np.ndarray:
    """(N, C) where trees start: log-odds of what is linear, or its numbers."""
    return start.score(said) if start.kind != "classes" else log_odds(start.apply(said))


def grow_all(level: LevelData, engine: BoostingEngine) -> tuple[Linear, list[Any], tuple[int, ...]]:
    """The start, the boosters of a level's outputs, and their rounds.

    Each fold of the level in turn is watched while the others teach, until nothing is gained on it; of large
    levels one fold. With the median of these rounds all rows teach. A fold alone can stop nobody.
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
    """The rounds that are best on the watched rows; 0 where the start is better."""
    booster, rounds = engine.grow(train, watch, level.settings.max_rounds, level, *shape)
    x, y, start = watch
    kind = "values" if level.kind == "values" else "labels"
    before, after = (
        loss(kind, y[:, None], activated(score, kind)[:, None])
        for score in (start, start + engine.raw(booster, x))
    )
    return rounds if after < before else 0


def _shape(level: LevelData) -> tuple[int, tuple[int, ...]]:
    """How many features are no member's word, and which columns of all are codes."""
    if level.extra is None:
        return 0, ()
    first, extra = len(level.oof), level.extra.shape[1]
    codes = tuple(first + i for i in level.categories)
    return (extra + 1, (*codes, first + extra)) if level.kind == "classes" else (extra, codes)


def examples(level: LevelData, start: Linear) -> list[Examples]:
    """The training set of each booster, rows with an unknown answer left out."""
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
    """(M, N, C) probabilities to (N * C, M) log-odds; with (N, F) features these and the class behind."""
    _, n, c = said.shape
    own = np.ascontiguousarray(log_odds(said).reshape(len(said), -1).T)
    if extra is None:
        return own
    return np.hstack([own, np.repeat(extra, c, axis=0), np.tile(np.arange(c), n)[:, None]])


def column(said: np.ndarray, output: int, kind: Kind, extra: np.ndarray | None = None) -> np.ndarray:
    """(N, M) the members' word on one output, log-odds or numbers; and (N, F) features behind."""
    own = np.ascontiguousarray(as_logits(said[:, :, output], kind).T)
    return own if extra is None else np.hstack([own, extra])
