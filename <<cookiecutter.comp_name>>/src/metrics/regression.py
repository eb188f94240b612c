"""Regression metrics: targets and predictions (N, T), averaged over the T columns; (N,) is one column. NaN
targets are ignored."""

from __future__ import annotations

from src.metrics.base import NOT_NEGATIVE, NOT_ZERO, WHOLE, Metric, mean_of_columns

_TASK = ("regression",)


def rmse(targets, predictions):
    """RMSE, root mean squared error; averaged over several columns it is Kaggle's MCRMSE."""
    return mse(targets, predictions) ** 0.5


def mse(targets, predictions):
    """MSE, mean squared error."""
    return ((targets - predictions) ** 2).mean()


def rmsle(targets, predictions):
    """RMSLE, RMSE of log(1 + value); negative predictions are clipped to 0. Raises `UserError` for negative
    targets."""
    import numpy as np

    NOT_NEGATIVE.check(targets, "task.metric: rmsle")
    return rmse(np.log1p(targets), np.log1p(np.maximum(predictions, 0)))


def mae(targets, predictions):
    """MAE, mean absolute error."""
    return abs(targets - predictions).mean()


def medae(targets, predictions):
    """MedAE, median absolute error."""
    import numpy as np

    return np.median(abs(targets - predictions))


def mape(targets, predictions):
    """MAPE, mean absolute percentage error, as a share of the target; a target of 0 counts as 2.2e-16
    (scikit-learn)."""
    import numpy as np

    return (abs(targets - predictions) / np.maximum(abs(targets), np.finfo(np.float64).eps)).mean()


def r2(targets, predictions):
    """R2, coefficient of determination: share of the targets' variance that is explained; undefined (NaN) for
    constant targets."""
    import numpy as np

    variance = targets.var()
    return 1 - mse(targets, predictions) / variance if variance > 0 else np.nan


def pearson(targets, predictions):
    """Pearson correlation; 0 for constant predictions, undefined (NaN) for constant targets."""
    import numpy as np

    if np.ptp(targets) == 0:
        return np.nan
    return np.corrcoef(targets, predictions)[0, 1] if np.ptp(predictions) > 0 else 0.0


def spearman(targets, predictions):
    """Spearman rank correlation; ties get their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(targets), rankdata(predictions))


def qwk_of_grades(targets, predictions):
    """Quadratic weighted kappa (QWK) of ordinal grades, which must be integers; predictions are rounded to
    the nearest integer. Raises `UserError` for other targets; undefined (NaN) if all targets and predictions
    are the same grade."""
    import numpy as np

    WHOLE.check(targets, "task.metric: qwk")
    return kappa(targets, np.rint(predictions))


def kappa(targets, grades):
    """Quadratic weighted kappa (Cohen 1968) in closed form: 1 - E(t - g)^2 / E(t - g')^2, with g' the grade
    of a random row."""
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
