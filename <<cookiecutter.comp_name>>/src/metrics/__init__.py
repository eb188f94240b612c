"""Competition metrics by task and name, each with its direction; one module per task defines their inputs.

The same name can be a different function in another task: accuracy of multiclass, binary or multilabel
predictions. A custom metric goes into `own.py`. scikit-learn is imported only when a metric is computed.
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

# METRICS[task][name]; the first metric of a task is its default.
METRICS: dict[str, dict[str, Metric]] = {
    task: {metric.name: metric for metric in _ALL if task in metric.tasks} for task in _TASKS
}


def names(task: str) -> tuple[str, ...]:
    """The names of a task's metrics, the default first."""
    return tuple(METRICS[task])


def create_metric(task: str, name: str | None) -> Metric:
    """The metric with this name, or the task's default. Raises `UserError` with similar names for an unknown
    one."""
    known = names(task)
    name = name or known[0]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise UserError(
            f"task.metric: {name!r} is no metric of {task}; "
            f"{'near ones are' if near else 'known are'} {', '.join(near or known)}"
        )
    return METRICS[task][name]
