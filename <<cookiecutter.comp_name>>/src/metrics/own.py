"""Your own metric goes here: one function, and one line in `METRICS`.

The function gets the same arguments as the other metrics of the task; the first lines of `multiclass.py`,
`binary.py` and so on describe them. With `task.metric=<its name>`, early stopping, CV and the second level
(stacking) use it. A metric with an existing name replaces it. `domain` restricts the targets, see base.py.

`sign` is 1 if higher is better, -1 if lower is better. With `decides="threshold"` thresholds are fitted on
OOF predictions; such a function applies the threshold 0.5 itself, and so also scores decisions (0 and 1)
correctly.

The example below works once it is uncommented:
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
