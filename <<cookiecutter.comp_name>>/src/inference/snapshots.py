"""The models that a fold left, and their predictions as one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from src.models.build import Network
from src.models.weights import load_model
from src.tasks.base import Task

SNAPSHOTS = "snapshot*.safetensors"


def model_files(folder: Path) -> list[Path]:
    """What predicts in a fold's folder: its snapshots where there are any, else its one model."""
    snapshots = sorted(folder.glob(SNAPSHOTS), key=lambda path: (len(path.name), path.name))
    return snapshots or [folder / "model.safetensors"]


def load_models(folder: Path) -> list[Network]:
    """These models, in evaluation mode."""
    return [load_model(path) for path in model_files(folder)]


def mean_tables(
    several: list[dict[str, pd.DataFrame]], task: Task, outputs: list[str]
) -> dict[str, pd.DataFrame]:
    """Several models' prediction tables of the same rows as their mean, as folds are averaged; of the spread
    over the views, too."""
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
