"""The mean over views as ranks: what each view says of a row is its place among all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.config import Inference, UserError
from src.metrics import METRICS, Metric, own

if TYPE_CHECKING:
    import numpy as np

ORDER = ("roc_auc", "average_precision")  # they ask a column for its order and nothing else


def rank_mean(said: np.ndarray) -> np.ndarray:
    """Predictions (V, N, C) of V views to (N, C) float32 in (0, 1): each row's mean rank among the N rows of
    its column, less a half, over N; ties share theirs.

    It needs every row at once, and a rank says how a row compares with the others of its set, not how likely
    it is: a fold's rows are ranked among themselves, the test rows among themselves. A threshold fitted on
    OOF then means a share of the rows, the same at test where the classes are as frequent there.
    """
    import numpy as np
    from scipy.stats import rankdata

    ranks = [rankdata(one, axis=0) - 0.5 for one in said]  # (N, C) each
    return (np.mean(ranks, axis=0) / max(1, said.shape[1])).astype(np.float32)


def takes_ranks(metric: Metric, task: str) -> bool:
    """Whether a metric asks a column for its order alone; one of the competitor's own is taken as it is."""
    by_column = metric.decides == "threshold" and task in ("binary", "multilabel")
    return task in ("binary", "multilabel", "multiclass") and (
        metric.name in ORDER or by_column or metric in own.METRICS
    )


def check_average(settings: Inference, metric: Metric, task: str) -> None:
    """Raise `UserError` where ranks are averaged and the metric asks for more than the order of a column: for
    probabilities, or for the likeliest column of a row."""
    if settings.average != "rank" or takes_ranks(metric, task):
        return
    good = [name for name, one in METRICS[task].items() if takes_ranks(one, task)]
    raise UserError(
        f"inference.average=rank keeps the order of each column alone, and {metric.name} asks for more; "
        f"average by probability or logit (ranks are good for {', '.join(good)})"
    )
