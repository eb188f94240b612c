"""Truth and predictions side by side, an output a row: a class that is never said, a number out of range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.tasks.base import Task


def describe_outputs(task: Task, truth: Any, said: Any, outputs: list[str]) -> pd.DataFrame:
    """Of classes and labels the rows that have one and those said to, the mean, least and highest
    probability; of numbers mean, least and highest of both; of masks the share of pixels; of rankings how
    often a label comes first."""
    return _KINDS[task.stacking](truth, said, outputs)


def classes(truth: np.ndarray, said: np.ndarray, outputs: list[str]) -> pd.DataFrame:
    """Counts of truth (N,) and of the likeliest class of predictions (N, C)."""
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
    """Counts of ones in truth (N,) or (N, C), and of probabilities (N, C) of one half or more."""
    truth = np.asarray(truth, dtype=np.float64).reshape(said.shape)
    rows, yes = np.nansum(truth, axis=0).astype(int), (said >= 0.5).sum(0)
    return pd.DataFrame({"output": outputs, "rows": rows, "said": yes, **_range(said, "probability")})


def values(truth: np.ndarray, said: np.ndarray, outputs: list[str]) -> pd.DataFrame:
    """The ranges of numbers (N, C)."""
    return pd.DataFrame({"output": outputs, **_range(truth, "target"), **_range(said, "said")})


def pixels(truth: Any, said: Any, outputs: list[str]) -> pd.DataFrame:
    """Images with a class, images that are said to have it, and its share of all pixels; of `Maps`."""
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
    """Queries of each label, and queries it is the first answer to; of a `Ranking`."""
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
