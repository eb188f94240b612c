"""Segmentation metrics: one mask per image, with C foreground classes.

Targets are a list with one mask per image: (H, W) bool or integers (0 is background, 1 to C the classes), or
(C, H, W) bool if classes may overlap. Predictions are a list with one array per image, (C, H, W), or (H, W)
for one class: probabilities as floats, or as uint8 in steps of 1/255; bool is a decision. A pixel belongs to
a class if its probability is at least 0.5.
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
    """A target as (C, H, W) bool. With one class every non-zero value counts, so 0/255 masks work too."""
    import numpy as np

    target = np.asarray(target)
    if target.dtype != bool and target.ndim == 2 and classes > 1:
        return np.stack([target == c for c in range(1, classes + 1)])  # (C, H, W)
    return (target != 0).reshape(-1, *target.shape[-2:])


def threshold_masks(prediction: Any, thresholds: Any = 0.5) -> np.ndarray:
    """Threshold a prediction to (C, H, W) bool, with one threshold or one per class; bool decisions are
    unchanged. Raises ValueError for integers other than uint8."""
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
    """Iterate over images: target and decision as (C, H, W) bool. Raises ValueError naming an image whose
    shapes differ."""
    for number, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        said = threshold_masks(prediction)
        true = class_masks(target, len(said))
        if true.shape != said.shape:
            raise ValueError(
                f"image {number}: target {true.shape} and prediction {said.shape} differ in shape"
            )
        yield true, said


def pixel_counts(targets: Any, predictions: Any) -> tuple[np.ndarray, ...]:
    """Pixel counts (tp, fp, fn, tn) per image and class, each (N, C)."""
    import numpy as np

    rows = []
    for true, said in _pairs(targets, predictions):
        tp, positive, called = (mask.sum((1, 2), dtype=np.float64) for mask in (true & said, true, said))
        size = true[0].size
        rows.append((tp, called - tp, positive - tp, size - called - positive + tp))
    return tuple(np.array(part) for part in zip(*rows, strict=True))


def _by_pixels(name: str, function: counts.Counts, average: str) -> Metric:
    """A pixel metric. `images`: the mean over images and classes; `columns`: each class over the pixels of
    all images, then the mean over classes."""

    def score(targets, predictions):
        if not _finite(predictions):
            return float("nan")
        cells = pixel_counts(targets, predictions)
        return function(*(cells if average == "images" else [cell.sum(0) for cell in cells])).mean()

    return Metric(name, score, 1, _TASK, decides="threshold", counts=function, average=average)


def map_iou(targets, predictions):
    """Mean precision over the IoU thresholds 0.50, 0.55 to 0.95, then over classes and images (Data Science
    Bowl 2018). Objects are connected components (8-connectivity). A predicted object matches a true one if
    their IoU exceeds the threshold; precision is TP / (TP + FP + FN), and 1 if there are neither true nor
    predicted objects."""
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
    """Whether all predictions are finite. A diverged network predicts NaN, which would count as empty masks
    and could score well."""
    import numpy as np

    return all(np.asarray(p).dtype.kind != "f" or np.isfinite(p).all() for p in predictions)


def _objects(mask: np.ndarray) -> np.ndarray:
    import numpy as np
    from scipy.ndimage import label

    return label(mask, structure=np.ones((3, 3)))[0]


def _precision(true: np.ndarray, said: np.ndarray) -> float:
    """Mean precision over the thresholds from object labels (H, W), 0 for background. Above IoU 0.5 each
    object has at most one match."""
    import numpy as np

    n_true, n_said = int(true.max()), int(said.max())
    if n_true == 0 or n_said == 0:
        return float(n_true == n_said)
    joint = np.bincount(true.ravel() * (n_said + 1) + said.ravel(), minlength=(n_true + 1) * (n_said + 1))
    joint = joint.reshape(n_true + 1, n_said + 1)  # (true, predicted) pixels in common
    overlap = joint[1:, 1:]
    union = joint.sum(1)[1:, None] + joint.sum(0)[None, 1:] - overlap
    # Integer arithmetic, because floating-point rounding decides whether 11 / 20 exceeds 0.55.
    found = [int((100 * overlap > percent * union).sum()) for percent in range(50, 100, 5)]
    return float(np.mean([hits / (n_true + n_said - hits) for hits in found]))


METRICS = (
    _by_pixels("dice", counts.dice, "images"),
    _by_pixels("iou", counts.iou, "images"),
    Metric("map_iou", map_iou, 1, _TASK, decides="threshold", average="images"),
    _by_pixels("dice_global", counts.dice, "columns"),
    _by_pixels("iou_global", counts.iou, "columns"),
)
