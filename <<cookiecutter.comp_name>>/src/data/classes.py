"""Compact targets for many classes: class indices instead of dense one-hot rows. With 10,000 classes and
20,000 rows a dense table takes 800 MB, so only the rows of a batch become dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.data.mask_targets import MaskTargets
from src.tasks.base import Task


@dataclass(frozen=True)
class ClassTargets:
    """Sparse targets that are indexed by rows like the array (N, C) float32. A code >= 0 is a class index;
    the codes -1, -2, ... refer to the rows of `soft` (M, C), such as soft pseudo-labels."""

    codes: np.ndarray  # (N,)
    n_classes: int
    soft: np.ndarray

    ndim, dtype = 2, np.dtype(np.float32)

    @classmethod
    def of(cls, codes: np.ndarray, n_classes: int) -> ClassTargets:
        """Targets with one class per row."""
        return cls(np.asarray(codes, np.int64), n_classes, np.empty((0, n_classes), np.float32))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.codes), self.n_classes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> np.ndarray:
        codes = self.codes[rows]
        dense = np.zeros((*np.shape(codes), self.n_classes), np.float32)
        np.put_along_axis(dense, np.maximum(codes, 0)[..., None], 1, axis=-1)
        if len(self.soft):
            dense[codes < 0] = self.soft[-1 - codes[codes < 0]]
        return dense

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=False)

    def __add__(self, soft: np.ndarray) -> ClassTargets:
        codes = -1 - len(self.soft) - np.arange(len(soft))
        both = np.concatenate([self.soft, np.asarray(soft, np.float32)])
        return ClassTargets(np.concatenate([self.codes, codes]), self.n_classes, both)

    def part(self, rows: Any) -> ClassTargets:
        """The targets of the given rows, still sparse."""
        return ClassTargets(self.codes[rows], self.n_classes, self.soft)

    def argmax(self, axis: int = 1) -> np.ndarray:
        """(N,) the class with the largest target."""
        best = self.soft.argmax(1) if len(self.soft) else np.zeros(1, np.int64)
        return np.where(self.codes >= 0, self.codes, best[np.maximum(-1 - self.codes, 0)])

    def sum(self, axis: int = 0) -> np.ndarray:
        """(C,) the number of rows per class; a soft row counts by its shares."""
        hard = np.bincount(self.codes[self.codes >= 0], minlength=self.n_classes)
        return hard + self.soft[-1 - self.codes[self.codes < 0]].sum(0, dtype=np.float64)

    def __matmul__(self, values: np.ndarray) -> np.ndarray:
        """(N,) the mean of the class values (C,), weighted by the targets of each row."""
        of_soft = self.soft.astype(np.float64) @ values if len(self.soft) else np.zeros(1)
        return np.where(
            self.codes >= 0, values[np.maximum(self.codes, 0)], of_soft[np.maximum(-1 - self.codes, 0)]
        )


def targets_of(task: Task, labels: pd.DataFrame, outputs: list[str]) -> Any:
    """Training targets of labels (N rows): the array of `Task.encode`, or `ClassTargets` for multiclass."""
    if task.stacking == "classes":
        return ClassTargets.of(task.truth(labels, outputs), len(outputs))
    return task.encode(labels, outputs)


def taken(targets: Any, rows: Any) -> Any:
    """The targets of the given rows, from an array, `MaskTargets` or `ClassTargets`; the type is kept."""
    return targets.part(rows) if isinstance(targets, MaskTargets | ClassTargets) else targets[rows]
