"""Decision rules for metrics of hard decisions: thresholds and cut points fitted on OOF predictions.

A rule scored on the rows it was fitted on is optimistic, even on noise. `nested_score` (nested CV) therefore
decides each fold with a rule fitted on the other folds, and that score is reported. The rule that `fit_rule`
fits on all rows is for the test rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from src.decisions.cuts import fit_cuts
from src.decisions.masks import MaskCounts, count, fit_masks
from src.decisions.novelty import fit_new_threshold, insert_new
from src.decisions.thresholds import fit_thresholds
from src.metrics import Metric
from src.metrics.retrieval import Ranking
from src.metrics.segmentation import threshold_masks

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Rule:
    """A decision rule: one threshold per column or class, or ascending cut points between grades.

    `new` is one threshold; answers of a ranking with a lower score rank after the label for new identities.
    Without `values` it is the default rule, 0.5 or the nearest integer; with `decides` None predictions are
    unchanged.
    """

    decides: Literal["threshold", "cuts", "new"] | None
    values: tuple[tuple[float, ...], ...] = ()  # per column: its threshold, or its cut points
    grades: tuple[tuple[float, ...], ...] = ()  # per column: one more than its cut points

    def apply(self, predictions: Any) -> Any:
        """Decisions: 0 and 1, or grades, as int64 in the shape of the predictions; for masks a list of (C, H,
        W) bool."""
        import numpy as np

        if self.decides is None or (self.decides == "new" and not self.values):
            return predictions
        if self.decides == "new":
            return insert_new(predictions, predictions.new, self.values[0][0])
        if is_masks(predictions):
            return [threshold_masks(one, [value for (value,) in self.values] or 0.5) for one in predictions]
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

    def by_row(self, rows: int) -> np.ndarray:
        """(rows, C) the thresholds, repeated for every row."""
        import numpy as np

        return np.repeat(np.array([[value for (value,) in self.values]]), rows, axis=0)

    def as_json(self) -> dict[str, Any]:
        """The rule as JSON-compatible lists and numbers; `from_json` restores it exactly."""
        return {
            "decides": self.decides,
            "values": [list(column) for column in self.values],
            "grades": [list(column) for column in self.grades],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Rule:
        """The inverse of `as_json`."""
        values, grades = (tuple(tuple(column) for column in stored[key]) for key in ("values", "grades"))
        return cls(stored["decides"], values, grades)


class Nested(NamedTuple):
    """Result of `nested_score`: the score over all rows, the scores of the folds in order, and the rule of
    each fold."""

    score: float
    folds: list[float]
    rules: dict[int, Rule]


def fit_rule(metric: Metric, targets: Any, predictions: Any) -> Rule:
    """Fit the rule with the best score on these rows, at least as good as the default rule. Rows with
    non-finite predictions are ignored; without rows the default rule is returned. For a metric without
    decisions predictions are unchanged."""
    predictions = countable(metric, targets, predictions)
    if isinstance(predictions, MaskCounts):
        return threshold_rule(predictions.fit())
    if isinstance(predictions, Ranking) and predictions.new is not None:
        found = fit_new_threshold(metric, targets, predictions, predictions.new) if len(predictions) else None
        return Rule("new", () if found is None else ((found,),))
    sound = finite_rows(metric, predictions)
    if not sound.all():
        targets, predictions = (
            take_rows(targets, sound.nonzero()[0]),
            take_rows(predictions, sound.nonzero()[0]),
        )
    if metric.decides is None or len(predictions) == 0:
        return Rule(metric.decides)
    if metric.decides == "cuts":
        columns = fit_cuts(targets, predictions)
        return Rule("cuts", tuple(cuts for cuts, _ in columns), tuple(grades for _, grades in columns))
    search = fit_masks if is_masks(predictions) else fit_thresholds
    return threshold_rule(search(metric, targets, predictions))


def threshold_rule(values: list[float]) -> Rule:
    """The rule with one threshold per column or class; without values the default rule."""
    return Rule("threshold", tuple((float(value),) for value in values))


def score(metric: Metric, targets: Any, predictions: Any, rule: Rule) -> float:
    """The metric of the rule's decisions."""
    return metric(targets, rule.apply(predictions))


def nested_score(metric: Metric, targets: Any, predictions: Any, fold: np.ndarray) -> Nested:
    """Nested CV score: each fold's rows are decided by a rule fitted on the other folds only, or by the
    default rule if there are no others. `fold` (N,) is the fold of each row. A non-finite prediction makes
    the total score and its fold's score NaN, because the decision would hide it."""
    import numpy as np

    predictions = countable(metric, targets, predictions)
    if isinstance(predictions, MaskCounts):
        return _nested_masks(predictions, np.asarray(fold))
    fold, sound = np.asarray(fold), finite_rows(metric, predictions)
    scores, rules, parts = [], {}, []
    for k in np.unique(fold):
        own, others = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        rule = rules[int(k)] = fit_rule(metric, take_rows(targets, others), take_rows(predictions, others))
        decisions = rule.apply(take_rows(predictions, own))
        scores.append(metric(take_rows(targets, own), decisions) if sound[own].all() else np.nan)
        parts.append((own, decisions))
    return Nested(metric(targets, assemble(parts)) if sound.all() else float("nan"), scores, rules)


def _nested_masks(counted: MaskCounts, fold: np.ndarray) -> Nested:
    """`nested_score` for masks, with one pass over the images."""
    import numpy as np

    scores, rules, decided = [], {}, np.full((len(fold), counted.classes), 0.5)
    for k in np.unique(fold):
        own = fold == k
        values = counted.take(~own).fit()
        rules[int(k)] = threshold_rule(values)
        decided[own] = values or 0.5
        scores.append(counted.take(own).score(decided[own]))
    return Nested(counted.score(decided), scores, rules)


def mixed_score(metric: Metric, targets: Any, parts: list[tuple[np.ndarray, Any, Rule]]) -> float:
    """The score of rows divided among several predictions: (rows, their predictions, their rule), every row
    once. Each part keeps its own rule, because a threshold fitted for one does not fit another."""
    import numpy as np

    if isinstance(parts[0][1], MaskCounts):
        rules = [
            (rows, np.full((len(rows), one.classes), 0.5) if not rule.values else rule.by_row(len(rows)))
            for rows, one, rule in parts
        ]
        return assemble([(rows, one) for rows, one, _ in parts]).score(assemble(rules))
    if not all(finite_rows(metric, one).all() for _, one, _ in parts):
        return float("nan")
    return metric(targets, assemble([(rows, rule.apply(one)) for rows, one, rule in parts]))


def countable(metric: Metric, targets: Any, predictions: Any) -> Any:
    """Convert masks to `MaskCounts`, their contributions to the metric, so that `nested_score` and `fit_rule`
    can be called repeatedly. Other predictions, and metrics that are not sums over images, are unchanged."""
    by_image = metric.counts is not None or metric.average == "images"
    if isinstance(predictions, MaskCounts) or metric.decides != "threshold" or not by_image:
        return predictions
    return count(metric, targets, predictions) if len(predictions) and is_masks(predictions) else predictions


def finite_rows(metric: Metric, predictions: Any) -> np.ndarray:
    """(N,) whether the numbers of a row are finite. True for metrics without decisions and for lists."""
    import numpy as np

    if metric.decides is None or not isinstance(predictions, np.ndarray):
        return np.ones(len(predictions), dtype=bool)
    return np.isfinite(predictions).all(tuple(range(1, predictions.ndim)))


def take_rows(values: Any, rows: np.ndarray) -> Any:
    """The given rows of an array, of a list, or of an object with a `take` method."""
    import numpy as np

    if isinstance(values, np.ndarray):
        return values[rows]
    return values.take(rows) if hasattr(values, "take") else [values[int(row)] for row in rows]


def assemble(parts: list[tuple[np.ndarray, Any]]) -> Any:
    """The inverse of `take_rows`: join (rows, their values), in any order, every row once."""
    import numpy as np

    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    values = [part for _, part in parts]
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)[order]
    if isinstance(values[0], Ranking):
        lists = ([row for one in values for row in getattr(one, name)] for name in ("labels", "scores"))
        return Ranking(*lists, values[0].new).take(order)
    if hasattr(values[0], "joined"):
        return values[0].joined(values).take(order)
    return take_rows([row for one in values for row in one], order)


def is_masks(predictions: Any) -> bool:
    """Whether predictions are masks, in a list or stacked, rather than (N,) or (N, L) numbers."""
    import numpy as np

    if isinstance(predictions, np.ndarray):
        return predictions.ndim > 2
    return len(predictions) > 0 and np.ndim(predictions[0]) >= 2
