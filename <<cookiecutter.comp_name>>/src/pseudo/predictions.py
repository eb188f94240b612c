"""Predictions of a fold's models for rows that stage 03 does not cover: the early-stopping rows and external
images."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import torch

from src.artifacts import Step, write_parquet
from src.data.extra import with_extra
from src.data.images import open_images
from src.data.loaders import load_fold, read_folds
from src.data.masks import true_masks
from src.inference.fold_tables import FoldPredictor, identities
from src.inference.predict import embed, predict, predict_maps
from src.inference.snapshots import load_models, mean_tables
from src.locks import alone
from src.pseudo.steps import early_stopping_step, external_step
from src.steps import Run, images_step
from src.tasks import create_task
from src.tasks.base import as_target_columns, targets_in
from src.training.worker_pool import run_in_parallel

_Rows = Literal["stop", "extra"]


def predict_rows(run: Run, folds: tuple[int, ...], rows: _Rows) -> None:
    """Bring each fold's `stop.parquet` (id, fold, target, predictions) or `extra.parquet` (id, predictions)
    up to date. Both are predicted in the same way as test rows."""
    steps = {fold: (early_stopping_step if rows == "stop" else external_step)(run, fold) for fold in folds}
    with alone(*(step.folder for step in steps.values() if not step.fresh())):
        _ask(run, rows, steps)


def _ask(run: Run, rows: _Rows, steps: dict[int, Step]) -> None:
    jobs = [(run, fold, rows, step) for fold, step in steps.items() if step.begin()]
    if not jobs:
        return
    if rows == "stop":
        each = len(read_folds(run.config)) // run.config.cv.stop_parts
    else:
        each = len(with_extra(open_images(run.config), run.config).extra)
    run_in_parallel(predict_fold_rows, jobs, run.config, f"04 ask {run.name}", len(jobs) * each)


def predict_fold_rows(run: Run, fold: int, rows: _Rows, step: Step, device: torch.device, report) -> None:
    """Write one fold's prediction table."""
    config, task = run.config, create_task(run.config)
    data, said = load_fold(config, task, fold), []
    store = data.store
    for model in load_models(step.folder):
        asked = FoldPredictor(config, task, data, model, device, report)
        if rows == "stop":
            table, positions = known_rows(asked, data.stop_index), store.train[data.stop_index]
            sizes = [store.train_sizes[i] for i in data.stop_index]
        else:
            table, positions, sizes = pd.DataFrame({"id": store.extra_ids}), store.extra, store.extra_sizes
        said.append({rows: table.join(predict_positions(asked, positions, sizes))})
    write_parquet(step.folder / step.outputs[0], mean_tables(said, task, data.outputs)[rows])
    step.done()


def predict_positions(
    asked: FoldPredictor, positions: np.ndarray, sizes: list[tuple[int, int]]
) -> pd.DataFrame:
    """Predictions for the images at `positions`, whose files have the given `sizes`, as columns of a
    prediction table. Rankings are searched among the rows that the model was trained on, as test rows are for
    pseudo-labels."""
    data, task, settings = asked.data, asked.task, asked.config.inference
    where, how = (asked.model, data.store), (settings, asked.device, asked.report)
    if task.kind == "rankings":
        gallery = embed(*where, data.store.train[data.train_index], *how)
        owners = task.encode(targets_in(read_folds(asked.config)), data.outputs)[data.train_index, 0]
        found = identities(embed(*where, positions, *how), gallery, owners.astype(np.int64), settings)
        return task.write(task.ranking(*found, data.outputs), data.outputs)
    place = (asked.model, task, data.store, positions)
    if task.kind == "maps":
        said = predict_maps(*place, sizes, settings, asked.config.data, asked.device, asked.report)
        return task.write(said, data.outputs)
    said, spread = predict(*place, *how)
    table = task.write(said, data.outputs)
    return table.assign(spread=spread) if task.scaled and spread is not None else table


def known_rows(asked: FoldPredictor, index: np.ndarray) -> pd.DataFrame:
    """Rows `index` of folds.csv: id, fold and targets; for maps the true masks."""
    if asked.task.kind != "maps":
        return asked.table(index)
    truth = true_masks(images_step(asked.config).folder, asked.data.outputs).iloc[index]
    return asked.table(index)[["id", "fold"]].join(as_target_columns(truth.reset_index(drop=True)))
