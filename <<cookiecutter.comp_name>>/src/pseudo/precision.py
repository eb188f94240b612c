"""Estimated precision of a round's pseudo-labels, from OOF rows that pass the same selection.

It is for reporting only: it uses every fold's labels, so nothing may be chosen by it within a fold.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from src.config import Pseudo
from src.maps import UNSURE, resize_maps
from src.pseudo.labels import calibration_rows, labelled_rows
from src.pseudo.select import hard_labels, select
from src.reading import read_parquet
from src.steps import Run
from src.tasks.base import Task, targets_in


def estimated_precision(
    run: Run, task: Task, outputs: list[str], folds: tuple[int, ...], asked: int
) -> tuple[float | None, int]:
    """Share of correct labels among the OOF rows that the round's rule would select, and their number
    (cells for multi-label tasks, pixels for masks). `asked` is the number of unlabelled rows, to which a
    cap given in rows refers. The share is None for numbers, which are never exactly right, and if nothing
    is selected."""
    if task.stacking == "values":
        return None, 0
    before, right, told = run.config.root / "runs" / str(run.labels_from), 0, 0
    for fold in folds:
        oof = read_parquet(before / f"fold{fold}" / "oof.parquet")
        settings = _as_share(run.config.pseudo, asked)
        labelled = labelled_rows(run, fold, task, outputs) if settings.prior else None
        chosen = select(oof, task, outputs, settings, calibration_rows(run, fold), labelled)
        truth = targets_in(oof.set_index("id").loc[chosen["id"]])
        hits = correct_cells(chosen, truth, task, outputs)
        right, told = right + int(hits.sum()), told + len(hits)
    return (right / told if told else None), told


def correct_cells(chosen: pd.DataFrame, truth: pd.DataFrame, task: Task, outputs: list[str]) -> np.ndarray:
    """Boolean mask (cells,): whether each selected label equals the true one, one entry per known cell."""
    if task.kind == "rankings":
        told = [row[0] for row in chosen["candidates"]]
        return np.array([a == b for a, b in zip(told, truth.iloc[:, 0], strict=True)], dtype=bool)
    if task.kind == "maps":
        hits = [np.empty(0, bool)]
        pairs = zip(task.read(chosen, outputs).resized(None), task.truth(truth, outputs), strict=True)
        for maps, mask in pairs:
            inside, known = resize_maps(mask, maps.shape[1:]) >= UNSURE, maps != UNSURE
            hits.append((maps > UNSURE)[known] == inside[known])
        return np.concatenate(hits)
    told = hard_labels(chosen, task, outputs)
    own = task.truth(truth, outputs)[:, None] if task.stacking == "classes" else task.encode(truth, outputs)
    return (told == own)[~np.isnan(told)]


def _as_share(settings: Pseudo, asked: int) -> Pseudo:
    """The same settings with a cap in rows converted to a share of the `asked` rows, so that it applies to
    another number of rows."""
    if not isinstance(settings.cap, int):
        return settings
    return settings.model_copy(update={"cap": settings.cap / asked if settings.cap < asked else None})
