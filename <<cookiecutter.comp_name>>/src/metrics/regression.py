"""Regression: targets and predictions (N, T), the mean over the T columns; (N,) is one column. A NaN target
is left out."""

from __future__ import annotations

from src.metrics.base import NOT_NEGATIVE, NOT_ZERO, WHOLE, Metric, mean_of_columns

_TASK = ("regression",)


def rmse(targets, predictions):
    """Root mean squared error; with several columns their mean, Kaggle's MCRMSE."""
    return mse(targets, predictions) ** 0.5


def mse(targets, predictions):
    """Mean squared error."""
    return ((targets - predictions) ** 2).mean()


def rmsle(targets, predictions):
    """RMSE of log(1 + value); predictions below 0 count as 0. Raises `UserError` for targets below 0."""
    import numpy as np

    NOT_NEGATIVE.check(targets, "task.metric: rmsle")
    return rmse(np.log1p(targets), np.log1p(np.maximum(predictions, 0)))


def mae(targets, predictions):
    """Mean absolute error."""
    return abs(targets - predictions).mean()


def medae(targets, predictions):
    """Median absolute error."""
    import numpy as np

    return np.median(abs(targets - predictions))


def mape(targets, predictions):
    """Mean absolute error as a share of the target, which counts as 2.2e-16 where it is 0 (scikit-learn)."""
    import numpy as np

    return (abs(targets - predictions) / np.maximum(abs(targets), np.finfo(np.float64).eps)).mean()


def r2(targets, predictions):
    """Share of the targets' variance that is explained; undefined (NaN) where they have none."""
    import numpy as np

    variance = targets.var()
    return 1 - mse(targets, predictions) / variance if variance > 0 else np.nan


def pearson(targets, predictions):
    """Correlation; 0 for a constant answer, undefined (NaN) for constant targets."""
    import numpy as np

    if np.ptp(targets) == 0:
        return np.nan
    return np.corrcoef(targets, predictions)[0, 1] if np.ptp(predictions) > 0 else 0.0


def spearman(targets, predictions):
    """Correlation of the ranks, ties at their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(targets), rankdata(predictions))


def qwk_of_grades(targets, predictions):
    """Quadratic weighted kappa of ordered grades, which must be whole numbers; predictions are rounded to the
    nearest. Raises `UserError` for other targets; undefined (NaN) where all targets and answers are one
    grade."""
    import numpy as np

    WHOLE.check(targets, "task.metric: qwk")
    return kappa(targets, np.rint(predictions))


def kappa(targets, grades):
    """Cohen (1968), in closed form: 1 - E(t - g)^2 / E(t - g')^2, g' a grade of any row."""
    import numpy as np

    chance = targets.var() + grades.var() + (targets.mean() - grades.mean()) ** 2
    return 1 - mse(targets, grades) / chance if chance > 0 else np.nan


METRICS = (
    Metric("rmse", mean_of_columns(rmse), -1, _TASK),
    Metric("rmsle", mean_of_columns(rmsle), -1, _TASK, domain=NOT_NEGATIVE),
    Metric("mae", mean_of_columns(mae), -1, _TASK),
    Metric("mse", mean_of_columns(mse), -1, _TASK),
    Metric("r2", mean_of_columns(r2), 1, _TASK),
    Metric("spearman", mean_of_columns(spearman), 1, _TASK),
    Metric("pearson", mean_of_columns(pearson), 1, _TASK),
    Metric("qwk", mean_of_columns(qwk_of_grades), 1, _TASK, decides="cuts", domain=WHOLE),
    Metric("medae", mean_of_columns(medae), -1, _TASK),
    Metric("mape", mean_of_columns(mape), -1, _TASK, domain=NOT_ZERO),
)
