"""Thresholds per class for masks, with one pass over the images: what each image adds to the metric at every
candidate threshold. Every rule, fold and ensemble choice is then fitted and scored from these numbers.

Thresholds are exact to 1/255 for pixel metrics, from histograms of the probabilities inside and outside the
true masks. For object metrics, which need connected components for each threshold, they are multiples of 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from src.decisions.thresholds import best_of, by_trial
from src.machine import cpu_count
from src.metrics import Metric
from src.metrics.segmentation import class_masks, threshold_masks

if TYPE_CHECKING:
    import numpy as np

LEVELS = 257  # from "every pixel" to "none"; level q takes pixels of at least q/255, and 128 is 0.5
TENTHS = [level / 10 for level in range(1, 10)]


@dataclass(frozen=True)
class MaskCounts:
    """Contributions of N images to a metric at L thresholds. `parts` is (N, 1, C, L), the score of each
    image, for a mean over images, otherwise (N, 4, C, L), confusion counts. `sound` (N,) is False for
    non-finite predictions."""

    metric: Metric
    values: np.ndarray  # (L,) the thresholds, ascending
    parts: np.ndarray
    sound: np.ndarray

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def classes(self) -> int:
        return self.parts.shape[2]

    def take(self, rows: np.ndarray) -> MaskCounts:
        """The given images."""
        return replace(self, parts=self.parts[rows], sound=self.sound[rows])

    @staticmethod
    def joined(several: Sequence[MaskCounts]) -> MaskCounts:
        """Concatenate the images of several."""
        import numpy as np

        parts, sound = (np.concatenate([getattr(one, n) for one in several]) for n in ("parts", "sound"))
        return replace(several[0], parts=parts, sound=sound)

    def fit(self) -> list[float]:
        """The best threshold of each class; an empty list without images."""
        import numpy as np

        parts = self.parts[self.sound]
        if not len(parts):
            return []
        total = parts.sum(0, dtype=np.float64)  # (1 or 4, C, L)
        scores = self.metric.sign * (total[0] if len(total) == 1 else self.metric.counts(*total))
        return [best_of(self.values, row / len(parts))[0] for row in scores]

    def score(self, thresholds: np.ndarray) -> float:
        """The metric of the images decided at thresholds (N, C); NaN if a prediction is not finite."""
        import numpy as np

        if not self.sound.all():
            return float("nan")
        place = np.searchsorted(self.values, thresholds)[:, None, :, None]  # (N, 1, C, 1)
        found = np.take_along_axis(self.parts, place, axis=3)[..., 0]  # (N, 1 or 4, C)
        if found.shape[1] == 1:
            return float(np.ascontiguousarray(found[:, 0]).mean())
        return float(self.metric.counts(*found.sum(0, dtype=np.float64)).mean())


def count(metric: Metric, targets: Any, predictions: Any) -> MaskCounts:
    """Compute `MaskCounts` in one pass. Raises ValueError naming an image whose prediction and target differ
    in shape."""
    import numpy as np

    pixels, mean = metric.counts is not None, metric.average == "images"
    values = (np.arange(LEVELS) - 0.5) / 255 if pixels else np.array(TENTHS)

    def look(number: int) -> tuple[np.ndarray, bool]:
        prediction = np.asarray(predictions[number])
        prediction = prediction.reshape(-1, *prediction.shape[-2:])
        target = class_masks(targets[number], len(prediction))
        if target.shape != prediction.shape:
            raise ValueError(
                f"image {number}: target {target.shape} and prediction {prediction.shape} differ in shape"
            )
        sound = prediction.dtype.kind != "f" or bool(np.isfinite(prediction).all())
        if not pixels:
            return scores_by_trial(metric, target, prediction)[None], sound
        cells = counts_by_level(target, prediction)  # 4 of (C, LEVELS)
        return metric.counts(*cells)[None] if mean else np.stack(cells).astype(np.int32), sound

    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets and {len(predictions)} predictions differ in number")
    with ThreadPoolExecutor(cpu_count()) as pool:  # packed maps are decoded here
        parts, sound = zip(*pool.map(look, range(len(predictions))), strict=True)
    return MaskCounts(metric, values, np.stack(parts), np.array(sound))


def counts_by_level(target: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, ...]:
    """(tp, fp, fn, tn) of one image, each (C, LEVELS), from true masks (C, H, W) bool and a prediction (C, H,
    W); a bool decision is the same at every level."""
    import numpy as np

    bins = LEVELS + 1  # the bin of a pixel is the number of levels that take it
    if prediction.dtype == bool:
        steps = prediction * np.uint16(LEVELS)
    elif prediction.dtype == np.uint8:
        steps = prediction + np.uint16(1)
    else:
        threshold_masks(prediction[:, :1, :1])  # raises for integers other than uint8
        steps = np.searchsorted((np.arange(LEVELS) - 0.5) / 255, prediction, side="right").astype(np.uint16)
    both = (steps + target * np.uint16(bins)).reshape(len(steps), -1)  # (C, H * W)
    found = np.stack([np.bincount(row, minlength=2 * bins) for row in both]).reshape(-1, 2, bins)
    # pixels taken by at least so many levels
    least = np.cumsum(found[:, :, ::-1], axis=2)[:, :, ::-1].astype(np.float64)
    fp, tp = least[:, 0, 1:], least[:, 1, 1:]
    return tp, fp, least[:, 1, :1] - tp, least[:, 0, :1] - fp


def scores_by_trial(metric: Metric, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(C, 9) the metric of one image per class at each multiple of 0.1."""
    import numpy as np

    pairs = [(t[None], p[None]) for t, p in zip(target, prediction, strict=True)]
    return np.array([[metric([t], [threshold_masks(p, value)]) for value in TENTHS] for t, p in pairs])


def fit_masks(metric: Metric, targets: Any, predictions: Any) -> list[float]:
    """The best multiple of 0.1 for each class, for a metric that is no mean over images and must run for
    every trial."""
    classes = len(threshold_masks(predictions[0]))
    decided = lambda thresholds: [threshold_masks(p, thresholds) for p in predictions]  # noqa: E731
    return by_trial(metric, targets, decided, classes, TENTHS)
