"""What a fold's model says of rows beside its own and the test rows, asked where stage 04 needs it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from src.artifacts import Step, write_parquet
from src.data.loaders import load_fold, read_folds
from src.data.masks import true_masks
from src.inference.answers import Asked
from src.inference.predict import predict, predict_maps
from src.inference.snapshots import load_models, mean_tables
from src.pseudo.steps import stop_step
from src.steps import Run, images_step
from src.tasks import create_task
from src.tasks.base import as_targets
from src.training.launch import side_by_side


def ask_stop_rows(run: Run, folds: tuple[int, ...]) -> None:
    """Bring each fold's `stop.parquet` up to date: id, fold, target and predictions of the rows that decided
    when its model stops, seen as test rows are."""
    steps = {fold: stop_step(run, fold) for fold in folds}
    jobs = [(run, fold, steps[fold]) for fold in folds if steps[fold].begin()]
    if jobs:
        rows = len(jobs) * len(read_folds(run.config)) // run.config.cv.stop_parts
        side_by_side(ask_stop, jobs, run.config, f"04 calibrate {run.name}", rows)


def ask_stop(run: Run, fold: int, step: Step, device: torch.device, report) -> None:
    """Write one fold's `stop.parquet`."""
    config, task = run.config, create_task(run.config)
    data = load_fold(config, task, fold)
    said = []
    for model in load_models(step.folder):
        asked, index = Asked(config, task, data, model, device, report), data.stop_index
        sizes = [data.store.train_sizes[i] for i in index]
        said.append({"stop": known_rows(asked, index).join(answer(asked, data.store.train[index], sizes))})
    write_parquet(step.folder / "stop.parquet", mean_tables(said, task, data.outputs)["stop"])
    step.done()


def answer(asked: Asked, positions: np.ndarray, sizes: list[tuple[int, int]]) -> pd.DataFrame:
    """Predictions for images at `positions` whose files have `sizes`, as columns of a prediction table."""
    data, task, settings = asked.data, asked.task, asked.config.inference
    place = (asked.model, task, data.store, positions)
    if task.kind == "maps":
        said = predict_maps(*place, sizes, settings, asked.config.data, asked.device, asked.report)
        return task.write(said, data.outputs)
    said, spread = predict(*place, settings, asked.device, asked.report)
    table = task.write(said, data.outputs)
    return table.assign(spread=spread) if task.scaled and spread is not None else table


def known_rows(asked: Asked, index: np.ndarray) -> pd.DataFrame:
    """The rows `index` of folds.csv: id, fold and targets; of maps the true masks."""
    if asked.task.kind != "maps":
        return asked.table(index)
    truth = true_masks(images_step(asked.config).folder, asked.data.outputs).iloc[index]
    return asked.table(index)[["id", "fold"]].join(as_targets(truth.reset_index(drop=True)))
