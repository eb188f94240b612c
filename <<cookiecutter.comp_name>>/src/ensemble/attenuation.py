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

NOISE_ROWS = 5_000  # of the test rows, to see noise on
FEWEST_FOLDS = 50  # on fewer it cannot be told


@dataclass(frozen=True)
class AveragedScore:
    """Of candidates with OOF predictions (N, C), targets (N, C) and `noise` (C,), see
    `variance_between_folds`: the expected correlation with the targets once the folds' models are averaged,
    as the mean over outputs."""

    oof: dict[str, np.ndarray]
    targets: np.ndarray
    fold: np.ndarray  # (N,)
    noise: dict[str, np.ndarray]

    def __call__(self, name: str, rows: np.ndarray | None = None) -> list[float]:
        """That of a candidate by the rows of each fold, or of each that is among some rows; NaN where it is
        not defined, and nothing where it is not known."""
        if name not in self.noise:
            return []
        models = len(np.unique(self.fold))
        rows = np.arange(len(self.fold)) if rows is None else rows
        return [self._of(name, rows[self.fold[rows] == k], models) for k in np.unique(self.fold[rows])]

    def _of(self, name: str, rows: np.ndarray, models: int) -> float:
        said, true = self.oof[name][rows].T, self.targets[rows].T
        found = [correlation(*of, models) for of in zip(said, true, self.noise[name], strict=True)]
        known = [one for one in found if one is not None]
        return float(np.mean(known)) if known else float("nan")


UNKNOWN = AveragedScore({}, np.empty(0), np.empty(0), {})  # of no candidate


def correlation(said: np.ndarray, true: np.ndarray, noise: float, models: int) -> float | None:
    """Of predictions (N,) whose variance holds `noise` the correlation with the truth (N,) that the mean of
    so many models like theirs has; None where either is constant. Unknown truths are NaN."""
    known = np.isfinite(true)
    x, y = said[known].astype(np.float64), true[known].astype(np.float64)
    if len(y) < 2 or x.std() == 0 or y.std() == 0:
        return None
    left = max(x.var() - (1 - 1 / models) * noise, noise / models)
    return float(np.mean((x - x.mean()) * (y - y.mean())) / np.sqrt(left * y.var()))


def variance_between_folds(parts: list[np.ndarray]) -> np.ndarray:
    """(C,) the variance among the folds' models, each with its (T, C) predictions of the same rows."""
    return np.stack(parts).astype(np.float64).var(axis=0, ddof=1).mean(axis=0)
