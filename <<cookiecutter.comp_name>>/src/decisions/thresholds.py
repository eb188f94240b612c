"""Thresholds per column. The score changes only where a row changes sides, so all such thresholds are
candidates, and all candidates of a column are scored at once from cumulative counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from src.metrics import Metric
from src.metrics.base import known_columns, two_columns_of

if TYPE_CHECKING:
    import numpy as np

ASCENT_ROUNDS = 20  # of coordinate ascent; it mostly converges after three or four
# candidates for a metric that must run for every threshold
TRIED = tuple(level / 20 for level in range(1, 20))


class Steps(NamedTuple):
    """The rows of a column in ascending order of probability, and the candidate thresholds: with the
    threshold `value[i]` the rows from `place[i]` on are positive."""

    order: np.ndarray
    place: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, predictions: np.ndarray) -> Steps:
        """Candidates halfway between neighbours, one at or below all probabilities, and one just above all of
        them."""
        import numpy as np

        order = np.argsort(predictions, kind="stable")
        rising = predictions[order]
        place = np.flatnonzero(rising[1:] > rising[:-1]) + 1
        low, high = rising[place - 1], rising[place]
        middle = (low + high) / 2
        middle = np.where(middle > low, middle, high)  # there is nothing between adjacent float64 numbers
        above = np.nextafter(max(1.0, rising[-1]), np.inf)
        return cls(order, np.r_[0, place, len(rising)], np.r_[min(0.0, rising[0]), middle, above])

    def counts(self, targets: np.ndarray) -> tuple[np.ndarray, ...]:
        """(tp, fp, fn, tn) at every candidate, for targets (N,) in {0, 1}."""
        tp = sums_from(targets[self.order] == 1)[self.place]
        fp = sums_from(targets[self.order] == 0)[self.place]
        return tp, fp, tp[0] - tp, fp[0] - fp


def sums_from(values: np.ndarray) -> np.ndarray:
    """(N + 1,) sums of the values from each place to the end."""
    import numpy as np

    return np.r_[np.cumsum(values[::-1], dtype=np.float64)[::-1], 0.0]


def best_of(values: np.ndarray, scores: np.ndarray, near: float = 0.5) -> tuple[float, float]:
    """The value with the highest score (among equal ones the nearest to `near`), and that score."""
    import numpy as np

    scores = np.where(np.isnan(scores), -np.inf, scores)
    top = scores.max()
    away = np.where(scores >= top - 1e-12, abs(values - near), np.inf)  # -inf - 1e-12 is -inf
    return float(values[away.argmin()]), float(top)


def fit_thresholds(metric: Metric, targets: Any, predictions: Any) -> list[float]:
    """The best threshold of each column of (N, L) predictions; 0.5 for a column without known targets."""
    if metric.counts is None:
        return fit_by_trial(metric, targets, predictions)
    targets, predictions = two_columns_of(targets, predictions)
    alone = [
        best_of(s.value, metric.sign * metric.counts(*s.counts(t)))[0] if (s := steps_or_none(p)) else 0.5
        for t, p in known_columns(targets, predictions)
    ]
    if metric.average == "columns":  # the mean over columns is optimal if each column is
        return alone
    return _fit_jointly(metric, targets, predictions, alone)


def fit_by_trial(metric: Metric, targets: Any, predictions: np.ndarray) -> list[float]:
    """`fit_thresholds` for a metric without counts, which gets targets and decisions in their own shapes."""

    def decide(thresholds: list[float]) -> np.ndarray:
        said = predictions.reshape(len(predictions), -1).astype("float64") >= thresholds
        return said.reshape(predictions.shape).astype("int64")

    columns = 1 if predictions.ndim == 1 else predictions.shape[1]
    return by_trial(metric, targets, decide, columns, candidates(predictions))


def steps_or_none(predictions: np.ndarray) -> Steps | None:
    """The candidate thresholds of a column; None without rows."""
    return Steps.of(predictions) if len(predictions) else None


def _fit_jointly(metric: Metric, targets: Any, predictions: Any, alone: list[float]) -> list[float]:
    """Joint thresholds if columns share a score (per row, or over all cells): coordinate ascent from 0.5 and
    from the best threshold of each column alone; the better result is kept."""
    import numpy as np

    rows = ~np.isnan(targets).all(1)
    targets, predictions = targets[rows], predictions[rows]
    ascents = [ascend(metric, targets, predictions, np.array(start)) for start in ([0.5] * len(alone), alone)]
    return max(ascents, key=lambda found: found[1] if np.isfinite(found[1]) else -np.inf)[0].tolist()


def ascend(metric: Metric, targets: Any, predictions: Any, thresholds: Any) -> tuple[np.ndarray, float]:
    """Coordinate ascent: optimise one column at a time, with the others fixed, until none changes. Returns
    the thresholds and the signed score (higher is better)."""
    by_rows = metric.average == "rows"
    said = predictions >= thresholds
    steps = [steps_or_none(p) for _, p in known_columns(targets, predictions)]

    def cells(j: int) -> np.ndarray:
        """Contribution of column j to the shared counts: (4, N) per row, or (4, 1) in total."""
        own = cells_of(targets[:, j], said[:, j])
        return own if by_rows else own.sum(1, keepdims=True)

    shared = sum(cells(j) for j in range(len(steps)))
    along = scores_by_rows if by_rows else scores_over_all
    top = float((metric.sign * metric.counts(*shared)).mean())
    for _ in range(ASCENT_ROUNDS):
        before = top
        for j, step in enumerate(steps):
            if step is None:
                continue
            others = shared - cells(j)
            value, reached = best_of(step.value, metric.sign * along(metric, step, targets[:, j], others))
            if reached > top + 1e-12:
                thresholds[j], top = value, reached
                said[:, j] = predictions[:, j] >= value
                shared = others + cells(j)
        if top == before:
            break
    return thresholds, top


def cells_of(targets: np.ndarray, said: np.ndarray) -> np.ndarray:
    """(4, ...) indicators of true and false positives, false and true negatives; all 0 for an unknown
    target."""
    import numpy as np

    yes, no = targets == 1, targets == 0
    return np.stack([yes & said, no & said, yes & ~said, no & ~said]).astype(np.float64)


def scores_over_all(metric: Metric, step: Steps, target: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The score at each candidate of one column, given the counts of the other columns (4, 1)."""
    import numpy as np

    return metric.counts(*(np.stack(step.counts(target[~np.isnan(target)])) + others))


def scores_by_rows(metric: Metric, step: Steps, target: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The mean score over rows at each candidate of one column, given the counts of the other columns (4,
    N)."""
    import numpy as np

    known = ~np.isnan(target)
    yes, no = (
        metric.counts(*(others[:, known] + cells_of(target[known], np.full(known.sum(), said))))[step.order]
        for said in (True, False)
    )
    rest = metric.counts(*others[:, ~known]).sum()
    below = no.sum() - sums_from(no)[step.place]
    return (sums_from(yes)[step.place] + below + rest) / len(target)


def candidates(predictions: np.ndarray) -> list[float]:
    """Candidate thresholds for a metric that must run for each: multiples of 0.05, and quantiles of the
    predictions."""
    import numpy as np

    return sorted({*TRIED, *np.quantile(predictions, np.linspace(0, 1, 41)).tolist()})


def by_trial(
    metric: Metric, targets: Any, decide: Callable[[list[float]], Any], columns: int, tried: list[float]
) -> list[float]:
    """Coordinate ascent from 0.5 that evaluates the metric on the decisions of every candidate threshold."""
    thresholds = [0.5] * columns
    top = metric.sign * metric(targets, decide(thresholds))
    for _ in range(ASCENT_ROUNDS if columns > 1 else 1):
        before = top
        for j in range(columns):
            for value in tried:
                trial = [*thresholds[:j], value, *thresholds[j + 1 :]]
                reached = metric.sign * metric(targets, decide(trial))
                if reached > top + 1e-12 or top != top:
                    thresholds, top = trial, reached
        if top == before:
            break
    return thresholds
