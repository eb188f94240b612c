"""Targets of one class out of C a row, kept as the numbers of the classes: with 10,000 classes a dense table
of 20,000 rows has 800 MB. Only the rows of a batch become dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.data.mask_targets import MaskTargets
from src.tasks.base import Task


@dataclass(frozen=True)
class ClassTargets:
    """Targets (N, C) float32, indexed by rows like the array they stand for. A code from 0 on is a class, and
    -1, -2, ... are the rows of `soft` (M, C): pseudo-labels have shares of several classes."""

    codes: np.ndarray  # (N,)
    n_classes: int
    soft: np.ndarray

    ndim, dtype = 2, np.dtype(np.float32)

    @classmethod
    def of(cls, codes: np.ndarray, n_classes: int) -> ClassTargets:
        """One class a row."""
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
        """Those of some rows, as codes."""
        return ClassTargets(self.codes[rows], self.n_classes, self.soft)

    def argmax(self, axis: int = 1) -> np.ndarray:
        """(N,) the likeliest class."""
        best = self.soft.argmax(1) if len(self.soft) else np.zeros(1, np.int64)
        return np.where(self.codes >= 0, self.codes, best[np.maximum(-1 - self.codes, 0)])

    def sum(self, axis: int = 0) -> np.ndarray:
        """(C,) rows of each class, what a row has of it counted."""
        hard = np.bincount(self.codes[self.codes >= 0], minlength=self.n_classes)
        return hard + self.soft[-1 - self.codes[self.codes < 0]].sum(0, dtype=np.float64)

    def __matmul__(self, values: np.ndarray) -> np.ndarray:
        """(N,) the mean of a value a class (C,), by what a row has of each."""
        of_soft = self.soft.astype(np.float64) @ values if len(self.soft) else np.zeros(1)
        return np.where(
            self.codes >= 0, values[np.maximum(self.codes, 0)], of_soft[np.maximum(-1 - self.codes, 0)]
        )


def targets_of(task: Task, labels: pd.DataFrame, outputs: list[str]) -> Any:
    """What a model learns from of labels (N rows): `Task.encode`'s table, or the classes' numbers."""
    if task.stacking == "classes":
        return ClassTargets.of(task.truth(labels, outputs), len(outputs))
    return task.encode(labels, outputs)


def taken(targets: Any, rows: Any) -> Any:
    """Those of some rows, of an array or of what stands for one, which stays as it is kept."""
    return targets.part(rows) if isinstance(targets, MaskTargets | ClassTargets) else targets[rows]
