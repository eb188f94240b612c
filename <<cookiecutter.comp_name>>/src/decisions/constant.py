"""The best constant prediction as a baseline: a model whose CV is not better has learned nothing that the
metric measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from src.decisions import Nested, assemble, is_masks, nested_score, take_rows
from src.metrics import Metric
from src.metrics.retrieval import Ranking

if TYPE_CHECKING:
    import numpy as np

QUANTILES = 19  # quantiles of a numeric target, including the median; the metric decides which is best


def best_constant(metric: Metric, targets: Any, predictions: Any, fold: np.ndarray) -> Nested:
    """Nested CV score of the best constant prediction; each fold's constant is chosen on the other folds.
    `targets` (N,) have the metric's form, `predictions` (N,) of a model define kind and shape.

    The constant is the class shares for classes and labels, the mean or a quantile for numbers, one
    probability everywhere for masks, and the identities by frequency for rankings.
    """
    import numpy as np

    if is_masks(predictions):
        return nested_score(metric, targets, _Flat(targets), fold)
    parts = []
    for k in np.unique(fold):
        own, others = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        known = take_rows(targets, others)
        if isinstance(predictions, Ranking):
            constant = _ranking(known, len(own), predictions.new)
        else:
            constant = np.repeat(_row(metric, known, predictions.shape[1])[None], len(own), axis=0)
        parts.append((own, constant))
    if metric.decides == "cuts":  # a constant cannot lie between cut points
        whole = assemble(parts)
        scores = [metric(take_rows(targets, own), one) for own, one in parts]
        return Nested(metric(targets, whole), scores, {})
    return nested_score(metric, targets, assemble(parts), fold)


def _row(metric: Metric, targets: np.ndarray, outputs: int) -> np.ndarray:
    """(C,) float32, the constant prediction of a row."""
    import numpy as np

    if targets.ndim == 1 and outputs > 1:  # class indices
        return (np.bincount(targets, minlength=outputs) / len(targets)).astype(np.float32)
    columns = targets.reshape(len(targets), -1).astype(np.float64)
    rows = [np.nanmean(columns, axis=0)]
    if not np.isin(columns[~np.isnan(columns)], (0, 1)).all():
        rows += list(np.nanquantile(columns, np.linspace(0, 1, QUANTILES + 2)[1:-1], axis=0))
    if len(rows) == 1:
        return rows[0].astype(np.float32)
    scores = [metric.sign * metric(targets, np.repeat(row[None], len(targets), axis=0)) for row in rows]
    return rows[int(np.nanargmax(scores)) if np.isfinite(scores).any() else 0].astype(np.float32)


def _ranking(targets: Sequence[Any], rows: int, new: str | None) -> Ranking:
    counts = Counter(target for target in targets if target != new)
    names = [name for name, _ in counts.most_common()]
    return Ranking([names] * rows, [[1 / place for place in range(1, len(names) + 1)]] * rows, new)


class _Flat(Sequence):
    """Constant masks (C, H, W) in the size of the targets, created on access."""

    def __init__(self, targets: Sequence[Any]):
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, number: int) -> np.ndarray:
        import numpy as np

        return np.full(np.shape(self.targets[number]), 128, np.uint8)
