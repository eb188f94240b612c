"""Thresholds a class for masks: exact to 1/255, from histograms of the probabilities inside and outside the
true masks, so that each image is looked at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from src.decisions.thresholds import best_of, by_trial
from src.metrics import Metric
from src.metrics.segmentation import class_masks, decide

if TYPE_CHECKING:
    import numpy as np

LEVELS = 257  # from "every pixel" to "none"; level q takes the pixels of q/255 and more, and 128 is 0.5
TENTHS = [level / 10 for level in range(1, 10)]  # for metrics of objects, which cost a labelling each


def fit_masks(metric: Metric, targets: Any, predictions: Any) -> list[float]:
    """The best threshold of each class."""
    import numpy as np

    classes = len(decide(predictions[0]))
    if metric.counts is None:
        decided = lambda thresholds: [decide(p, thresholds) for p in predictions]  # noqa: E731
        return by_trial(metric, targets, decided, classes, TENTHS)
    total: Any = 0.0
    for target, prediction in zip(targets, predictions, strict=True):
        cells = counts_by_level(class_masks(target, classes), np.asarray(prediction))  # 4 of (C, LEVELS)
        total = total + (metric.counts(*cells) if metric.average == "images" else np.stack(cells))
    scores = metric.sign * (total if metric.average == "images" else metric.counts(*total))  # (C, LEVELS)
    values = (np.arange(LEVELS) - 0.5) / 255
    return [best_of(values, row / len(predictions))[0] for row in scores]


def counts_by_level(target: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, ...]:
    """(tp, fp, fn, tn) of one image, each (C, LEVELS), for its true masks (C, H, W) bool."""
    import numpy as np

    stack = prediction.reshape(-1, *prediction.shape[-2:])  # (C, H, W)
    if prediction.dtype == bool:
        stack = stack * np.uint8(255)
    elif prediction.dtype != np.uint8:
        stack = np.clip(np.floor(stack.astype(np.float64) * 255 + 0.5), 0, 255).astype(np.uint8)
    inside = np.stack([np.bincount(p[t], minlength=LEVELS) for p, t in zip(stack, target, strict=True)])
    outside = np.stack([np.bincount(p[~t], minlength=LEVELS) for p, t in zip(stack, target, strict=True)])
    tp, fp = (np.cumsum(part[:, ::-1], 1)[:, ::-1].astype(np.float64) for part in (inside, outside))
    return tp, fp, tp[:, :1] - tp, fp[:, :1] - fp
