"""Competition metrics by task and name, each with its direction; a module a task says what they are given.

The same name can be another function in another task: accuracy of classes, of one probability, of many
labels. A metric of your own goes into `own.py`. scikit-learn is imported when a metric is computed, not
before.
"""

from __future__ import annotations

import difflib

from src.config import UserError
from src.metrics import binary, multiclass, multilabel, own, regression, retrieval, segmentation
from src.metrics.base import Metric

__all__ = ["METRICS", "Metric", "create_metric", "names"]

_ALL = (
    *multiclass.METRICS,
    *binary.METRICS,
    *multilabel.METRICS,
    *regression.METRICS,
    *segmentation.METRICS,
    *retrieval.METRICS,
    *own.METRICS,
)
_TASKS = ("multiclass", "binary", "multilabel", "regression", "segmentation", "retrieval")

# METRICS[task][name]; a task's first is its usual one.
METRICS: dict[str, dict[str, Metric]] = {
    task: {metric.name: metric for metric in _ALL if task in metric.tasks} for task in _TASKS
}


def names(task: str) -> tuple[str, ...]:
    """The metrics a task knows, its usual one first."""
    return tuple(METRICS[task])


def create_metric(task: str, name: str | None) -> Metric:
    """The metric of that name, or the task's usual one; raises `UserError` naming the near ones."""
    known = names(task)
    name = name or known[0]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise UserError(
            f"task.metric: {name!r} is no metric of {task}; "
            f"{'near ones are' if near else 'known are'} {', '.join(near or known)}"
        )
    return METRICS[task][name]
