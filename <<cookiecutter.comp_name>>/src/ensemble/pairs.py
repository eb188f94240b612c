"""Stacking of rankings: LightGBM over (query, candidate) pairs, from the members' similarities.

The features of a pair are each member's similarity, and its margin over the best other candidate in that
member's list. Both have monotone increasing constraints, for the reasons given in boosting.py. A candidate
that is missing from a list gets the similarity of the list's last entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.config import Stack
from src.decisions import assemble, take_rows
from src.ensemble.boosting import Stacker, early_stopping_rounds, fit_booster
from src.metrics.retrieval import Ranking


@dataclass(frozen=True)
class Pairs:
    """All (query, candidate) pairs of some queries: query number (n,), candidate (n,), features (n, 2 M)."""

    query: np.ndarray
    candidate: list[str]
    features: np.ndarray

    def right(self, truth: np.ndarray) -> np.ndarray:
        """Binary targets (n,): one if the candidate is the query's true label."""
        return np.array([truth[q] == c for q, c in zip(self.query, self.candidate, strict=True)], np.float64)

    def rank(self, scores: np.ndarray, queries: int, new: str | None) -> Ranking:
        """Rank each query's candidates by descending score; ties are broken by mean similarity."""
        members = self.features.shape[1] // 2
        order = np.lexsort((-self.features[:, :members].mean(1), -scores, self.query))
        labels: list[list[str]] = [[] for _ in range(queries)]
        values: list[list[float]] = [[] for _ in range(queries)]
        for pair in order:
            labels[self.query[pair]].append(self.candidate[pair])
            values[self.query[pair]].append(float(scores[pair]))
        return Ranking(labels, values, new)


def pairs_of(members: list[Ranking]) -> Pairs:
    """Pairs of every query with every candidate that any member lists for it."""
    query, candidate, rows = [], [], []
    lists = [list(zip(one.labels, one.scores, strict=True)) for one in members]
    for number in range(len(members[0])):
        said = [dict(zip(*one[number], strict=True)) for one in lists]
        names = list(dict.fromkeys(name for one in said for name in one))
        if not names:
            continue
        similarity = np.array(
            [[one.get(name, min(one.values(), default=-1.0)) for name in names] for one in said]
        )
        query += [number] * len(names)
        candidate += names
        rows.append(np.vstack([similarity, similarity - _best_other(similarity)]).T)
    features = np.concatenate(rows) if rows else np.empty((0, 2 * len(members)))
    return Pairs(np.array(query, np.int64), candidate, features)


def _best_other(similarity: np.ndarray) -> np.ndarray:
    """Highest similarity of any other candidate, for each candidate (M, n); its own if there is no other."""
    if similarity.shape[1] < 2:
        return similarity
    order = np.argsort(-similarity, axis=1, kind="stable")
    first, second = (np.take_along_axis(similarity, order[:, k : k + 1], axis=1) for k in (0, 1))
    at_top = np.arange(similarity.shape[1])[None, :] == order[:, :1]
    return np.where(at_top, second, first)


def stack_pairs(
    members: list[Ranking], truth: np.ndarray, fold: np.ndarray, settings: Stack, seed: int
) -> tuple[Ranking, list[int]]:
    """Nested OOF rankings, each query scored by a booster fitted without its fold, and the number of rounds
    for a final fit. Early stopping uses another of the training folds, never the scored one."""
    names, parts, rounds = np.unique(fold), [], []
    for place, held_out in enumerate(names):
        own, watched = (
            np.flatnonzero(fold == held_out),
            np.flatnonzero(fold == names[(place + 1) % len(names)]),
        )
        others = np.flatnonzero(fold != held_out)
        if len(names) > 2:
            learned = np.setdiff1d(others, watched)
            examples = (_examples(members, truth, rows) for rows in (learned, watched))
            rounds.append(early_stopping_rounds(*examples, settings, seed))
        else:
            rounds.append(settings.max_rounds)
        found = fit_pairs([take_rows(m, others) for m in members], truth[others], settings, seed, rounds[-1:])
        parts.append((own, apply_pairs(found, [take_rows(m, own) for m in members])))
    return assemble(parts), [int(np.median(rounds))]


def fit_pairs(
    members: list[Ranking], truth: np.ndarray, settings: Stack, seed: int, rounds: list[int]
) -> Stacker:
    """Fit the booster on all given queries."""
    train = _examples(members, truth, np.arange(len(truth)))
    return Stacker("pairs", [fit_booster(train, None, rounds[0], "pairs", settings, seed)])


def apply_pairs(stacker: Stacker, members: list[Ranking]) -> Ranking:
    """Rank candidates by the predicted probability that the pair is correct."""
    pairs = pairs_of(members)
    scores = stacker.boosters[0].predict(pairs.features) if len(pairs.query) else np.empty(0)
    return pairs.rank(scores, len(members[0]), members[0].new)


def _examples(members: list[Ranking], truth: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = pairs_of([take_rows(m, rows) for m in members])
    return pairs.features, pairs.right(truth[rows])
