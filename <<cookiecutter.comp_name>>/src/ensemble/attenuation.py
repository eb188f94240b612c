"""How well a candidate does once each run's folds are averaged, which OOF rows cannot show.

An OOF row is the word of one model a run, a test row the mean of all folds' models. Runs that are blended
cancel noise, and CV calls that a gain; but on test rows the folds have cancelled most of that noise already.
How much of it there is shows without any label, on test rows, where the models of the folds differ by nothing
else. Without it the correlation of a candidate with the truth is what it will be there (the correction for
attenuation, Spearman 1904, for the mean of K; the noise's share of a mean of K, Krogh, Vedelsby 1995).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROWS = 5_000  # of the test rows, to see noise on
FEWEST = 50  # on fewer it cannot be told


@dataclass(frozen=True)
class Averaged:
    """Of candidates with OOF predictions (N, C), targets (N, C) and `noise` (C,), see `between`: the expected
    correlation with the targets of the mean of `folds` models, at the mean of the outputs."""

    oof: dict[str, np.ndarray]
    targets: np.ndarray
    noise: dict[str, np.ndarray]
    folds: int

    def __call__(self, name: str, rows: np.ndarray | None = None) -> float | None:
        """That of a candidate, by some rows; None where it is not known."""
        if name not in self.noise:
            return None
        rows = np.arange(len(self.targets)) if rows is None else rows
        found = [
            correlation(said, true, noise, self.folds)
            for said, true, noise in zip(
                self.oof[name][rows].T, self.targets[rows].T, self.noise[name], strict=True
            )
        ]
        known = [one for one in found if one is not None]
        return float(np.mean(known)) if known else None


def correlation(said: np.ndarray, true: np.ndarray, noise: float, folds: int) -> float | None:
    """Of predictions (N,) whose variance holds `noise` the correlation with the truth (N,) that the mean of
    so many like them has; None where either is constant. Unknown truths are NaN."""
    known = np.isfinite(true)
    x, y = said[known].astype(np.float64), true[known].astype(np.float64)
    if len(y) < 2 or x.std() == 0 or y.std() == 0:
        return None
    left = max(x.var() - (1 - 1 / folds) * noise, noise / folds)
    return float(np.mean((x - x.mean()) * (y - y.mean())) / np.sqrt(left * y.var()))


def between(parts: list[np.ndarray]) -> np.ndarray:
    """(C,) the variance among the folds' models, each with its (T, C) predictions of the same rows."""
    return np.stack(parts).astype(np.float64).var(axis=0, ddof=1).mean(axis=0)
