"""Retrieval metrics: targets (N,) labels, predictions N ranked lists of labels, best first.

A list may repeat a label (one entry per gallery image) and may have any length. `gap` needs a `Ranking`,
which also holds the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from src.metrics.base import Metric

_TASK = ("retrieval",)


@dataclass(frozen=True)
class Ranking(Sequence):
    """N ranked lists of labels and their scores, in descending order. Indexed by rows like an array. `new` is
    the label for new identities, if the competition has one: see src/decisions/novelty.py."""

    labels: Sequence[Sequence[Any]]
    scores: Sequence[Sequence[float]]
    new: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Sequence[Any]:
        return self.labels[row]

    def take(self, rows: Sequence[int]) -> Ranking:
        """The ranking of the given rows."""
        return Ranking([self.labels[i] for i in rows], [self.scores[i] for i in rows], self.new)


def _hits(targets: Any, predictions: Any) -> Iterator[list[int]]:
    """For each query, the ranks (from 1) at which the correct label occurs."""
    for target, ranked in zip(targets, predictions, strict=True):
        if hasattr(ranked, "nonzero"):  # an array; a ranked gallery is too long for a Python loop
            yield ((ranked == target).nonzero()[0] + 1).tolist()
        else:
            yield [place for place, label in enumerate(ranked, start=1) if label == target]


def _map_at(k: int):
    def mean_average_precision(targets, predictions):
        """MAP@k (mean average precision at k) of queries with one correct label, as on Kaggle: 1 / rank of
        the correct label, 0 beyond rank k, averaged."""
        import numpy as np

        return np.mean(
            [1 / hits[0] if hits and hits[0] <= k else 0.0 for hits in _hits(targets, predictions)]
        )

    return mean_average_precision


def _recall_at(k: int):
    def recall(targets, predictions):
        """Recall@k: share of queries with the correct label among the first k."""
        import numpy as np

        return np.mean([bool(hits) and hits[0] <= k for hits in _hits(targets, predictions)])

    return recall


def map_full(targets, predictions):
    """mAP (mean average precision) over the whole list, as in re-identification: the precision at each rank
    of the correct label, averaged per query; 0 for a query whose label does not occur."""
    import numpy as np

    return np.mean(
        [
            np.mean([count / place for count, place in enumerate(hits, start=1)]) if hits else 0.0
            for hits in _hits(targets, predictions)
        ]
    )


def gap(targets, predictions):
    """GAP (global average precision, micro-AP) of the first answers, with all queries ranked together by
    score: the sum of the precisions at the correct answers, divided by the number of queries with a label.
    None, NaN or "" marks a query without a label, for which every answer is wrong. Takes a `Ranking`; raises
    ValueError without scores."""
    import numpy as np

    if not isinstance(predictions, Ranking):
        raise ValueError("gap needs a Ranking: labels with their scores")
    there = sum(has_label(target) for target in targets)
    guesses = [
        (scores[0], has_label(target) and labels[0] == target)
        for target, labels, scores in zip(targets, predictions.labels, predictions.scores, strict=True)
        if len(labels)
    ]
    # Among answers with equal scores the wrong ones come first, so that a constant score gains nothing.
    right = np.array([hit for _, hit in sorted(guesses, key=lambda guess: (-guess[0], guess[1]))], dtype=bool)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return (precision * right).sum() / there if there else np.nan


def has_label(target: Any) -> bool:
    """Whether a query has a correct answer."""
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
