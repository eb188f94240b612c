"""Your own metric goes here: one function, and one line in `METRICS`.

The function is given what every metric of the task is given; the first lines of `multiclass.py`, `binary.py`
and so on say what that is. With `task.metric=<its name>` early stopping, CV and the stack then go by it. A
name that is there already is replaced by yours. `domain` says which targets it takes, see base.py.

`sign` is 1 where higher is better, -1 where lower is. With `decides="threshold"` thresholds are fitted on
OOF; such a function decides at 0.5 itself, and so scores decisions (0 and 1) as they are.
An example, which works as it stands once it is uncommented:
"""

from __future__ import annotations

from src.metrics.base import Metric

# def weighted_accuracy(targets, probabilities):
#     """Accuracy in which a row of class 0 counts twice. Targets (N,), probabilities (N, C)."""
#     weights = 1.0 + (targets == 0)
#     return ((probabilities.argmax(1) == targets) * weights).sum() / weights.sum()

METRICS: tuple[Metric, ...] = (
    # Metric("weighted_accuracy", weighted_accuracy, sign=1, tasks=("multiclass",)),
)
