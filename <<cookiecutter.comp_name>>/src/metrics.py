"""Competition metrics by name, each with its direction and the tasks it is meant for.

A classification metric takes `targets` (N,) class indices and `probabilities` (N, C), rows adding to 1. A
metric of your own is one function here and one line in `METRICS`. scikit-learn is imported when a metric is
computed, not before.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.config import UserError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Metric:
    """`function(targets, predictions) -> float`; `sign` is 1 where higher is better and -1 where lower is."""

    name: str
    function: Callable[[np.ndarray, np.ndarray], float]
    sign: int
    tasks: tuple[str, ...]

    def __call__(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        return float(self.function(targets, predictions))

    def better(self, new: float, old: float | None) -> bool:
        """Whether `new` beats `old`; anything beats None, and NaN beats nothing."""
        return new == new and (old is None or self.sign * new > self.sign * old)


def accuracy(targets, probabilities):
    """Share of rows whose most probable class is the right one."""
    return (probabilities.argmax(1) == targets).mean()


def balanced_accuracy(targets, probabilities):
    """Mean over the classes present of the recall of each."""
    from sklearn.metrics import balanced_accuracy_score

    return balanced_accuracy_score(targets, probabilities.argmax(1))


def log_loss(targets, probabilities):
    """Mean negative log probability of the right class, probabilities clipped at 1e-15 as Kaggle does."""
    import numpy as np

    right = np.take_along_axis(probabilities.astype(np.float64), targets[:, None], 1)[:, 0]
    return -np.log(np.clip(right, 1e-15, 1.0)).mean()


def brier(targets, probabilities):
    """Mean over rows of the squared distance between probabilities and the one-hot label; 0 to 2."""
    import numpy as np

    return ((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(1).mean()


def _f1(average: str):
    def f1(targets, probabilities):
        from sklearn.metrics import f1_score

        return f1_score(targets, probabilities.argmax(1), average=average, zero_division=0)

    return f1


def qwk(targets, probabilities):
    """Quadratic weighted kappa of the most probable class (classes in their rising order)."""
    import numpy as np
    from sklearn.metrics import cohen_kappa_score

    labels = np.arange(probabilities.shape[1])
    return cohen_kappa_score(targets, probabilities.argmax(1), weights="quadratic", labels=labels)


def mcc(targets, probabilities):
    """Matthews correlation coefficient of the most probable class."""
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
    """How many classes stand before the right one; ties and NaN go against us, so that a constant answer
    earns nothing."""
    import numpy as np

    right = np.take_along_axis(probabilities, targets[:, None], 1)
    return (~(probabilities < right)).sum(1) - 1


_CLASSES = ("multiclass",)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, 1, _CLASSES),
        Metric("balanced_accuracy", balanced_accuracy, 1, _CLASSES),
        Metric("log_loss", log_loss, -1, _CLASSES),
        Metric("f1_macro", _f1("macro"), 1, _CLASSES),
        Metric("f1_micro", _f1("micro"), 1, _CLASSES),
        Metric("qwk", qwk, 1, _CLASSES),
        Metric("mcc", mcc, 1, _CLASSES),
        Metric("roc_auc", _one_against_rest("roc_auc_score"), 1, _CLASSES),
        Metric("average_precision", _one_against_rest("average_precision_score"), 1, _CLASSES),
        Metric("brier", brier, -1, _CLASSES),
        Metric("top3_accuracy", _top(3), 1, _CLASSES),
        Metric("top5_accuracy", _top(5), 1, _CLASSES),
        Metric("map3", _map_at(3), 1, _CLASSES),
        Metric("map5", _map_at(5), 1, _CLASSES),
    )
}


def names(task: str) -> tuple[str, ...]:
    """The metrics a task knows, its usual one first."""
    return tuple(name for name, metric in METRICS.items() if task in metric.tasks)


def create_metric(task: str, name: str | None) -> Metric:
    """The metric of that name, or the task's usual one; raises `UserError` naming the near ones."""
    known = names(task)
    if not name:
        return METRICS[known[0]]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise UserError(
            f"task.metric: {name!r} is no metric of {task}; "
            f"{'near ones are' if near else 'known are'} {', '.join(near or known)}"
        )
    return METRICS[name]
