"""The prior, predicted for unreadable images: the mean OOF prediction, or the most common identities."""

from __future__ import annotations

from typing import Any

import numpy as np

from src.config import Config
from src.decisions import assemble, take_rows
from src.maps import Maps
from src.metrics.retrieval import Ranking
from src.tasks.base import Task


class Prior:
    """The prediction for an image that cannot be read; for segmentation it is an empty mask."""

    def __init__(self, about: dict[str, Any], task: Task, config: Config):
        self.said, self.kind, self.classes = about["prior"], task.kind, len(about["dataset"]["outputs"])
        self.new = config.data.new_label

    def of(self, count: int) -> Any:
        """The prior for `count` images."""
        if self.kind == "numbers":
            return np.tile(np.array(self.said, dtype=np.float64), (count, 1))
        if self.kind == "maps":
            nothing = Maps.of([np.zeros((self.classes, 1, 1), np.uint8)])
            return Maps([nothing.cells[0]] * count, [(1, 1)] * count)
        return Ranking([list(self.said)] * count, [[-1.0] * len(self.said)] * count, self.new)

    def like(self, said: Any, count: int) -> Any:
        """The prior for `count` images, in the dtype of the given predictions."""
        return self.of(count).astype(said.dtype) if self.kind == "numbers" else self.of(count)

    def where(self, good: np.ndarray, said: Any) -> Any:
        """The predictions, with the prior in the rows that are not good."""
        bad = np.flatnonzero(~good)
        if not len(bad):
            return said
        if self.kind == "maps":
            return Maps.joined(
                [take_rows(said if ok else self.of(len(good)), [i]) for i, ok in enumerate(good)]
            )
        kept = np.flatnonzero(good)
        return assemble([(kept, take_rows(said, kept)), (bad, self.like(said, len(bad)))])
