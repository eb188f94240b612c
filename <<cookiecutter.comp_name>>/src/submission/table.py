"""Stage 06: writes a prediction table as `submissions/<name>.csv`, checked against the sample submission
before it is stored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import Step, atomic, digest, source_digest, write_json
from src.config import Config, UserError
from src.data.submission_form import SampleForm, describe_sample
from src.data.tables import read_table
from src.decisions import Rule
from src.locks import alone
from src.optimism import optimism_note
from src.rawfiles import raw_tables
from src.reading import read_dataset, read_metrics, read_parquet
from src.submission.forms import check_cells, check_runs, fill_form
from src.tasks import create_task
from src.tasks.base import Task


def write_submission(step: Step, config: Config, source: Path) -> None:
    """Write the CSV in the row and column order of the sample, and a JSON with its provenance."""
    with alone(step.folder / step.outputs[0]) as waited:
        if waited and step.fresh():
            print(step.up_to_date_line())
        else:
            _write_submission(step, config, source)


def _write_submission(step: Step, config: Config, source: Path) -> None:
    task = create_task(config)
    dataset, metrics = read_dataset(config.root), read_metrics(source, rule=dict)
    sample_path = raw_tables(config)["sample"]
    sample = read_table(sample_path, config.kaggle.code_competition)
    predictions = read_parquet(source / "test.parquet")
    form = describe_sample(sample, config, dataset["outputs"], sample_path, predictions["id"].tolist())
    table = build(form, task, predictions, sample, dataset, Rule.from_json(metrics["rule"]), sample_path)
    check(form, task, table, sample, dataset, sample_path)
    path = step.folder / step.outputs[0]
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
        # Check the file as Kaggle will read it. A file that fails the check replaces none.
        written = read_table(temporary, may_be_empty=True)
        check(form, task, written, sample, dataset, sample_path)
        if form.kind == "rle":
            sizes = zip(predictions["height"].tolist(), predictions["width"].tolist(), strict=True)
            check_runs(form, written, dict(zip(predictions["id"], sizes, strict=True)))
    write_json(step.folder / step.outputs[1], provenance(step, config, source, metrics, len(table)))
    step.done()
    cv = "-" if metrics["cv"] is None else f"{metrics['cv']:.4f}"
    print(f"{path}: {len(table):,} rows, checked; CV {metrics['metric']} {cv}{optimism_note(metrics)}")


def build(
    form: SampleForm,
    task: Task,
    predictions: pd.DataFrame,
    sample: pd.DataFrame,
    dataset: dict[str, Any],
    rule: Rule,
    path: Path,
) -> pd.DataFrame:
    """The submission from the predictions, with the rows and columns of the sample. Raises `UserError` if an
    id has no prediction or a prediction is not finite."""
    outputs = dataset["outputs"]
    if form.kind in ("label", "columns"):
        task.check_sample(sample, form.id_column, outputs, path)
    if form.kind == "rle" and form.classes is None and len(outputs) > 1:
        raise UserError(
            f"{path}: {len(outputs)} classes have masks ({', '.join(outputs[:3])}, ...), but no row says "
            f"which it means; an id such as <image>_<class> or a column of the class should"
        )
    by_id = predictions.set_index("id")
    lost = [name for name in form.images if name not in by_id.index]
    if lost:
        raise UserError(
            f"{path}: no prediction for id {lost[0]!r} ({len(lost)} such id(s)); run `make folds oof` again"
        )
    values = task.read(by_id.loc[list(form.images)], outputs)
    if isinstance(values, np.ndarray):
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            row = int((~np.isfinite(values)).any(1).argmax())
            raise UserError(
                f"the prediction for id {form.images[row]!r} is not a number; train again with a lower "
                f"train.lr"
            )
    return fill_form(form, sample, task, values, rule, dataset)


def check(
    form: SampleForm,
    task: Task,
    table: pd.DataFrame,
    sample: pd.DataFrame,
    dataset: dict[str, Any],
    path: Path,
) -> None:
    """Raise `UserError` unless columns, row order, ids, values and ranges match the sample and the task."""
    if list(table.columns) != list(sample.columns):
        raise UserError(
            f"the submission's columns are {list(table.columns)}, {path} has {list(sample.columns)}"
        )
    if len(table) != len(sample):
        raise UserError(f"the submission has {len(table)} rows, {path} has {len(sample)}")
    keys = [form.id_column, *([form.class_column] if form.class_column else [])]
    twice = table.duplicated(keys).to_numpy()
    if twice.any():
        raise UserError(f"the submission holds id {table[form.id_column][twice].iloc[0]!r} twice")
    differs = (table[form.id_column].astype(str).to_numpy() != sample[form.id_column].to_numpy()).nonzero()[0]
    if len(differs):
        row = int(differs[0])
        raise UserError(
            f"row {row + 2} of the submission is {table[form.id_column].iloc[row]!r}, "
            f"{path} has {sample[form.id_column].iloc[row]!r}"
        )
    check_cells(form, task, table, dataset)


def provenance(
    step: Step, config: Config, source: Path, metrics: dict[str, Any], rows: int
) -> dict[str, Any]:
    """Provenance of a submission: enough to reproduce it and to identify it later."""
    return {
        "competition": config.competition.slug,
        "source": str(source.relative_to(config.root)),
        "metric": metrics["metric"],
        "cv": metrics["cv"],
        **{key: metrics[key] for key in ("optimistic", "why_optimistic") if key in metrics},
        "rows": rows,
        "sha256": digest(step.folder / step.outputs[0]),
        "predictions_sha256": step.recipe["predictions"],
        "folds_sha256": digest(config.root / "data" / "folds.csv"),
        "members": sorted(metrics.get("members", {})) or [source.name],
        "source_code": source_digest(),
        "git_commit": git_commit(config.root),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_commit(root: Path) -> str | None:
    """The project's git commit, with a `+` if there are uncommitted changes; None outside git or if git does
    not respond."""
    import subprocess

    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=60
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")
