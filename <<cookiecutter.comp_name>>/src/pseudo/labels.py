"""Pseudo-labels of one round: for each fold the predictions on the unlabelled rows, the confident selection,
and the change since the round before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import write_parquet
from src.data.classes import ClassTargets, targets_of
from src.data.extra import EXTERNAL_PREFIX
from src.data.loaders import read_folds
from src.inference.oof import read_outputs
from src.inference.snapshots import mean_tables
from src.pseudo.select import agreement, label_counts, label_shares, same_selection, select
from src.pseudo.steps import calibrated_on, select_step, unlabelled
from src.reading import read_parquet
from src.steps import Run
from src.tasks.base import Task, targets_in


def label_round(run: Run, task: Task, folds: tuple[int, ...]) -> dict[str, Any]:
    """Select each fold's pseudo-labelled rows and describe the selection: number of rows, rows and share per
    class, and agreement with the round before."""
    outputs = read_outputs(run)
    before = run.config.root / "runs" / str(run.labels_from)
    tables, earlier = [], []
    for fold in folds:
        step = select_step(run, fold)
        path = run.folder / step.outputs[0]
        if step.begin():
            said, known = unlabelled_predictions(run, fold, task, outputs), calibration_rows(run, fold)
            labelled = labelled_rows(run, fold, task, outputs) if run.config.pseudo.prior else None
            write_parquet(path, select(said, task, outputs, run.config.pseudo, known, labelled))
            step.done()
        tables.append(read_parquet(path))
        last = before / f"fold{fold}.pseudo.parquet"
        earlier.append(read_parquet(last) if last.exists() else None)
    agree = [agreement(now, then, task, outputs) for now, then in zip(tables, earlier, strict=True)]
    agree = [value for value in agree if value is not None]
    unchanged = [same_selection(now, then, task, outputs) for now, then in zip(tables, earlier, strict=True)]
    return {
        "selected": sum(len(table) for table in tables) / len(folds),
        "external": sum(int(table["id"].str.startswith(EXTERNAL_PREFIX).sum()) for table in tables)
        / len(folds),
        "asked": sum(len(_ids(paths[0])) for paths in unlabelled(run, folds[0]).values()),
        "class_share": label_shares(tables, task, outputs),
        "class_rows": label_counts(tables, task, outputs),
        "agreement": float(np.mean(agree)) if agree else None,
        "unchanged": all(unchanged),
    }


def unlabelled_predictions(run: Run, fold: int, task: Task, outputs: list[str]) -> pd.DataFrame:
    """Predictions for fold `fold` on the unlabelled rows: the test rows, then the external images. Several
    models are averaged."""
    parts = []
    for name, paths in unlabelled(run, fold).items():
        parts.append(mean_tables([{name: read_parquet(path)} for path in paths], task, outputs)[name])
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]


def calibration_rows(run: Run, fold: int) -> pd.DataFrame | None:
    """The prediction table on which confidence is calibrated, or None."""
    path = calibrated_on(run, fold)
    return None if path is None else read_parquet(path)


def labelled_rows(run: Run, fold: int, task: Task, outputs: list[str]) -> np.ndarray | ClassTargets:
    """Targets (N, L) of the labelled rows that fold `fold` may use: all folds but its own."""
    table = read_folds(run.config)
    return targets_of(task, targets_in(table[table["fold"] != fold]), outputs)


def _ids(path: Path) -> pd.DataFrame:
    return read_parquet(path, columns=["id"])
