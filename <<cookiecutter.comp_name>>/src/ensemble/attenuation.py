"""Correction for attenuation: a candidate's expected correlation once each run's fold models are averaged.

OOF rows cannot show this: an OOF prediction comes from one model per run, a test prediction from the mean of
all fold models. Blending runs cancels noise, and CV counts that as a gain; on test rows the mean over folds
has already cancelled most of that noise.

The size of the noise is measured without labels, on test rows, where the fold models of a run differ only by
it. With the noise reduced to what a mean of K models keeps, the correlation of a candidate with the truth is
the one to expect on test rows. Spearman 1904 (correction for attenuation, here for the mean of K); Krogh,
Vedelsby 1995 (the share of noise that a mean of K keeps).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOISE_ROWS = 5_000  # number of test rows used to estimate the noise
FEWEST_TEST_ROWS = 50  # with fewer test rows the noise is not estimated


@dataclass(frozen=True)
class AveragedScore:
    """Expected score of candidates once the fold models are averaged: the mean over outputs of the
    correlation with the targets.

    `oof` holds each candidate's OOF predictions (N, C), `targets` is (N, C), and `noise` (C,) per candidate
    comes from `variance_between_folds`.
    """

    oof: dict[str, np.ndarray]
    targets: np.ndarray
    fold: np.ndarray  # (N,)
    noise: dict[str, np.ndarray]

    def __call__(self, name: str, rows: np.ndarray | None = None) -> list[float]:
        """A candidate's expected correlation for each fold, over all rows or only the given `rows`. NaN where
        it is undefined; an empty list if the candidate's noise is unknown."""
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


UNKNOWN = AveragedScore({}, np.empty(0), np.empty(0), {})  # knows no candidate


def correlation(said: np.ndarray, true: np.ndarray, noise: float, models: int) -> float | None:
    """Expected correlation with the targets `true` (N,) of the mean of `models` models like the one that made
    the predictions `said` (N,), whose variance includes `noise`. NaN targets are ignored. None if predictions
    or targets are constant."""
    known = np.isfinite(true)
    x, y = said[known].astype(np.float64), true[known].astype(np.float64)
    if len(y) < 2 or x.std() == 0 or y.std() == 0:
        return None
    left = max(x.var() - (1 - 1 / models) * noise, noise / models)
    return float(np.mean((x - x.mean()) * (y - y.mean())) / np.sqrt(left * y.var()))


def variance_between_folds(parts: list[np.ndarray]) -> np.ndarray:
    """Variance between the fold models' predictions (C,). `parts` holds one (T, C) array per fold, all for
    the same rows."""
    return np.stack(parts).astype(np.float64).var(axis=0, ddof=1).mean(axis=0)
