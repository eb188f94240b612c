"""Train one fold and write its outputs; a killed and resumed training writes the same files.

`checkpoint.pt` (tensors and plain values only) is written after every epoch, and every `runtime.save_minutes`
within a long one, with all that the next step depends on; it is deleted when the fold is finished. With
several ranks (DDP) checkpoints are saved only after epochs, because the file holds rank 0's random state
alone.
"""

from __future__ import annotations

import time
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd
import torch

from src.artifacts import Step, write_csv, write_json, write_parquet
from src.config import Train, UserError
from src.data.loaders import FoldData, load_fold, read_folds, training_rows
from src.models.weights import save_model
from src.optimism import optimism_flag, optimism_note
from src.reading import ASIDE, Unreadable, read_parquet, set_aside
from src.scoring import finite, score_text, why_undefined
from src.steps import Run
from src.tasks import create_task
from src.tracking import NoTracker, create_tracker
from src.training import checkpoint
from src.training.distributed import SINGLE_PROCESS, World
from src.training.loss_monitor import hardly_falls
from src.training.snapshots import Snapshots
from src.training.trainer import Report, Trainer

LEARNED = "learned.parquet"  # for `make leakcheck`; not an output of the step, so older folds stay up to date


def train_fold(
    run: Run, fold: int, step: Step, device: torch.device, report: Report, world: World = SINGLE_PROCESS
) -> None:
    """Train fold `fold` of a run and write the outputs of its train step.

    With several ranks (DDP) only the first rank writes; all ranks read its files. An unreadable checkpoint is
    set aside and the fold starts again. Raises `UserError` if the trained model's predictions are not finite.
    """
    config, task = run.config, create_task(run.config)
    data = load_fold(config, task, fold)
    rows = training_rows(run, task, fold, data)

    def new_trainer() -> Trainer:
        return Trainer(config, task, data, rows, fold, device, run.start(fold), world)

    snapshots = Snapshots(step.folder, config.train)
    path, title = step.folder / "checkpoint.pt", f"{run.name} fold {fold}"
    trainer, why = new_trainer(), None
    try:
        trainer.resume(path, step.fingerprint)
        snapshots.check(trainer.epoch)
    except Unreadable as error:
        why = str(error).partition(";")[0]
    if any(world.gather(why)):
        if why is not None:
            report(line=f"{title}: {why}; set aside, and the fold begins anew", last=True)
        if world.first:
            set_aside(path)
        del trainer  # free its memory before the new trainer is built
        trainer = new_trainer()
    if trainer.steps == 0 and world.first:
        snapshots.clear()
    report(skipped=trainer.steps)
    clock = checkpoint.SaveTimer(config.runtime.save_minutes if world.size == 1 else None)

    def save_in_time() -> None:
        if clock.rings():
            trainer.save(path, step.fingerprint)

    began = time.monotonic()
    tracker = create_tracker(config, run.name, fold) if world.first else NoTracker()
    for epoch in range(trainer.epoch, config.train.epochs):
        if trainer.should_stop():
            break
        row = trainer.train_epoch(epoch, report, save_in_time)
        tracker.log(row)
        if world.first:
            states = (part.state_dict() for part in (trainer.model, trainer.average.model))
            snapshots.take(epoch, trainer.architecture, *states)
            trainer.save(path, step.fingerprint)
        report(line=f"{title} epoch {epoch + 1}/{config.train.epochs}: {_sentence(row)}")
        if advice := hardly_falls(trainer.history, config.train):
            report(line=f"{title}: {advice}", last=True)
    world.gather(None)  # wait until the last snapshot is written
    state, kept = trainer.final_state(snapshots)
    trainer.average.model.load_state_dict(state)
    valid, loss = trainer.evaluate(data.valid)
    if not world.first:
        return
    if len(data.valid):
        check_trained(title, valid, loss, config.train)
    score = task.score(data.valid_truth, valid)
    for scored, scores in (
        (
            f"the {len(data.stop):,} early-stopping rows in every epoch, so the loss chose",
            trainer.stop_scores,
        ),
        (f"the {len(data.valid):,} held-out rows", [score]),
    ):
        if scores and not any(map(isfinite, scores)):
            report(line=f"{title}: {why_undefined(task.metric.name, scored)}", last=True)
    write_csv(step.folder / "history.csv", pd.DataFrame(trainer.history))
    save_model(step.folder / "model.safetensors", trainer.architecture, state)
    summary = {"metric": task.metric.name, "score": finite(score), "best_epoch": trainer.best.epoch + 1}
    summary |= {
        "kept": kept,
        "epochs": len(trainer.history),
        "train": len(rows),
        "stop": len(data.stop),
        "valid": len(data.valid),
    }
    write_json(step.folder / "score.json", {**summary, "seconds": round(time.monotonic() - began, 1)})
    write_parquet(step.folder / LEARNED, learned_rows(run, fold, data))
    step.done()
    for done in (path, path.with_name(path.name + ASIDE)):
        done.unlink(missing_ok=True)
    snapshots.clear(finished=True)
    tracker.finish({task.metric.name: score})
    report(
        line=f"{title}: {task.metric.name} {score_text(score)} on {len(data.valid):,} held-out rows"
        + optimism_note(optimism_flag(step.recipe["optimistic"])),
        last=True,
        skipped=(config.train.epochs - trainer.epoch) * trainer.steps_per_epoch,
    )


def check_trained(title: str, predictions: Any, loss: float, settings: Train) -> None:
    """Raise `UserError` if the trained model's loss or predictions on the held-out fold are not finite.
    Such a model is not saved, because no later stage could use it."""
    numbers = isinstance(predictions, np.ndarray)
    wrong = int((~np.isfinite(predictions.reshape(len(predictions), -1)).all(1)).sum()) if numbers else 0
    if wrong or not np.isfinite(loss):
        raise UserError(
            f"{title}: the trained network's loss on the held-out rows is {loss:g}, and {wrong} of its "
            f"predictions are no finite numbers; nothing is kept: look at the range of the targets, lower "
            f"train.lr={settings.lr:g} to {settings.lr / 10:g}, or set train.clip_grad=1.0"
        )


def learned_rows(run: Run, fold: int, data: FoldData) -> pd.DataFrame:
    """The rows whose labels this fold's model was trained on.

    Columns: `id` and `part` (train, stop or pseudo).
    """
    ids = read_folds(run.config)["id"]
    parts = {"train": ids.iloc[data.train_index].tolist(), "stop": ids.iloc[data.stop_index].tolist()}
    labels = run.pseudo_labels(fold)
    parts["pseudo"] = [] if labels is None else read_parquet(labels, ["id"])["id"].tolist()
    return pd.DataFrame(
        [(name, part) for part, names in parts.items() for name in names], columns=["id", "part"], dtype=str
    )


def _sentence(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch")
