"""Stage 04: recursive pseudo-labelling (self-training) without leakage into CV.

Round r is a run of its own, `<name>-round<r>`. Its fold k is trained on the training rows of fold k and on
the test rows that fold k's own model of the round before predicts with confidence. The ensemble of all folds
would label better, but all of its other models were trained on fold k's rows. Their labels would come back as
confident pseudo-labels, and CV would be above chance on pure noise (docs/decisions.md of the template has the
figures). `pseudo.source=ensemble` does so all the same, for better labels, and its CV is marked as optimistic
wherever it is shown.

The rounds end when nothing is selected, when the selection equals that of the round before, or when a round's
CV does not beat the best so far by more than the standard error of the difference; such a round is not kept.
An optimistic CV cannot decide this: those rounds continue, and none is kept.
"""

from __future__ import annotations

from typing import Any

from src.artifacts import Step, write_json
from src.config import Config, UserError
from src.inference.oof import predict_run, read_outputs
from src.locks import alone
from src.pseudo.labels import label_round
from src.pseudo.outcome import cv_summary, first_row, write_outcome
from src.pseudo.precision import estimated_precision
from src.pseudo.predictions import predict_rows
from src.pseudo.report import labelled_shares, round_table, write_classes, write_labels
from src.pseudo.steps import pseudo_step
from src.pseudo.verdict import round_verdict
from src.reading import MAYBE, read_metrics, read_parquet
from src.steps import Run, round_of, run_of
from src.tasks import create_task
from src.tasks.base import Task
from src.training.launch import train_run


def label_recursively(config: Config) -> None:
    """Run all rounds, skip those that are up to date, and write which were kept to
    `runs/<name>/pseudo.json`."""
    step = pseudo_step(config)
    with alone(step.folder / "pseudo.json") as waited:
        if waited and step.fresh():
            print(step.up_to_date_line())
        else:
            _label_recursively(config, step)


def _label_recursively(config: Config, step: Step) -> None:
    task = create_task(config)
    best = read_metrics(run_of(config).folder, folds=list, standard_error=MAYBE)
    report = [first_row(config.name, best)]
    for number in range(1, rounds_of(config) + 1):
        run, before = round_of(config, number), round_of(config, number - 1)
        row = {"round": number, "run": run.name} | prepare_round(run, before, task)
        if (end := why_end(row, task, run.config.pseudo.threshold)) is not None:
            print(f"{run.name}: {end}; the rounds end here")
            break
        metrics = _train_round(run)
        row |= cv_summary(metrics) | round_verdict(metrics, best, task.metric.sign)
        report.append(row)
        write_json(run.folder / "round.json", row)
        write_classes(run.folder, row)
        print(round_table(row, task.metric.name))
        if not row["kept"] and not row.get("optimistic"):
            break
        best = metrics if row["kept"] else best
    write_outcome(step, task.metric.name, report)


def rounds_of(config: Config) -> int:
    """The number of rounds, `pseudo.rounds`; 0 if a code competition has no public test rows and no external
    images are configured."""
    tests = read_parquet(run_of(config).folder / "test.parquet", ["id"])
    if len(tests) or config.pseudo.external is not None:
        return config.pseudo.rounds
    print(
        f"04 {config.name}: no rows to label, for the public test set has none; pseudo.external names others"
    )
    return 0


def prepare_round(run: Run, before: Run, task: Task) -> dict[str, Any]:
    """Create a round's pseudo-labels with the models of the run `before`, and describe them."""
    folds, outputs = tuple(range(run.config.cv.n_folds)), read_outputs(run)
    if run.config.pseudo.calibrate and run.config.pseudo.source == "fold" and task.kind != "rankings":
        predict_rows(before, folds, "stop")
    if run.config.pseudo.external is not None:
        predict_rows(before, folds, "extra")
    row = label_round(run, task, folds)
    write_labels(run, task, outputs, folds)
    right, of = estimated_precision(run, task, outputs, folds, row["asked"])
    row |= {"precision": right, "precision_of": of, "rule": selection_rule(run, task)}
    return row | {"labelled_share": labelled_shares(run, task, outputs)}


def _train_round(run: Run) -> dict[str, Any]:
    """Train and predict a round; return its metrics."""
    folds = tuple(range(run.config.cv.n_folds))
    train_run(run, folds)
    predict_run(run, folds)
    return read_metrics(run.folder, folds=list, standard_error=MAYBE)


def why_end(row: dict[str, Any], task: Task, threshold: float) -> str | None:
    """The reason why a round's labels are not worth training on, or None."""
    if row["selected"] == 0:
        return f"no unlabelled row {'agrees with itself' if task.scaled else f'reaches {threshold}'}"
    return "the same rows with the same labels as the round before" if row["unchanged"] else None


def selection_rule(run: Run, task: Task) -> str:
    """Description of how a round's rows are selected, as text."""
    pseudo = run.config.pseudo
    words = [
        f"the {pseudo.quantile:.0%} whose views agree best" if task.scaled else f"from {pseudo.threshold}"
    ]
    words += ["calibrated"] if pseudo.calibrate or task.kind == "rankings" else []
    if pseudo.cap is not None:
        rows = f"{pseudo.cap:,} rows" if isinstance(pseudo.cap, int) else f"{pseudo.cap:.1%} of the rows"
        words += [f"at most {rows}" + ("" if task.stacking in ("values", "pixels") else " a class")]
    words += [] if pseudo.prior is None else [f"prior: {pseudo.prior}"]
    by = "all folds' models" if pseudo.source == "ensemble" else "its own model"
    return f"{', '.join(words)}; each fold labelled by {by} of {run.labels_from}"


def check_allowed(config: Config) -> None:
    """Check that the config allows stage 04. Raises `UserError` if it is limited to some folds, because one
    fold's labels are of no use to another, or if predictions are averaged as ranks, which are not
    probabilities."""
    if config.partial:
        raise UserError("04 works on all folds; leave fold= and folds= out")
    if config.inference.average == "rank" and config.pseudo.rounds:
        raise UserError(
            "04: with inference.average=rank a tenth of the rows is above 0.9 however unsure the model is; "
            "average by probability or logit, or set pseudo.rounds=0"
        )
