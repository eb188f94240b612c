"""Which fold each training row belongs to: decided once, written to `folds.csv`, obeyed by every later stage.

The file is the truth and is never computed again elsewhere: the same seed gives other folds under another
scikit-learn. Besides `fold` it holds `stop`: of the rows that train fold k, those with `stop == k % parts`
only decide when to stop, so that a fold's own validation rows choose nothing and its score stays honest.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import Step, write_csv, write_json, write_text
from src.config import Config, CrossValidation, UserError
from src.data.tables import Tables
from src.tasks.base import Task

ALIKE = 6.0  # mean difference of two thumbnails, of 255: above JPEG noise, below two different photographs


def build_folds(step: Step, config: Config, tables: Tables, task: Task, cache: Path) -> None:
    """Write folds.csv, dataset.json and summary.md."""
    targets = tables.train[config.data.target]
    index = pd.read_parquet(cache / "index.parquet")
    alike = duplicate_groups(index, config.data.near_duplicates)
    of_train = alike[(index["set"] == "train").to_numpy()]
    groups = merge_groups(of_train, None if config.data.group is None else tables.train[config.data.group])
    strata = task.strata(targets)
    folds = assign(config.cv.kind, strata, groups, config.cv.n_folds, config.cv.seed)
    stop = assign(
        config.cv.kind, strata, groups, config.cv.stop_parts, config.cv.seed + 1, key="cv.stop_parts"
    )
    table = pd.DataFrame(
        {"id": tables.train[config.data.id], "fold": folds, "stop": stop, "group": groups, "target": targets}
    )
    write_csv(step.folder / "folds.csv", table)
    description = task.describe(targets)
    write_json(step.folder / "dataset.json", {"task": task.name, "n_folds": config.cv.n_folds, **description})
    summary = summarize(table, index, alike, description, task)
    write_text(step.folder / "summary.md", summary)
    step.done()
    print(summary)


def assign(
    kind: str, strata: np.ndarray, groups: np.ndarray, n: int, seed: int, key: str = "cv.n_folds"
) -> np.ndarray:
    """(N,) part numbers 0 to n-1 by scikit-learn's splitters; rows of one group share a part whatever the
    kind.

    Raises `UserError` naming `key` where there are too few groups for `n` parts.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    grouped = len(np.unique(groups)) < len(groups)
    n_groups = len(np.unique(groups))
    if n_groups < n:
        raise UserError(f"{key}={n}: there are only {n_groups} groups of rows to share out; lower it")
    balanced = (
        kind in ("stratified", "stratified_group") and np.unique(strata, return_counts=True)[1].max() >= n
    )
    if balanced:  # scikit-learn refuses to balance where no class has a row for every part
        splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(n, shuffle=True, random_state=seed)
    elif grouped:
        groups = np.random.default_rng(seed).permutation(groups.max() + 1)[
            groups
        ]  # GroupKFold takes no seed before 1.6
        splitter = GroupKFold(n)
    else:
        splitter = KFold(n, shuffle=True, random_state=seed)
    parts = np.full(len(strata), -1)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a class with fewer rows than parts: `check_rare` has spoken
        for part, (_, rows) in enumerate(splitter.split(np.zeros(len(strata)), strata, groups)):
            parts[rows] = part
    if len(np.unique(parts)) < n:
        raise UserError(f"{key}={n}: the groups are too few or too large to fill every fold; lower it")
    return parts


def check_rare(targets: pd.Series, cv: CrossValidation, path: Path) -> None:
    """Refuse a class that cannot stand in every fold, unless `cv.allow_rare`."""
    if cv.kind not in ("stratified", "stratified_group") or cv.allow_rare:
        return
    counts = targets.value_counts()
    rare = counts[counts < cv.n_folds]
    if len(rare):
        label, count = rare.index[-1], int(rare.iloc[-1])
        row = int((targets == label).to_numpy().argmax())
        raise UserError(
            f"{path}, row {row + 2}: class {label!r} has {count} row(s), fewer than cv.n_folds={cv.n_folds} "
            f"({len(rare)} such class(es)); lower cv.n_folds, merge the class, or set cv.allow_rare=true"
        )


def duplicate_groups(index: pd.DataFrame, bits: int) -> np.ndarray:
    """(N,) group numbers: rows share one when their files are byte-identical or near-duplicates, chains
    included.

    Near: perceptual hashes within `bits` of 64, and thumbnails that agree; -1 looks for neither kind.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(index)
    if bits < 0:
        return np.arange(n)
    first = pd.Series(np.arange(n)).groupby(index["content"].to_numpy()).transform("min").to_numpy()
    unique = np.flatnonzero(first == np.arange(n))
    hashes = index["phash"].to_numpy()[unique]
    thumbnails = np.stack([np.frombuffer(t, np.uint8) for t in index["thumbnail"].to_numpy()[unique]])
    left, right = near_pairs(hashes, bits)
    alike = _thumbnails_agree(thumbnails, left, right)
    left, right = left[alike], right[alike]
    rows = np.concatenate([np.arange(n), unique[left]])
    columns = np.concatenate([first, unique[right]])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _thumbnails_agree(thumbnails: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(pairs,) whether two thumbnails look the same; in blocks, for a thousand black frames make half a
    million pairs."""
    agree = np.zeros(len(left), dtype=bool)
    for start in range(0, len(left), 2**15):
        block = slice(start, start + 2**15)
        difference = np.abs(
            thumbnails[left[block]].astype(np.int16) - thumbnails[right[block]]
        )  # (pairs, pixels)
        agree[block] = difference.mean(1) <= ALIKE
    return agree


def near_pairs(hashes: np.ndarray, bits: int, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """All pairs i < j of 64-bit hashes that differ in at most `bits` bits; compared block against all (20k in
    2 s)."""
    left: list[np.ndarray] = [np.empty(0, np.int64)]
    right: list[np.ndarray] = [np.empty(0, np.int64)]
    block = max(1, min(block, 2**24 // max(1, len(hashes))))  # at most 128 MiB at a time, however many images
    for start in range(0, len(hashes), block):
        distance = np.bitwise_count(hashes[start : start + block, None] ^ hashes[None, start:])
        i, j = np.nonzero(distance <= bits)
        keep = i < j
        left.append(i[keep] + start)
        right.append(j[keep] + start)
    return np.concatenate(left), np.concatenate(right)


def merge_groups(alike: np.ndarray, column: pd.Series | None) -> np.ndarray:
    """(N,) groups 0, 1, ...: rows that share a duplicate group or a value of the group column, chains
    included."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(alike)
    keys = [pd.factorize(alike)[0]]
    if column is not None:
        keys.append(pd.factorize(column)[0])
    rows, columns, offset = [], [], n
    for key in keys:  # rows on one side, key values on the other
        rows.append(np.arange(n))
        columns.append(key + offset)
        offset += key.max() + 1
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(offset, offset))
    return pd.factorize(connected_components(graph, directed=False)[1][:n])[0]


def summarize(
    table: pd.DataFrame, index: pd.DataFrame, alike: np.ndarray, description: dict[str, Any], task: Task
) -> str:
    """A page in Markdown: rows, classes, imbalance, duplicates, sizes, kinds of files, folds."""
    is_train = (index["set"] == "train").to_numpy()
    counts = pd.Series(description["counts"])
    groups = pd.Series(alike[is_train]).value_counts()
    crossing = np.isin(alike[~is_train], alike[is_train]).sum()
    conflicts = table.assign(alike=alike[is_train]).groupby("alike")["target"].nunique()
    sizes = index[["width", "height"]]
    shown = ", ".join(f"{label} {count:,}" for label, count in counts.head(12).items())
    more = f", … ({len(counts)} in all)" if len(counts) > 12 else ""
    modes = ", ".join(f"{mode} {count:,}" for mode, count in index["mode"].value_counts().items())
    lines = [
        "# The data, as stage 01 found it",
        "",
        f"- rows: {is_train.sum():,} to learn from, {(~is_train).sum():,} to predict",
        f"- {task.name}, {len(counts)} classes: {shown}{more}",
        f"- imbalance: the largest class has {counts.max() / counts.min():.1f} times the rows of "
        f"the smallest",
        f"- duplicates: {int((groups - 1).clip(lower=0).sum()):,} training rows repeat another "
        f"(kept in one fold); {int(crossing):,} test rows look like a training row; "
        f"{int((conflicts > 1).sum()):,} groups disagree on the label",
        f"- sizes: {sizes['width'].min()}x{sizes['height'].min()} to "
        f"{sizes['width'].max()}x{sizes['height'].max()}, "
        f"median {sizes['width'].median():.0f}x{sizes['height'].median():.0f}",
        f"- kinds of files: {modes}",
        "",
        "| fold | rows | " + " | ".join(counts.index[:12]) + " |",
        "|--:|--:|" + "--:|" * min(12, len(counts)),
    ]
    by_fold = table.groupby(["fold", "target"]).size().unstack(fill_value=0)
    for fold, row in by_fold.iterrows():
        cells = " | ".join(str(row.get(label, 0)) for label in counts.index[:12])
        lines.append(f"| {fold} | {row.sum()} | {cells} |")
    return "\n".join(lines) + "\n"
