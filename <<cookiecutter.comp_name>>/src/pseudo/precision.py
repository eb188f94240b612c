"""How often labels like those of a round are right, by out-of-fold rows put through the same selection.

For people to read: it looks at every fold's labels, so nothing may be chosen by it within a fold.
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
    """The share of labels that are right among the OOF rows that a round's rule would select, and how many
    (of labels and of masks cells and pixels); `asked` unlabelled rows are what a cap in rows is of. None for
    numbers, which are never just right, and where nothing is selected."""
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
    """(cells,) bool: whether each label that was told is the row's own, one a known cell."""
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
    """The same settings for other rows: a cap in rows becomes the share that it is of those asked."""
    if not isinstance(settings.cap, int):
        return settings
    return settings.model_copy(update={"cap": settings.cap / asked if settings.cap < asked else None})
