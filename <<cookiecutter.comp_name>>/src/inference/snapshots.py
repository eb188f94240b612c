"""Snapshot ensembling: all models of a fold, and the mean of their predictions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from src.models.build import Network
from src.models.weights import load_model
from src.tasks.base import Task

SNAPSHOTS = "snapshot*.safetensors"


def model_files(folder: Path) -> list[Path]:
    """Model files of a fold's folder that are used for prediction: its snapshots if there are any, otherwise
    its single model."""
    snapshots = sorted(folder.glob(SNAPSHOTS), key=lambda path: (len(path.name), path.name))
    return snapshots or [folder / "model.safetensors"]


def load_models(folder: Path) -> list[Network]:
    """The models of a fold's folder, in evaluation mode."""
    return [load_model(path) for path in model_files(folder)]


def mean_tables(
    several: list[dict[str, pd.DataFrame]], task: Task, outputs: list[str]
) -> dict[str, pd.DataFrame]:
    """Mean of several models' prediction tables for the same rows, in the way folds are averaged, including
    the spread over TTA views."""
    first, columns = several[0], list(task.columns(outputs))
    if len(several) == 1:
        return first
    means = {}
    for name, table in first.items():
        mean = task.write(task.mean([task.read(one[name], outputs) for one in several]), outputs)
        means[name] = table.assign(**{column: mean[column].to_numpy() for column in columns})
        if "spread" in table:
            means[name]["spread"] = sum(one[name]["spread"] for one in several) / len(several)
    return means
