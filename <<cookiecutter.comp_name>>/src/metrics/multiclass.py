"""Multiclass metrics: targets (N,) class indices, predictions (N, C) probabilities that sum to 1 per row.
Metrics of decisions use the most probable class."""

from __future__ import annotations

from src.metrics.base import NUMBERS, Metric


def multiclass_accuracy(targets, probabilities):
    """Accuracy: share of rows whose most probable class is correct."""
    return (probabilities.argmax(1) == targets).mean()


def multiclass_balanced_accuracy(targets, probabilities):
    """Balanced accuracy: mean of the recalls of the classes present."""
    from sklearn.metrics import balanced_accuracy_score

    return balanced_accuracy_score(targets, probabilities.argmax(1))


def multiclass_log_loss(targets, probabilities):
    """Log loss (cross-entropy): mean negative log probability of the true class, clipped at 1e-15 as Kaggle
    does."""
    import numpy as np

    right = np.take_along_axis(probabilities.astype(np.float64), targets[:, None], 1)[:, 0]
    return -np.log(np.clip(right, 1e-15, 1.0)).mean()


def multiclass_brier(targets, probabilities):
    """Multiclass Brier score: mean squared distance between the probabilities and the one-hot label; 0 to
    2."""
    import numpy as np

    right = np.take_along_axis(probabilities.astype(np.float64), targets[:, None], 1)[:, 0]
    return (np.square(probabilities, dtype=np.float64).sum(1) - 2 * right + 1).mean()


def _f_beta(beta: float, average: str):
    def score(targets, probabilities):
        from sklearn.metrics import fbeta_score

        return fbeta_score(targets, probabilities.argmax(1), beta=beta, average=average, zero_division=0)

    return score


def qwk(targets, probabilities):
    """Quadratic weighted kappa (QWK) of the most probable class; classes in ascending order."""
    import numpy as np
    from sklearn.metrics import cohen_kappa_score

    labels = np.arange(probabilities.shape[1])
    return cohen_kappa_score(targets, probabilities.argmax(1), weights="quadratic", labels=labels)


def multiclass_mcc(targets, probabilities):
    """Matthews correlation coefficient (MCC) of the most probable class."""
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(targets, probabilities.argmax(1))


def _one_against_rest(name: str):
    def score(targets, probabilities):
        import numpy as np
        from sklearn import metrics

        present = [c for c in range(probabilities.shape[1]) if 0 < (targets == c).sum() < len(targets)]
        function = getattr(metrics, name)
        return np.mean([function(targets == c, probabilities[:, c]) for c in present]) if present else np.nan

    return score


def _top(k: int):
    def top(targets, probabilities):
        return (_rank_of_target(targets, probabilities) < k).mean()

    return top


def _map_at(k: int):
    def mean_average_precision(targets, probabilities):
        import numpy as np

        rank = _rank_of_target(targets, probabilities)
        return np.where(rank < k, 1.0 / (rank + 1), 0.0).mean()

    return mean_average_precision


def _rank_of_target(targets, probabilities):
    """The number of classes ranked before the true one. Ties and NaN count as ranked before, so that a
    constant prediction scores worst."""
    import numpy as np

    right = np.take_along_axis(probabilities, targets[:, None], 1)
    return (~(probabilities < right)).sum(1) - 1


_TASK = ("multiclass",)

METRICS = (
    Metric("accuracy", multiclass_accuracy, 1, _TASK),
    Metric("balanced_accuracy", multiclass_balanced_accuracy, 1, _TASK),
    Metric("log_loss", multiclass_log_loss, -1, _TASK),
    Metric("f1_macro", _f_beta(1, "macro"), 1, _TASK),
    Metric("f1_micro", _f_beta(1, "micro"), 1, _TASK),
    Metric("f1_weighted", _f_beta(1, "weighted"), 1, _TASK),
    Metric("f2_macro", _f_beta(2, "macro"), 1, _TASK),
    Metric("f05_macro", _f_beta(0.5, "macro"), 1, _TASK),
    Metric("qwk", qwk, 1, _TASK, domain=NUMBERS),
    Metric("mcc", multiclass_mcc, 1, _TASK),
    Metric("roc_auc", _one_against_rest("roc_auc_score"), 1, _TASK),
    Metric("average_precision", _one_against_rest("average_precision_score"), 1, _TASK),
    Metric("brier", multiclass_brier, -1, _TASK),
    Metric("top3_accuracy", _top(3), 1, _TASK),
    Metric("top5_accuracy", _top(5), 1, _TASK),
    Metric("map3", _map_at(3), 1, _TASK),
    Metric("map5", _map_at(5), 1, _TASK),
)
