"""Report of a pseudo-label round: its summary table, all classes, and every label with its confidence and
source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import write_csv, write_parquet
from src.data.classes import ClassTargets, targets_of
from src.data.loaders import read_folds
from src.optimism import optimism_note
from src.pseudo.select import hard_labels
from src.reading import read_parquet
from src.steps import Run
from src.tasks.base import Task, targets_in

_SHOWN = 10  # classes printed; all of them are in classes.csv


def labelled_shares(run: Run, task: Task, outputs: list[str]) -> dict[str, float]:
    """Class shares of the training rows, comparable with `select.label_shares` of a selection: the share of
    each class, of positives, or the mean."""
    targets = targets_of(task, targets_in(read_folds(run.config)), outputs)
    if task.stacking == "pairs":
        targets = ClassTargets.of(targets[:, 0], len(outputs))
    if isinstance(targets, ClassTargets):
        shares = targets.sum(0) / len(targets)
    else:
        shares = np.nanmean(targets.astype(np.float64), 0)
    return dict(zip(outputs, shares.round(4).tolist(), strict=True))


def round_table(row: dict[str, Any], metric: str) -> str:
    """Summary of a round in a few lines: selected rows, agreement with the round before, class shares before
    and after, estimated precision, CV, and verdict."""
    agree, right = row["agreement"], row["precision"]
    told = f"{row['selected']:,.0f} of {row['asked']:,} unlabelled rows a fold"
    told += f", {row['external']:,.0f} of them external" if row["external"] else ""
    told += "" if agree is None else f"; {agree:.1%} of those selected before too keep their label"
    lines = [f"{row['run']}: {row['rule']}", f"  selected    {told}", *_classes(row)]
    if right is not None:
        lines.append(f"  precision   {right:.1%} expected, by {row['precision_of']:,} out-of-fold labels")
    lines.append(f"  CV          {metric} {_plus_minus(row['cv'], row['standard_error'])}")
    if row["gain"] is not None:
        lines[-1] += f"; {_plus_minus(row['gain'], row['gain_error'], '+')} to the best so far"
    lines[-1] += optimism_note(row)
    return "\n".join([*lines, f"  {'kept' if row['kept'] else 'not kept'}: {row['why']}"])


def _classes(row: dict[str, Any]) -> list[str]:
    """Labelled and selected share of each class; if there are many, only those that changed most."""
    before, after, rows = row["labelled_share"], row["class_share"], row["class_rows"]
    names = list(after)
    if len(names) > _SHOWN:
        moved = sorted(names, key=lambda name: -abs(after[name] - before[name]))[:_SHOWN]
        names = [name for name in names if name in moved]
    cells = [[name[:12], f"{before[name]:.3g}", f"{after[name]:.3g}", f"{rows[name]:.0f}"] for name in names]
    titles = ("", "labelled", "selected", "rows a fold")
    widths = [max(map(len, cell)) for cell in cells]
    lines = [
        f"  {title:<11} " + "  ".join(c[i].rjust(w) for c, w in zip(cells, widths, strict=True))
        for i, title in enumerate(titles)
    ]
    more = len(after) - len(names)
    return [*lines, f"  {'':<11} {more} more classes that moved less are in classes.csv"] if more else lines


def _plus_minus(value: float | None, error: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:{sign}.4f}" + ("" if error is None else f" ± {error:.4f}")


def write_classes(folder: Path, row: dict[str, Any]) -> None:
    """Write `classes.csv`: each class with its share of the labelled and of the selected rows."""
    columns = {"labelled_share": "labelled_share", "selected_share": "class_share", "rows": "class_rows"}
    table = {"class": list(row["class_share"])}
    table |= {name: list(row[key].values()) for name, key in columns.items()}
    write_csv(folder / "classes.csv", pd.DataFrame(table))


def write_labels(run: Run, task: Task, outputs: list[str], folds: tuple[int, ...]) -> None:
    """Write `labels.parquet`: every label of a round (fold, id), its value as text, its confidence (a
    probability or the task's own measure), and the models it comes from."""
    parts = []
    for fold in folds:
        table = read_parquet(run.pseudo_labels(fold))
        labels = _as_text(hard_labels(table, task, outputs), task, outputs)
        part = pd.DataFrame({"fold": fold, "id": table["id"], "label": labels})
        part["confidence"] = table["confidence"].astype("float64")
        whose = "all folds" if run.config.pseudo.source == "ensemble" else f"fold {fold}"
        parts.append(part.assign(source=f"{run.labels_from} {whose}"))
    write_parquet(run.folder / "labels.parquet", pd.concat(parts, ignore_index=True))


def _as_text(told: np.ndarray, task: Task, outputs: list[str]) -> list[str]:
    """Labels as text: a class or identity by its name; labels and numbers as `name=value`, without unknown
    ones."""
    if task.stacking in ("classes", "pairs"):
        return [outputs[int(number)] for number in told[:, 0]]
    return [
        " ".join(f"{n}={v:g}" for n, v in zip(outputs, row, strict=True) if not np.isnan(v)) for row in told
    ]
