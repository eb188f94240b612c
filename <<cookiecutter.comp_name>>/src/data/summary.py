"""The summary of stage 01 (summary.md): rows, targets, duplicates, image sizes and folds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.data.classes import ClassTargets, taken
from src.tasks.base import targets_in

_SHOWN = 12  # classes shown in a line or a table
# common ways to write a missing value in a table
MISSING = {"na", "n/a", "#n/a", "<na>", "nan", "null", "none", "nil", "-", "?"}


def summarize(
    table: pd.DataFrame,
    index: pd.DataFrame,
    alike: np.ndarray,
    encoded: np.ndarray | ClassTargets | None,
    description: dict[str, Any],
    notes: list[str],
) -> str:
    """A Markdown page about rows, targets, duplicates, sizes, file kinds and folds.

    `table` is folds.csv, `index` the image index, `alike` (N,) its duplicate groups, `encoded` (N, C) the
    targets (None for retrieval). `notes` are lines about the groups.
    """
    is_train = (index["set"] == "train").to_numpy()
    groups = pd.Series(alike[is_train]).value_counts()
    crossing = np.isin(alike[~is_train], alike[is_train]).sum()
    labels = targets_in(table).astype(str).agg(" ".join, axis=1)
    conflicts = labels.groupby(alike[is_train]).nunique()
    sizes = index[["width", "height"]]
    modes = ", ".join(f"{mode} {count:,}" for mode, count in index["mode"].value_counts().items())
    lines = [
        "# The data, as stage 01 found it",
        "",
        f"- rows: {is_train.sum():,} to learn from, {(~is_train).sum():,} to predict",
        *_targets(description),
        *_perhaps_missing(description),
        *notes,
        f"- duplicates: {int((groups - 1).clip(lower=0).sum()):,} training rows repeat another "
        f"(kept in one fold); {int(crossing):,} test rows look like a training row; "
        f"{int((conflicts > 1).sum()):,} groups disagree on the label",
        f"- sizes: {sizes['width'].min()}x{sizes['height'].min()} to "
        f"{sizes['width'].max()}x{sizes['height'].max()}, "
        f"median {sizes['width'].median():.0f}x{sizes['height'].median():.0f}",
        f"- kinds of files: {modes}",
        "",
        *_folds(table, encoded, description),
    ]
    return "\n".join(lines) + "\n"


def _targets(description: dict[str, Any]) -> list[str]:
    """Lines about the targets: rows per class, or the quantiles of the numbers."""
    if "quantiles" in description:
        spread = ", ".join(f"{name} {value:g}" for name, value in description["quantiles"].items())
        return [f"- targets: {', '.join(description['outputs'])}; {spread}"]
    counts = pd.Series(description["counts"])
    if "coverage" in description:
        shares = description["coverage"]
        shown = ", ".join(f"{n} in {counts[n]:,} images ({shares[n]:.2%} of all pixels)" for n in shares)
        return [f"- masks: {shown}"]
    if "new_label" in description:
        alone = int((counts == 1).sum())
        return [
            f"- {len(counts):,} identities with {counts.min()} to {counts.max()} images each, "
            f"{counts.median():g} at the median; {alone:,} with one alone"
        ]
    shown = ", ".join(f"{label} {count:,}" for label, count in counts.head(_SHOWN).items())
    more = f", … ({len(counts)} in all)" if len(counts) > _SHOWN else ""
    ratio = counts.max() / max(1, counts.min())
    return [
        f"- {len(counts)} classes: {shown}{more}",
        f"- imbalance: the largest class has {ratio:.1f} times the rows of the smallest",
    ]


def _perhaps_missing(description: dict[str, Any]) -> list[str]:
    """A warning line for each class whose name looks like a missing value."""
    counts = description.get("counts", {}) if "coverage" not in description else {}
    return [
        f"- the class {name!r} ({count:,} rows) may be a missing value: if these rows have no label, take "
        f"them out of a copy of the file, and name the copy in data.train_csv"
        for name, count in counts.items()
        if name.strip().lower() in MISSING
    ]


def _folds(
    table: pd.DataFrame, encoded: np.ndarray | ClassTargets | None, description: dict[str, Any]
) -> list[str]:
    """A table of the folds: row counts, and rows per class or the mean of each target."""
    if encoded is None:
        return _identities(table)
    names = description["outputs"][:_SHOWN]
    means = "quantiles" in description or "coverage" in description
    heads = [f"mean {name}" for name in names] if means else names
    lines = ["| fold | rows | " + " | ".join(heads) + " |", "|--:|--:|" + "--:|" * len(heads)]
    for fold in sorted(table["fold"].unique()):
        rows = taken(encoded, (table["fold"] == fold).to_numpy())
        values = (rows.mean(0) if means else rows.sum(0))[:_SHOWN]
        cells = [f"{value:.4g}" if means else f"{value:.0f}" for value in values]
        lines.append(f"| {fold} | {len(rows)} | " + " | ".join(cells) + " |")
    return lines


def _identities(table: pd.DataFrame) -> list[str]:
    """A table of the folds for retrieval: rows, identities, and new identities (those held out entirely)."""
    folds = table.groupby("target")["fold"].nunique()
    whole = table["target"].map(folds) == 1
    lines = ["| fold | rows | identities | of them new | rows of new ones |", "|--:|--:|--:|--:|--:|"]
    for fold, part in table.assign(whole=whole).groupby("fold"):
        new = part[part["whole"]]
        counts = (len(part), part["target"].nunique(), new["target"].nunique(), len(new))
        lines.append(f"| {fold} | " + " | ".join(map(str, counts)) + " |")
    return lines
