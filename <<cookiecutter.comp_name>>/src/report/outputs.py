"""Targets and predictions compared, one row per output: shows a class that is never predicted, or a number
out of range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.tasks.base import Task


def describe_outputs(task: Task, truth: Any, said: Any, outputs: list[str]) -> pd.DataFrame:
    """Compare targets and predictions per output. For classes and labels: the true and predicted counts, and
    the mean, lowest and highest probability; for numbers: mean, lowest and highest of both; for masks: the
    share of pixels; for rankings: how often a label comes first."""
    return _KINDS[task.stacking](truth, said, outputs)


def classes(truth: np.ndarray, said: np.ndarray, outputs: list[str]) -> pd.DataFrame:
    """Counts of the true classes (N,) and of the most likely classes of predictions (N, C)."""
    size = len(outputs)
    return pd.DataFrame(
        {
            "output": outputs,
            "rows": np.bincount(truth, minlength=size),
            "said": np.bincount(said.argmax(1), minlength=size),
            **_range(said, "probability"),
        }
    )


def labels(truth: np.ndarray, said: np.ndarray, outputs: list[str]) -> pd.DataFrame:
    """Counts of positives in the targets, (N,) or (N, C), and of probabilities (N, C) of at least 0.5."""
    truth = np.asarray(truth, dtype=np.float64).reshape(said.shape)
    rows, yes = np.nansum(truth, axis=0).astype(int), (said >= 0.5).sum(0)
    return pd.DataFrame({"output": outputs, "rows": rows, "said": yes, **_range(said, "probability")})


def values(truth: np.ndarray, said: np.ndarray, outputs: list[str]) -> pd.DataFrame:
    """Ranges of the numbers (N, C)."""
    return pd.DataFrame({"output": outputs, **_range(truth, "target"), **_range(said, "said")})


def pixels(truth: Any, said: Any, outputs: list[str]) -> pd.DataFrame:
    """Number of images with a class, number predicted to have it, and its share of all pixels; from
    `Maps`."""
    true, told = [np.stack([m.mean((1, 2)) / 255 for m in maps]) for maps in (truth, said)]  # (N, C)
    there, yes = ((np.stack([(m >= 128).any((1, 2)) for m in maps])) for maps in (truth, said))
    return pd.DataFrame(
        {
            "output": outputs,
            "rows": there.sum(0),
            "said": yes.sum(0),
            "share_of_pixels": true.mean(0),
            "said_share": told.mean(0),
        }
    )


def describe_rankings(truth: np.ndarray, said: Any, outputs: list[str]) -> pd.DataFrame:
    """Number of queries of each label, and number of queries that have it as their first answer; from a
    `Ranking`."""
    rows, first = pd.Series(truth).value_counts(), pd.Series([row[0] for row in said.labels]).value_counts()
    names = list(dict.fromkeys([*outputs, *rows.index]))
    counts = (found.reindex(names, fill_value=0).to_numpy() for found in (rows, first))
    return pd.DataFrame(dict(zip(("output", "rows", "said"), (names, *counts), strict=True)))


def _range(numbers: np.ndarray, name: str) -> dict[str, np.ndarray]:
    return {
        f"mean_{name}": np.nanmean(numbers, axis=0),
        f"least_{name}": np.nanmin(numbers, axis=0),
        f"highest_{name}": np.nanmax(numbers, axis=0),
    }


_KINDS = {
    "classes": classes,
    "labels": labels,
    "values": values,
    "pixels": pixels,
    "pairs": describe_rankings,
}
