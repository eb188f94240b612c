"""Stage 04: recursive pseudo-labelling, honest by construction.

Round r is a run of its own, `<name>-round<r>`. Its fold k learns from the training rows of fold k and from
the test rows that fold k's own model of the round before was sure of. The ensemble of all folds would label
better, but four of its five models learned from fold k's rows: their labels would come back as confident
pseudo-labels (on pure noise such an OOF scores .66 AUC; this one .50). A round is kept when its CV beats the
best so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import read_json, write_json, write_parquet
from src.config import Config, UserError
from src.inference.oof import predict_run, read_outputs
from src.pseudo.select import agreement, same, select, shares
from src.steps import Run, pseudo_step, round_of, run_of, select_step, unlabelled
from src.tasks import create_task
from src.tasks.base import Task
from src.training.launch import train_run


def label_recursively(config: Config) -> None:
    """Run the rounds, each skipped where it is up to date, and write which were kept to
    `runs/<name>/pseudo.json`."""
    step, task = pseudo_step(config), create_task(config)
    folds = tuple(range(config.cv.n_folds))
    best = read_json(run_of(config).folder / "metrics.json")
    report = [
        {
            "round": 0,
            "run": config.name,
            "cv": best["cv"],
            "standard_error": best["standard_error"],
            "kept": True,
        }
    ]
    for number in range(1, config.pseudo.rounds + 1):
        run = round_of(config, number)
        row = {"round": number, "run": run.name} | label_round(run, task, folds)
        if row["selected"] == 0:
            enough = "agrees with itself" if task.scaled else f"reaches {config.pseudo.threshold}"
            print(f"{run.name}: no test row {enough}; the rounds end here")
            break
        if row["unchanged"]:
            print(f"{run.name}: the same rows with the same labels as the round before; the rounds end here")
            break
        train_run(run, folds)
        predict_run(run, folds)
        metrics = read_json(run.folder / "metrics.json")
        kept = metrics["cv"] is not None and task.metric.better(metrics["cv"], best["cv"])
        best = metrics if kept else best
        row |= {"cv": metrics["cv"], "standard_error": metrics["standard_error"], "kept": kept}
        report.append(row)
        write_json(run.folder / "round.json", row)
        print(sentence(row, task.metric.name))
    write_json(
        step.folder / "pseudo.json", {"metric": task.metric.name, "rounds": report, "best": best_run(report)}
    )
    step.done()


def label_round(run: Run, task: Task, folds: tuple[int, ...]) -> dict[str, Any]:
    """Select each fold's rows, and describe the selection: rows, share a class, agreement with the round
    before."""
    outputs = read_outputs(run)
    before = run.config.root / "runs" / str(run.labels_from)
    tables, earlier = [], []
    for fold in folds:
        step = select_step(run, fold)
        path = run.folder / step.outputs[0]
        if step.begin():
            said = unlabelled(run, fold)
            known = pd.read_parquet(said.with_name("stop.parquet")) if task.kind == "rankings" else None
            write_parquet(path, select(pd.read_parquet(said), task, outputs, run.config.pseudo, known))
            step.done()
        tables.append(pd.read_parquet(path))
        last = before / f"fold{fold}.pseudo.parquet"
        earlier.append(pd.read_parquet(last) if last.exists() else None)
    agree = [agreement(now, then, task, outputs) for now, then in zip(tables, earlier, strict=True)]
    agree = [value for value in agree if value is not None]
    unchanged = [same(now, then, task, outputs) for now, then in zip(tables, earlier, strict=True)]
    return {
        "selected": sum(len(table) for table in tables) / len(folds),
        "class_share": shares(tables, task, outputs),
        "agreement": float(np.mean(agree)) if agree else None,
        "unchanged": all(unchanged),
    }


def best_run(report: list[dict[str, Any]]) -> str:
    """The last run that was kept."""
    return [row["run"] for row in report if row["kept"]][-1]


def sentence(row: dict[str, Any], metric: str) -> str:
    """One line about a round, with the class shares that a bare threshold tends to collapse."""
    told = " ".join(f"{label}:{share:.2f}" for label, share in list(row["class_share"].items())[:12])
    verdict = "kept" if row["kept"] else "not kept: it does not beat the best CV so far"
    cv, error = ("-" if row[key] is None else f"{row[key]:.4f}" for key in ("cv", "standard_error"))
    return (
        f"{row['run']}: {row['selected']:.0f} pseudo-labels a fold ({told}), "
        f"CV {metric} {cv} ± {error}, {verdict}"
    )


def check_allowed(config: Config) -> None:
    """Stage 04 works on all folds: one fold's labels are of no use to another."""
    if config.partial:
        raise UserError("04 works on all folds; leave fold= and folds= out")
