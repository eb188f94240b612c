"""Retrieval: targets (N,) labels, predictions N ranked lists of labels, the best guess first.

A list may name a label again (a gallery image a place) and may be of any length. `Ranking` carries the scores
too, which `gap` needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from src.metrics.base import Metric

_TASK = ("retrieval",)


@dataclass(frozen=True)
class Ranking(Sequence):
    """N ranked lists of labels and, list by list, their scores, falling. Indexed by rows like an array.

    `new` is the answer for what is none of them, where a competition has one: see src/decisions/novelty.py.
    """

    labels: Sequence[Sequence[Any]]
    scores: Sequence[Sequence[float]]
    new: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Sequence[Any]:
        return self.labels[row]

    def take(self, rows: Sequence[int]) -> Ranking:
        """The same of some rows."""
        return Ranking([self.labels[i] for i in rows], [self.scores[i] for i in rows], self.new)


def _hits(targets: Any, predictions: Any) -> Iterator[list[int]]:
    """Query by query, the places (from 1) at which the right label stands."""
    for target, ranked in zip(targets, predictions, strict=True):
        if hasattr(ranked, "nonzero"):  # an array; a whole gallery a query is too long to walk
            yield ((ranked == target).nonzero()[0] + 1).tolist()
        else:
            yield [place for place, label in enumerate(ranked, start=1) if label == target]


def _map_at(k: int):
    def mean_average_precision(targets, predictions):
        """1 / the first place of the right label, 0 beyond the first k, averaged; Kaggle's MAP@k of queries
        with one right label."""
        import numpy as np

        return np.mean(
            [1 / hits[0] if hits and hits[0] <= k else 0.0 for hits in _hits(targets, predictions)]
        )

    return mean_average_precision


def _recall_at(k: int):
    def recall(targets, predictions):
        """Share of queries with the right label among the first k."""
        import numpy as np

        return np.mean([bool(hits) and hits[0] <= k for hits in _hits(targets, predictions)])

    return recall


def map_full(targets, predictions):
    """Mean average precision over the whole list, as in re-identification: a query's precision at each place
    of the right label, averaged over those places; 0 for a query whose label is nowhere."""
    import numpy as np

    return np.mean(
        [
            np.mean([count / place for count, place in enumerate(hits, start=1)]) if hits else 0.0
            for hits in _hits(targets, predictions)
        ]
    )


def gap(targets, predictions):
    """Global average precision (micro-AP) of the first guesses, all queries ranked together by their score:
    the precision at each right one, summed, by the number of queries that have a label. None, NaN or "" is a
    query without one, where any guess is wrong. Takes a `Ranking`; raises ValueError without scores."""
    import numpy as np

    if not isinstance(predictions, Ranking):
        raise ValueError("gap needs a Ranking: labels with their scores")
    there = sum(has_label(target) for target in targets)
    guesses = [
        (scores[0], has_label(target) and labels[0] == target)
        for target, labels, scores in zip(targets, predictions.labels, predictions.scores, strict=True)
        if len(labels)
    ]
    # Of guesses with one score the wrong come first, so that a constant score earns nothing.
    right = np.array([hit for _, hit in sorted(guesses, key=lambda guess: (-guess[0], guess[1]))], dtype=bool)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return (precision * right).sum() / there if there else np.nan


def has_label(target: Any) -> bool:
    """Whether a query has a right answer at all."""
    return target is not None and target == target and target != ""


METRICS = (
    Metric("map5", _map_at(5), 1, _TASK, first=5),
    Metric("map1", _map_at(1), 1, _TASK, first=1),
    Metric("map3", _map_at(3), 1, _TASK, first=3),
    Metric("map10", _map_at(10), 1, _TASK, first=10),
    Metric("map_full", map_full, 1, _TASK),
    Metric("recall1", _recall_at(1), 1, _TASK, first=1),
    Metric("recall5", _recall_at(5), 1, _TASK, first=5),
    Metric("gap", gap, 1, _TASK, first=1),
)
