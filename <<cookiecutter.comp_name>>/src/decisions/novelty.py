"""Novelty threshold of retrieval: the similarity below which a query counts as a new identity, and the
position of the `new` label in a ranking."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from src.metrics.base import Metric
from src.metrics.retrieval import METRICS, Ranking

if TYPE_CHECKING:
    import numpy as np

PLAIN = 0.5  # cosine of 60 degrees, if there is nothing to fit on


def insert_new(ranking: Ranking, new: str, threshold: float) -> Ranking:
    """Insert `new` into each list before the first candidate with a score below the threshold, or at the end.
    Its score is the threshold, so that scores stay in descending order."""
    labels, scores = [], []
    for names, values in zip(ranking.labels, ranking.scores, strict=True):
        place = bisect_right(values, -threshold, key=lambda value: -float(value))
        labels.append([*names[:place], new, *names[place:]])
        scores.append([*values[:place], threshold, *values[place:]])
    return Ranking(labels, scores, ranking.new)


def fit_new_threshold(metric: Metric, targets: Any, ranking: Ranking, new: str) -> float:
    """The best threshold of `insert_new` for targets (N,): the middle of the longest run of equally good
    ones. 0.5 if no query has a candidate."""
    import numpy as np

    tried = thresholds(ranking)
    if not len(tried):
        return PLAIN
    scores = scores_by_place(metric, targets, ranking, new, tried)
    if scores is None:
        scores = np.array([metric(targets, insert_new(ranking, new, value)) for value in tried.tolist()])
    scores = np.where(np.isnan(scores), -np.inf, metric.sign * scores)
    best = scores >= scores.max() - 1e-12
    starts, ends = np.flatnonzero(np.diff(np.r_[False, best, False])).reshape(-1, 2).T
    longest = (ends - starts).argmax()
    return float(tried[(starts[longest] + ends[longest] - 1) // 2])


def thresholds(ranking: Ranking) -> np.ndarray:
    """About a hundred ascending candidate thresholds: quantiles of the first candidates' scores and fewer of
    the next four candidates', the midpoints between them, one below all scores and one above all. Empty
    without scores."""
    import numpy as np

    first = np.array([row[0] for row in ranking.scores if len(row)], dtype=np.float64)
    if not len(first):
        return first
    later = np.array([value for row in ranking.scores for value in row[1:5]], dtype=np.float64)
    values = np.quantile(first, np.linspace(0, 1, 41), method="nearest")
    if len(later):  # if new identities are rare, the best position of `new` may be second or third
        values = np.r_[values, np.quantile(later, np.linspace(0, 1, 11), method="nearest")]
    values = np.unique(values)
    last = min(row[-1] for row in ranking.scores if len(row))
    return np.r_[last - 1, np.unique(np.r_[values, (values[1:] + values[:-1]) / 2]), first.max() + 1]


def scores_by_place(
    metric: Metric, targets: Any, ranking: Ranking, new: str, tried: np.ndarray
) -> np.ndarray | None:
    """The metric at each threshold, computed from the rank of the correct answer instead of a loop over all
    lists. None for a metric that needs more than the first correct rank."""
    import numpy as np

    known = re.fullmatch(r"(map|recall)(\d+|_full)", metric.name)
    if known is None or metric not in METRICS:  # a custom metric may have the same name
        return None
    full = known[2] == "_full"
    depth = 1 + max(len(row) for row in ranking.labels) if full else int(known[2])
    scores = np.full((len(ranking), depth), -np.inf)
    place = np.full(len(ranking), np.inf)  # rank of the correct answer among the candidates, from 1
    for row, (target, names, values) in enumerate(zip(targets, ranking.labels, ranking.scores, strict=True)):
        scores[row, : min(len(values), depth)] = values[:depth]
        hits = [number for number, name in enumerate(names[:depth], start=1) if name == target]
        if full and len(hits) + (target == new) > 1:
            return None
        if hits:
            place[row] = hits[0]
    is_new = np.array([target == new for target in targets])
    found = []
    for threshold in tried:
        inserted = 1 + (scores >= threshold).sum(1)  # (N,)
        after = np.where(is_new, np.minimum(inserted, place), place + (inserted <= place))
        found.append(np.where(after <= depth, 1 / after if known[1] == "map" else 1.0, 0.0).mean())
    return np.array(found)
