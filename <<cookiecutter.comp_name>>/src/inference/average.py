"""Rank averaging of TTA views: each view's prediction for a row becomes its rank among all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.config import Inference, UserError
from src.metrics import METRICS, Metric, own

if TYPE_CHECKING:
    import numpy as np

ORDER = ("roc_auc", "average_precision")  # metrics that depend only on the order within each column


def rank_mean(said: np.ndarray) -> np.ndarray:
    """Rank averaging: predictions (V, N, C) of V views to (N, C) float32 in (0, 1). The result is each row's
    mean rank among the N rows of its column, minus one half, divided by N; ties share the mean of their
    ranks.

    It needs all rows at once. A rank compares a row with the others of its set and is not a probability: the
    rows of a fold are ranked among themselves, and so are the test rows. A threshold fitted on OOF therefore
    selects a share of the rows, which fits the test set if its classes are as frequent.
    """
    import numpy as np
    from scipy.stats import rankdata

    ranks = [rankdata(one, axis=0) - 0.5 for one in said]  # (N, C) each
    return (np.mean(ranks, axis=0) / max(1, said.shape[1])).astype(np.float32)


def takes_ranks(metric: Metric, task: str) -> bool:
    """Whether a metric depends only on the order within each column; the competitor's own metrics are assumed
    to."""
    by_column = metric.decides == "threshold" and task in ("binary", "multilabel")
    return task in ("binary", "multilabel", "multiclass") and (
        metric.name in ORDER or by_column or metric in own.METRICS
    )


def check_average(settings: Inference, metric: Metric, task: str) -> None:
    """Raise `UserError` if ranks are averaged although the metric needs more than the order within a column,
    that is probabilities or the most likely column of a row."""
    if settings.average != "rank" or takes_ranks(metric, task):
        return
    good = [name for name, one in METRICS[task].items() if takes_ranks(one, task)]
    raise UserError(
        f"inference.average=rank keeps the order of each column alone, and {metric.name} asks for more; "
        f"average by probability or logit (ranks are good for {', '.join(good)})"
    )
