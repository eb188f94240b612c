"""Segmentation: one mask an image, and C foreground classes.

Targets are a list with a mask an image: (H, W) bool or integers (0 is background, 1 to C the classes), or
(C, H, W) bool where classes may overlap. Predictions are a list with (C, H, W), or (H, W) for one class, an
image: probabilities as floats, or as uint8 in steps of 1/255; bool is a decision already. A pixel belongs to
a class where its probability is 0.5 and more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from src.metrics import counts
from src.metrics.base import Metric

if TYPE_CHECKING:
    import numpy as np

_TASK = ("segmentation",)


def class_masks(target: Any, classes: int) -> np.ndarray:
    """A target as (C, H, W) bool. With one class it is everything but 0, so 0/255 masks are right too."""
    import numpy as np

    target = np.asarray(target)
    if target.dtype != bool and target.ndim == 2 and classes > 1:
        return np.stack([target == c for c in range(1, classes + 1)])  # (C, H, W)
    return (target != 0).reshape(-1, *target.shape[-2:])


def threshold_masks(prediction: Any, thresholds: Any = 0.5) -> np.ndarray:
    """A prediction as (C, H, W) bool, at one threshold or one a class; decisions stay as they are. Raises
    ValueError for whole numbers other than uint8."""
    import numpy as np

    prediction = np.asarray(prediction)
    if prediction.dtype.kind != "f" and prediction.dtype not in (np.uint8, bool):
        raise ValueError(f"a prediction is float, uint8 or bool, not {prediction.dtype}")
    stack = prediction.reshape(-1, *prediction.shape[-2:])  # (C, H, W)
    if prediction.dtype == bool:
        return stack
    least = np.broadcast_to(np.float64(thresholds), len(stack))[:, None, None]
    return stack >= (least * 255 if prediction.dtype == np.uint8 else least)


def _pairs(targets: Any, predictions: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image by image, target and decision as (C, H, W) bool. Raises ValueError naming an image whose shapes
    differ."""
    for number, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        said = threshold_masks(prediction)
        true = class_masks(target, len(said))
        if true.shape != said.shape:
            raise ValueError(
                f"image {number}: target {true.shape} and prediction {said.shape} differ in shape"
            )
        yield true, said


def pixel_counts(targets: Any, predictions: Any) -> tuple[np.ndarray, ...]:
    """(tp, fp, fn, tn), pixels of every image and class, each (N, C)."""
    import numpy as np

    rows = []
    for true, said in _pairs(targets, predictions):
        tp, positive, called = (mask.sum((1, 2), dtype=np.float64) for mask in (true & said, true, said))
        size = true[0].size
        rows.append((tp, called - tp, positive - tp, size - called - positive + tp))
    return tuple(np.array(part) for part in zip(*rows, strict=True))


def _by_pixels(name: str, function: counts.Counts, average: str) -> Metric:
    """`images`: the mean over images and classes; `columns`: each class over the pixels of all images, then
    the mean over classes."""

    def score(targets, predictions):
        if not _finite(predictions):
            return float("nan")
        cells = pixel_counts(targets, predictions)
        return function(*(cells if average == "images" else [cell.sum(0) for cell in cells])).mean()

    return Metric(name, score, 1, _TASK, decides="threshold", counts=function, average=average)


def map_iou(targets, predictions):
    """Mean precision over the IoU thresholds 0.50, 0.55 to 0.95, then over classes and images (Data Science
    Bowl 2018). Objects are connected pixels, corners included; one that was found overlaps a true one by more
    than the threshold; precision is found / (found + wrongly said + missed), and 1 where there is nothing and
    nothing was said."""
    import numpy as np

    if not _finite(predictions):
        return np.nan
    return np.mean(
        [
            _precision(*(_objects(mask) for mask in masks))
            for both in _pairs(targets, predictions)
            for masks in zip(*both, strict=True)
        ]
    )


def _finite(predictions: Any) -> bool:
    """Whether a network that diverged made none of them: it finds nothing, which empty masks would reward."""
    import numpy as np

    return all(np.asarray(p).dtype.kind != "f" or np.isfinite(p).all() for p in predictions)


def _objects(mask: np.ndarray) -> np.ndarray:
    import numpy as np
    from scipy.ndimage import label

    return label(mask, structure=np.ones((3, 3)))[0]


def _precision(true: np.ndarray, said: np.ndarray) -> float:
    """Over object numbers (H, W), 0 the ground. Above 0.5 an object can have but one partner."""
    import numpy as np

    n_true, n_said = int(true.max()), int(said.max())
    if n_true == 0 or n_said == 0:
        return float(n_true == n_said)
    joint = np.bincount(true.ravel() * (n_said + 1) + said.ravel(), minlength=(n_true + 1) * (n_said + 1))
    joint = joint.reshape(n_true + 1, n_said + 1)  # (true, said) pixels in common
    overlap = joint[1:, 1:]
    union = joint.sum(1)[1:, None] + joint.sum(0)[None, 1:] - overlap
    # Whole numbers, for 11 / 20 is no more than 0.55 only by the luck of its digits.
    found = [int((100 * overlap > percent * union).sum()) for percent in range(50, 100, 5)]
    return float(np.mean([hits / (n_true + n_said - hits) for hits in found]))


METRICS = (
    _by_pixels("dice", counts.dice, "images"),
    _by_pixels("iou", counts.iou, "images"),
    Metric("map_iou", map_iou, 1, _TASK, decides="threshold", average="images"),
    _by_pixels("dice_global", counts.dice, "columns"),
    _by_pixels("iou_global", counts.iou, "columns"),
)
