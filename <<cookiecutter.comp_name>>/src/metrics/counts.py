"""Metrics of yes-or-no decisions, each from its true and false positives and negatives.

All take arrays of one shape, `(tp, fp, fn, tn)`, and give as many scores, so that one call scores every
threshold that could be chosen. Where nothing is there and nothing was said F-beta is 0, as in scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from src.metrics.base import Counts, two_columns_of

if TYPE_CHECKING:
    import numpy as np


def f_beta(beta: float) -> Counts:
    """F-beta: beta 2 cares for recall, beta 0.5 for precision, beta 1 for both alike."""

    def score(tp, fp, fn, tn):
        return _ratio((1 + beta**2) * tp, (1 + beta**2) * tp + beta**2 * fn + fp, empty=0.0)

    return score


def accuracy(tp, fp, fn, tn):
    """Share of decisions that are right."""
    import numpy as np

    return _ratio(tp + tn, tp + fp + fn + tn, empty=np.nan)


def balanced_accuracy(tp, fp, fn, tn):
    """Mean of the recall of yes and the recall of no; of one alone where only one is there."""
    import numpy as np

    yes, no = _ratio(tp, tp + fn, empty=np.nan), _ratio(tn, tn + fp, empty=np.nan)
    return np.where(np.isnan(yes), no, np.where(np.isnan(no), yes, (yes + no) / 2))


def mcc(tp, fp, fn, tn):
    """Matthews correlation coefficient; 0 where one side of the table is empty."""
    import numpy as np

    return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)), empty=0.0)


def exact_match(tp, fp, fn, tn):
    """1 where no decision is wrong."""
    return (fp + fn == 0) * 1.0


def dice(tp, fp, fn, tn):
    """Twice the overlap by the sum of the areas; 1 where both are empty."""
    return _ratio(2 * tp, 2 * tp + fp + fn, empty=1.0)


def iou(tp, fp, fn, tn):
    """Overlap by the area of both together (Jaccard); 1 where both are empty."""
    return _ratio(tp, tp + fp + fn, empty=1.0)


def confusion(targets: Any, decisions: Any, average: str) -> tuple[np.ndarray, ...]:
    """(tp, fp, fn, tn) as floats of (N, L) targets in {0, 1} and decisions: a number a column (`columns`),
    a row with any known target (`rows`), or one each (`all`). A NaN target counts nowhere."""
    import numpy as np

    targets, decisions = two_columns_of(targets, decisions)
    known = ~np.isnan(targets)
    yes, said = targets == 1, decisions == 1
    axis = {"columns": 0, "rows": 1, "all": None}[average]
    cells = (yes & said, known & ~yes & said, yes & ~said, known & ~yes & ~said)
    counted = [np.asarray(cell.sum(axis), dtype=np.float64) for cell in cells]
    if average == "rows":
        counted = [count[known.any(1)] for count in counted]
    return tuple(counted)


def thresholded_metric(counts: Counts, average: str):
    """The metric of probabilities (N, L), decided at 0.5: the mean of `counts` over columns, rows, or once
    over all cells. A prediction that is not finite makes it NaN."""

    def score(targets, predictions):
        import numpy as np

        targets, predictions = two_columns_of(targets, predictions)
        if not np.isfinite(predictions).all():
            return np.nan
        scores = np.atleast_1d(counts(*confusion(targets, predictions >= 0.5, average)))
        if average == "columns":  # one whose targets are all unknown says nothing
            scores = scores[~np.isnan(targets).all(0)]
        return scores.mean() if len(scores) else np.nan

    return score


def _ratio(above, below, empty: float):
    import numpy as np

    below = np.asarray(below, dtype=np.float64)
    return np.where(below == 0, empty, above / np.where(below == 0, 1.0, below))
