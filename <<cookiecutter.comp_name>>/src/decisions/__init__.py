"""Decisions out of probabilities, for the metrics that need them: thresholds and cut points fitted on OOF.

A rule fitted on the rows it is scored on flatters itself (F1 of pure noise: .383, and .352 told honestly). So
`nested` decides each fold by a rule that saw the other folds alone, and that is the score to print; the rule
that `fit` finds on all rows is for the test rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from src.decisions.cuts import fit_cuts
from src.decisions.masks import fit_masks
from src.decisions.thresholds import fit_thresholds
from src.metrics import Metric
from src.metrics.segmentation import decide

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Rule:
    """How predictions become decisions: a threshold a column or class, or rising cut points between grades.

    Without `values` it is the plain rule, 0.5 or the nearest whole number; with `decides` None predictions
    stay what they are.
    """

    decides: Literal["threshold", "cuts"] | None
    values: tuple[tuple[float, ...], ...] = ()  # of each column: its threshold alone, or its cut points
    grades: tuple[tuple[float, ...], ...] = ()  # of each column, one more than its cut points

    def apply(self, predictions: Any) -> Any:
        """0 and 1, or grades, as int64 in the predictions' shape; of masks a list of (C, H, W) bool."""
        import numpy as np

        if self.decides is None:
            return predictions
        if is_masks(predictions):
            return [decide(one, [value for (value,) in self.values] or 0.5) for one in predictions]
        values = np.asarray(predictions, dtype=np.float64)
        columns = values[:, None] if values.ndim == 1 else values
        if self.decides == "threshold":
            decided = columns >= (np.array([value for (value,) in self.values]) if self.values else 0.5)
        elif self.values:
            parts = zip(columns.T, self.values, self.grades, strict=True)
            decided = np.stack([np.array(g)[np.searchsorted(c, x, side="right")] for x, c, g in parts], 1)
        else:
            decided = np.rint(columns)
        return decided.astype(np.int64).reshape(values.shape)

    def as_json(self) -> dict[str, Any]:
        """The rule in lists and numbers; `from_json` gives the very same back."""
        return {
            "decides": self.decides,
            "values": [list(column) for column in self.values],
            "grades": [list(column) for column in self.grades],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Rule:
        """The rule that `as_json` wrote."""
        values, grades = (tuple(tuple(column) for column in stored[key]) for key in ("values", "grades"))
        return cls(stored["decides"], values, grades)


class Nested(NamedTuple):
    """What `nested` finds: the score over all rows, each fold's own in the folds' order, each fold's rule."""

    score: float
    folds: list[float]
    rules: dict[int, Rule]


def fit(metric: Metric, targets: Any, predictions: Any) -> Rule:
    """The rule that scores best on these rows, and there no worse than the plain one. Rows whose predictions
    are not finite are left out; without any it is the plain one. Of a metric that needs no decision it leaves
    predictions as they are."""
    sound = finite_rows(metric, predictions)
    if not sound.all():
        targets, predictions = take(targets, sound.nonzero()[0]), take(predictions, sound.nonzero()[0])
    if metric.decides is None or len(predictions) == 0:
        return Rule(metric.decides)
    if metric.decides == "cuts":
        columns = fit_cuts(targets, predictions)
        return Rule("cuts", tuple(cuts for cuts, _ in columns), tuple(grades for _, grades in columns))
    search = fit_masks if is_masks(predictions) else fit_thresholds
    return Rule("threshold", tuple((float(value),) for value in search(metric, targets, predictions)))


def score(metric: Metric, targets: Any, predictions: Any, rule: Rule) -> float:
    """The metric of what the rule decides."""
    return metric(targets, rule.apply(predictions))


def nested(metric: Metric, targets: Any, predictions: Any, fold: np.ndarray) -> Nested:
    """The honest score: each fold's rows are decided by a rule fitted on the other folds alone; by the plain
    rule where there are no others. `fold` (N,) says which each row is in. A prediction that is not finite
    makes the score NaN, and its fold's, for its decision would hide it."""
    import numpy as np

    fold, sound = np.asarray(fold), finite_rows(metric, predictions)
    scores, rules, decided = [], {}, [None] * len(fold)
    for k in np.unique(fold):
        own, others = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        rule = rules[int(k)] = fit(metric, take(targets, others), take(predictions, others))
        decisions = rule.apply(take(predictions, own))
        scores.append(metric(take(targets, own), decisions) if sound[own].all() else np.nan)
        if rule.decides:
            for row, decision in zip(own, decisions, strict=True):
                decided[row] = decision
    if metric.decides is None:
        decided = predictions
    elif isinstance(predictions, np.ndarray):
        decided = np.array(decided)
    return Nested(metric(targets, decided) if sound.all() else float("nan"), scores, rules)


def finite_rows(metric: Metric, predictions: Any) -> np.ndarray:
    """(N,) whether a row's numbers are finite; what a metric takes undecided, and lists, pass for it."""
    import numpy as np

    if metric.decides is None or not isinstance(predictions, np.ndarray):
        return np.ones(len(predictions), dtype=bool)
    return np.isfinite(predictions).all(tuple(range(1, predictions.ndim)))


def take(values: Any, rows: np.ndarray) -> Any:
    """Some rows of an array, of a list, or of what has a `take` of its own."""
    import numpy as np

    if isinstance(values, np.ndarray):
        return values[rows]
    return values.take(rows) if hasattr(values, "take") else [values[int(row)] for row in rows]


def is_masks(predictions: Any) -> bool:
    """Whether these are masks, in a list or stacked, rather than (N,) or (N, L) numbers."""
    import numpy as np

    if isinstance(predictions, np.ndarray):
        return predictions.ndim > 2
    return len(predictions) > 0 and np.ndim(predictions[0]) >= 2
