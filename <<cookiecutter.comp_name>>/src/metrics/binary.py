"""Binary metrics: targets (N,) in {0, 1}, predictions (N, 1) or (N,), the probability of class 1."""

from __future__ import annotations

from src.metrics import counts
from src.metrics.base import Metric, mean_of_columns

_TASK = ("binary",)


def roc_auc(targets, probabilities):
    """ROC AUC, area under the ROC curve; undefined (NaN) if one class has no rows."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(targets, probabilities) if 0 < targets.sum() < len(targets) else np.nan


def average_precision(targets, probabilities):
    """Average precision (AP): the precision at each positive, in order of decreasing probability, averaged;
    undefined (NaN) without positives."""
    import numpy as np
    from sklearn.metrics import average_precision_score

    return average_precision_score(targets, probabilities) if targets.any() else np.nan


def log_loss(targets, probabilities):
    """Log loss (binary cross-entropy): mean negative log probability of the true class, clipped at 1e-15 as
    Kaggle does."""
    import numpy as np

    right = np.where(targets == 1, probabilities, 1 - probabilities)
    return -np.log(np.clip(right, 1e-15, 1.0)).mean()


def brier(targets, probabilities):
    """Brier score: mean squared difference between probability and label; 0 to 1."""
    return ((probabilities - targets) ** 2).mean()


def _decided(name: str, function: counts.Counts) -> Metric:
    return Metric(
        name,
        counts.thresholded_metric(function, "columns"),
        1,
        _TASK,
        decides="threshold",
        counts=function,
        average="columns",
    )


METRICS = (
    Metric("roc_auc", mean_of_columns(roc_auc), 1, _TASK),
    Metric("log_loss", mean_of_columns(log_loss), -1, _TASK),
    Metric("average_precision", mean_of_columns(average_precision), 1, _TASK),
    _decided("accuracy", counts.accuracy),
    _decided("balanced_accuracy", counts.balanced_accuracy),
    _decided("f1", counts.f_beta(1)),
    _decided("f2", counts.f_beta(2)),
    _decided("f05", counts.f_beta(0.5)),
    _decided("mcc", counts.mcc),
    Metric("brier", mean_of_columns(brier), -1, _TASK),
)
