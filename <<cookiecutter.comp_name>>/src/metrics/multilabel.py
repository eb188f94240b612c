"""Multilabel metrics: targets (N, L) in {0, 1}, predictions (N, L), a probability per label. A NaN target is
unknown and ignored by every metric."""

from __future__ import annotations

from src.metrics import binary, counts
from src.metrics.base import Metric, mean_of_columns, two_columns_of

_TASK = ("multilabel",)


def lrap(targets, probabilities):
    """Label ranking average precision (LRAP): for each true label of a row, the share of true labels among
    those ranked at least as high, averaged; 1 for a row without true labels."""
    import numpy as np
    from sklearn.metrics import label_ranking_average_precision_score

    targets, probabilities = two_columns_of(targets, probabilities)
    known = ~np.isnan(targets)
    if not np.isfinite(probabilities).all():
        return np.nan
    last = np.where(known, probabilities, probabilities.min() - 1)  # an unknown label ranks last
    rows = known.any(1)
    return label_ranking_average_precision_score((targets == 1)[rows], last[rows]) if rows.any() else np.nan


def _decided(name: str, function: counts.Counts, average: str) -> Metric:
    return Metric(
        name,
        counts.thresholded_metric(function, average),
        1,
        _TASK,
        decides="threshold",
        counts=function,
        average=average,
    )


METRICS = (
    Metric("roc_auc", mean_of_columns(binary.roc_auc), 1, _TASK),
    Metric("average_precision", mean_of_columns(binary.average_precision), 1, _TASK),
    Metric("log_loss", mean_of_columns(binary.log_loss), -1, _TASK),
    _decided("f1_macro", counts.f_beta(1), "columns"),
    _decided("f1_micro", counts.f_beta(1), "all"),
    _decided("f1_samples", counts.f_beta(1), "rows"),
    _decided("f2_samples", counts.f_beta(2), "rows"),
    _decided("accuracy", counts.accuracy, "all"),
    _decided("subset_accuracy", counts.exact_match, "rows"),
    Metric("brier", mean_of_columns(binary.brier), -1, _TASK),
    Metric("lrap", lrap, 1, _TASK),
)
