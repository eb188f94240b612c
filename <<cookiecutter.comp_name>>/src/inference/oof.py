"""Stage 03: out-of-fold (OOF) and test predictions of a run, fold by fold, then its tables and its CV.

- `oof.parquet`: id, fold, target, then the columns of `Task.write`; rows and order of train.csv.
- `test.parquet`: id, then these columns, averaged over folds; rows and order of test.csv.
- `metrics.json`: the metric, its value over all OOF rows (`cv`) and per fold, the standard error of the fold
  mean, and the score of the best constant prediction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from src.artifacts import Step, write_csv, write_json, write_parquet
from src.config import UserError
from src.data.images import open_images
from src.data.loaders import load_fold, read_folds
from src.inference.fold_tables import TABLES_BY_KIND, FoldPredictor
from src.inference.predict import NOT_FINITE
from src.inference.snapshots import load_models, mean_tables, model_files
from src.inference.worst_images import show_worst
from src.locks import alone
from src.models.sizes import check_sizes
from src.optimism import optimism_flag, optimism_note, why_optimistic
from src.reading import MAYBE, read_dataset, read_metrics, read_parquet
from src.report.outputs import describe_outputs
from src.scoring import against_constant, evaluate, no_better_than_constant, score_text, why_undefined
from src.steps import Run, predict_step, score_step
from src.tasks import create_task
from src.tasks.base import Task, targets_in
from src.training.worker_pool import run_in_parallel


def predict_run(run: Run, folds: tuple[int, ...]) -> None:
    """Bring the given folds' predictions up to date; if these are all folds, also the run's tables and CV."""
    steps = {fold: predict_step(run, fold) for fold in folds}
    stale = [step.folder for step in steps.values() if not step.fresh()]
    with alone(*stale):
        predict_folds(run, steps)
    if set(folds) != set(range(run.config.cv.n_folds)):
        for fold in folds:
            table = read_parquet(run.fold_folder(fold) / "oof.parquet")
            task, outputs = create_task(run.config), read_outputs(run)
            score = task.score(task.truth(targets_in(table), outputs), task.read(table, outputs))
            marked = optimism_note(optimism_flag(why_optimistic(run.config, run.labels_from, fold)))
            said = f"{task.metric.name} {score_text(score)} over {len(table):,} rows{marked}"
            print(f"{run.name} fold {fold}: {said}")
        return
    with alone(run.folder):
        step = score_step(run)
        if step.begin():
            score_run(run, step)
    metrics = read_metrics(run.folder, folds=list, standard_error=MAYBE)
    print(_describe(run.name, metrics))
    if metrics["cv"] is None:
        print(f"{run.name}: {why_undefined(metrics['metric'], 'all out-of-fold rows together')}")


def predict_folds(run: Run, steps: dict[int, Step]) -> None:
    """Predict the missing or stale folds in parallel."""
    todo = [fold for fold, step in steps.items() if step.begin()]
    if todo:
        store = open_images(run.config)
        folds_of = read_folds(run.config)["fold"]
        everything = len(folds_of) if run.config.task.name == "retrieval" else None  # the whole gallery
        rows = sum(
            ((everything or (folds_of == fold).sum()) + len(store.test))
            * len(model_files(steps[fold].folder))
            for fold in todo
        )
        jobs = [(run, fold, steps[fold]) for fold in todo]
        run_in_parallel(predict_fold, jobs, run.config, f"03 predict {run.name}", int(rows))


def predict_fold(run: Run, fold: int, step: Step, device: torch.device, report) -> None:
    """Write one fold's oof.parquet and test.parquet; for rankings also stop.parquet and blind.parquet."""
    config, task = run.config, create_task(run.config)
    data = load_fold(config, task, fold)
    answers, models = TABLES_BY_KIND[task.kind], load_models(step.folder)
    check_sizes(models[0], config.inference.scales or (), "inference.scales")
    try:
        said = [answers(FoldPredictor(config, task, data, model, device, report)) for model in models]
    except UserError as error:
        raise UserError(f"{run.name} fold {fold}: {error}") from None
    tables = mean_tables(said, task, data.outputs)
    for table in tables.values():
        check_predictions(table, task, data.outputs, f"{run.name} fold {fold}")
    for name, table in tables.items():
        write_parquet(step.folder / f"{name}.parquet", table)
    step.done()


def check_predictions(table: pd.DataFrame, task: Task, outputs: list[str], title: str) -> None:
    """Raise `UserError` if a prediction is not finite, since it could not be scored or stacked."""
    if task.kind != "numbers":  # maps and rankings are checked where they are made
        return
    bad = ~np.isfinite(task.read(table, outputs)).all(1)
    if bad.any():
        raise UserError(
            f"{title}: {NOT_FINITE}, in {int(bad.sum()):,} of {len(table):,} rows (the first is id "
            f"{table['id'].iloc[int(bad.argmax())]!r})"
        )


def score_run(run: Run, step: Step) -> None:
    """Join the folds' tables and write the run's CV."""
    task, outputs = create_task(run.config), read_outputs(run)
    folds = range(run.config.cv.n_folds)
    parts = pd.concat([read_parquet(run.fold_folder(k) / "oof.parquet") for k in folds]).set_index("id")
    order = read_folds(run.config)["id"]
    if len(parts) != len(order) or not parts.index.is_unique:
        raise UserError(
            f"{run.folder}: the folds' tables do not hold every training row once; "
            f"run `make oof EXP={run.config.name} ARGS=--force`"
        )
    oof = parts.loc[order].reset_index()
    tests = [read_parquet(run.fold_folder(k) / "test.parquet") for k in folds]
    mean = task.mean([task.read(table, outputs) for table in tests])
    write_parquet(run.folder / "oof.parquet", oof)
    write_parquet(run.folder / "test.parquet", tests[0][["id"]].join(task.write(mean, outputs)))
    why = next(filter(None, (why_optimistic(run.config, run.labels_from, k) for k in folds)), None)
    metrics = evaluate(task, oof, outputs)
    metrics |= against_constant(task, oof, outputs, metrics) | optimism_flag(why)
    write_json(run.folder / "metrics.json", metrics)
    step.done()
    look_back(run, task, oof, outputs)


def look_back(run: Run, task: Task, oof: pd.DataFrame, outputs: list[str]) -> None:
    """Write the files with which a competitor inspects a run: outputs.csv and worst.png."""
    truth, said = task.truth(targets_in(oof), outputs), task.read(oof, outputs)
    table = describe_outputs(task, truth, said, outputs)
    write_csv(run.folder / "outputs.csv", table)
    never = table.loc[(table["rows"] > 0) & (table["said"] == 0), "output"] if "rows" in table else []
    if len(never):
        shown = ", ".join(map(str, never[:8])) + (", ..." if len(never) > 8 else "")
        print(f"{run.name}: {len(never)} of {len(outputs)} outputs are never said ({shown}); see outputs.csv")
    show_worst(run, task, oof, outputs)


def _describe(name: str, metrics: dict[str, Any]) -> str:
    """One line with the run's CV, its standard error and its fold scores."""
    folds = " ".join("-" if score is None else f"{score:.4f}" for score in metrics["folds"])
    cv, error = ("-" if metrics[key] is None else f"{metrics[key]:.4f}" for key in ("cv", "standard_error"))
    return (
        f"{name}: CV {metrics['metric']} {cv} ± {error} over {metrics['rows']:,} rows (folds {folds})"
        f"{no_better_than_constant(metrics)}{optimism_note(metrics)}"
    )


def read_outputs(run: Run) -> list[str]:
    """The task's outputs as stage 01 determined them."""
    return read_dataset(run.config.root)["outputs"]
