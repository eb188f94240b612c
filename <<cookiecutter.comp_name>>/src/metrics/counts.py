"""Metrics of binary decisions, computed from true and false positives and negatives.

All functions take arrays of one shape, `(tp, fp, fn, tn)`, and return scores of that shape, so that one call
scores every candidate threshold. Without positive targets and predictions F-beta is 0, as in scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from src.metrics.base import Counts, two_columns_of

if TYPE_CHECKING:
    import numpy as np


def f_beta(beta: float) -> Counts:
    """F-beta score: beta 2 favours recall, beta 0.5 favours precision, beta 1 weights both equally (F1)."""

    def score(tp, fp, fn, tn):
        return _ratio((1 + beta**2) * tp, (1 + beta**2) * tp + beta**2 * fn + fp, empty=0.0)

    return score


def accuracy(tp, fp, fn, tn):
    """Accuracy: share of correct decisions."""
    import numpy as np

    return _ratio(tp + tn, tp + fp + fn + tn, empty=np.nan)


def balanced_accuracy(tp, fp, fn, tn):
    """Balanced accuracy: mean of the recalls of positives and negatives; one recall if only one class is
    present."""
    import numpy as np

    yes, no = _ratio(tp, tp + fn, empty=np.nan), _ratio(tn, tn + fp, empty=np.nan)
    return np.where(np.isnan(yes), no, np.where(np.isnan(no), yes, (yes + no) / 2))


def mcc(tp, fp, fn, tn):
    """Matthews correlation coefficient (MCC); 0 if a row or column of the confusion matrix is empty."""
    import numpy as np

    return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)), empty=0.0)


def exact_match(tp, fp, fn, tn):
    """Exact match: 1 if no decision is wrong, else 0."""
    return (fp + fn == 0) * 1.0


def dice(tp, fp, fn, tn):
    """Dice coefficient: twice the overlap divided by the sum of the areas; 1 if both are empty."""
    return _ratio(2 * tp, 2 * tp + fp + fn, empty=1.0)


def iou(tp, fp, fn, tn):
    """IoU (Jaccard index): overlap divided by the area of the union; 1 if both are empty."""
    return _ratio(tp, tp + fp + fn, empty=1.0)


def confusion(targets: Any, decisions: Any, average: str) -> tuple[np.ndarray, ...]:
    """Confusion counts (tp, fp, fn, tn) as floats, from targets (N, L) in {0, 1} and decisions: per column
    (`columns`), per row with a known target (`rows`), or in total (`all`). NaN targets are not counted."""
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
    """A metric of probabilities (N, L) thresholded at 0.5: the mean of `counts` over columns or rows, or once
    over all cells. A non-finite prediction makes it NaN."""

    def score(targets, predictions):
        import numpy as np

        targets, predictions = two_columns_of(targets, predictions)
        if not np.isfinite(predictions).all():
            return np.nan
        scores = np.atleast_1d(counts(*confusion(targets, predictions >= 0.5, average)))
        if average == "columns":  # skip a column whose targets are all unknown
            scores = scores[~np.isnan(targets).all(0)]
        return scores.mean() if len(scores) else np.nan

    return score


def _ratio(above, below, empty: float):
    import numpy as np

    below = np.asarray(below, dtype=np.float64)
    return np.where(below == 0, empty, above / np.where(below == 0, 1.0, below))
